"""What no section of a recipe can see by itself: leaks between data, what nobody uses, and turns that data lack."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.errors import agreeing, counted
from steerkit.plan.completions import CompletionsResolver
from steerkit.plan.model import known_special_tokens
from steerkit.plan.names import KeyPart
from steerkit.plan.planned.conditions import PlannedCondition
from steerkit.plan.reach import asked_outside, read_whole, unprompted, unreached
from steerkit.plan.tokens import prefix_fault
from steerkit.plan.turns import OF_TURNS, unrendered
from steerkit.plan.types import PlannedEvaluation
from steerkit.recipe.data import DataRef
from steerkit.recipe.rows import describe_shared, prompt_of
from steerkit.templates import opened
from steerkit.types import Example, Positions
from steerkit.types.special_tokens import SpecialTexts, prompt_notes, special_notes, system_prompts


class RecipeResolver(CompletionsResolver):
    """Resolves all sections, and looks at them together."""

    def check_together(
        self, template: str, conditions: Sequence[PlannedCondition], evaluations: Sequence[PlannedEvaluation]
    ) -> None:
        """Everything that takes several sections to see."""
        self.check_labels(evaluations)
        self.check_monitors(evaluations)
        self.check_whole()
        self.check_rendered(template)
        self.check_prefixes(template)
        self.check_special_tokens(template)
        self.check_plain(evaluations)
        self.notes += unreached(conditions, evaluations, self.answered) + unprompted(
            conditions, evaluations, self.answered
        )
        self.notes += read_whole(evaluations, self.given)
        self.notes += asked_outside(evaluations, conditions, self.recipe.control.random_directions)
        self.check_lacks(evaluations)
        self.check_lengths(evaluations)

    def check_whole(self) -> None:
        """What no section can see by itself: whether anything is measured, on what, and what nobody uses."""
        recipe = self.recipe
        measures = recipe.evaluate or recipe.report.samples
        if not measures and not (self.draft.lost_within("evaluate") or self.draft.lost_within("report")):
            if recipe.conditions:
                message = "nothing is measured: conditions need `evaluate`, or `report: {samples: ...}`"
                self.complain(message, "conditions")
            elif not (
                recipe.directions or self.draft.lost_within("directions") or self.draft.lost_within("conditions")
            ):
                self.complain("nothing to do: add directions, conditions and evaluate, or report.samples")
        self.check_controls()
        self.check_leaks()
        self.check_edited()
        used = {ref.dataset for ref in (*self.estimated, *self.measured, *self.compared, *self.completed)}
        used |= {name for one in recipe.data.values() for name in (one.of or {}).values()}
        used |= {one.calibrate.data.partition(".")[0] for one in recipe.monitors.values() if one.calibrate is not None}
        self.notes += [f"Data set {name!r} is not used." for name in recipe.data if name not in used]
        listed = [item for one in recipe.conditions.values() for item in one.interventions]
        steering = {name for item in listed for name in item.directions}
        steering |= {item.gate.direction for item in listed if item.gate}
        steering |= {item.direction for item in recipe.monitors.values()}
        steering |= {item.direction for item in recipe.suffixes.values()}
        steering |= {name for item in recipe.search.values() for name in item.directions}
        self.notes += [
            f"Direction {name!r} is not used by any condition{' or monitor' if recipe.monitors else ''}."
            for name in (*recipe.directions, *recipe.search)
            if not any(used == name or str(used).startswith(f"{name}.") for used in steering)
        ]

    def check_lengths(self, evaluations: Sequence[PlannedEvaluation]) -> None:
        """No answer is asked for that alone is longer than what the model reads."""
        recipe, context = self.recipe, self.model.context
        at = {item.name: index for index, item in enumerate(recipe.evaluate)}
        wanted: list[tuple[int, tuple[KeyPart, ...]]] = [
            (one.needs.max_new_tokens, ("evaluate", at[one.name])) for one in evaluations
        ]
        if recipe.report.samples is not None:
            wanted.append((recipe.report.samples.max_new_tokens, ("report", "samples", "max_new_tokens")))
        for name, data in recipe.data.items():
            if data.completions is not None:
                wanted.append((data.completions.max_new_tokens, ("data", name, "completions", "max_new_tokens")))
        for tokens, path in wanted:
            if context is not None and tokens >= context:
                message = (
                    f"{counted(tokens, 'new token')} {agreeing(tokens, 'leaves', 'leave')} no room for a "
                    f"prompt: the model reads {context:,} in all"
                )
                self.complain(message, *path)

    def check_controls(self) -> None:
        """Values beside which controls are asked for are values of some sweep."""
        at = self.recipe.control.at
        swept = {
            value for one in self.recipe.conditions.values() for value in next(iter((one.sweep or {}).values()), ())
        }
        for index, value in enumerate(at if isinstance(at, tuple) else ()):
            if value not in swept and not self.draft.lost_within("conditions"):
                self.complain(f"no condition sweeps over {value:g}", "control", "at", index)

    def check_leaks(self) -> None:
        """No text that a direction is estimated from is measured on, unless the recipe says so by name."""
        seen = {prompt_of(example): ref for ref in self.estimated for example in self.examples(ref)}
        for ref, path in self.measured.items():
            shared = [example for example in self.examples(ref) if prompt_of(example) in seen]
            if shared and ref.part == "train":
                self.tell_not_held_out(f"{ref} is measured on, and directions are estimated from it: not held out.")
            elif shared:
                source = seen[prompt_of(shared[0])]
                advice = "split the data set, and measure on another part" if source == ref else "remove them from one"
                self.complain(
                    f"directions are estimated from {source}, and it must not be measured on the same texts: "
                    f"{source} and {ref} {describe_shared(shared)}; {advice}",
                    *path,
                )

    def check_rendered(self, template: str) -> None:
        """Without a chat template there are texts alone."""
        for ref in {**self.estimated, **self.measured, **self.compared} if template == "none" else ():
            fault = unrendered(ref, self.examples(ref))
            if fault is not None:
                message = f"{fault}: that needs a chat template, and model.chat_template is none"
                self.complain(message, "data", ref.dataset)

    def check_prefixes(self, template: str) -> None:
        """An answer can be made to begin where the chat template leaves its turn open."""
        section = self.recipe.model
        fault = prefix_fault(self.model.folder, template, section.system_prompt, section.chat_template_arguments)
        for name, splits in self.data.items():
            begun = [one for rows in splits.values() for one in rows if one.answer_prefix is not None]
            told = fault(begun[0]) if begun else None
            if told is not None:
                own = self.recipe.data[name].answer_prefix is not None
                self.complain(told, *(("data", name, "answer_prefix") if own else ("model", "answer_prefix")))
                return

    def check_special_tokens(self, template: str) -> None:
        """What somebody says may hold what the model reads as a special token; raw text is taken as it is meant."""
        how = self.recipe.model.special_tokens_in_text
        names = known_special_tokens(self.model)
        if names is None:
            return
        texts = SpecialTexts(names)
        for name, splits in self.data.items() if how == "error" else ():
            held = [texts.of_example(one) for rows in splits.values() for one in rows]
            first = next((tokens[0] for tokens in held if tokens), None)
            if first is not None:
                n = sum(map(bool, held))
                self.complain(
                    f"{n} of {counted(len(held), 'example')} {agreeing(n, 'holds', 'hold')} special tokens of the "
                    f"model's, such as {first}, and model.special_tokens_in_text is error: take them out",
                    *("data", name),
                )
        of_conditions = {name: one.system_prompt for name, one in self.recipe.conditions.items()}
        given: dict[tuple[str, ...], str | None] = {("model",): self.recipe.model.system_prompt}
        given |= {("conditions", name): prompt for name, prompt in of_conditions.items()}
        for where, prompt in given.items() if how == "error" else ():
            found = texts.within(prompt or "")
            if found:
                self.complain(
                    f"it holds {found[0]}, a special token of the model's, and model.special_tokens_in_text is error: "
                    "take it out",
                    *where,
                    "system_prompt",
                )
        if template != "none":
            self.notes += special_notes({name: splits.values() for name, splits in self.data.items()}, names, how)
            self.notes += prompt_notes(system_prompts(self.recipe.model.system_prompt, of_conditions), names, how)

    def given(self, ref: DataRef) -> Sequence[Example]:
        """The examples of a split, but where the run will write what is read of them."""
        return () if self.recipe.data[ref.dataset].completions is not None else self.examples(ref)

    def answered(self, ref: DataRef) -> bool:
        """Whether any example of a split holds an answer, given or yet to be written."""
        given = self.given(ref)
        return not given or any(opened(one).completion is not None for one in given)

    def check_plain(self, evaluations: Sequence[PlannedEvaluation]) -> None:
        """What is read as plain text, without a chat template, has no turns that an intervention could name."""
        plain = {
            ref: item.name
            for item in evaluations
            if item.needs.sequence_logits and not item.needs.baseline_completions
            for ref in item.data
            if any(one.is_plain for one in self.given(ref))
        }
        for name, condition in self.recipe.conditions.items():
            for index, item in enumerate(condition.interventions):
                path = ("conditions", name, "interventions", index)
                gate = item.gate.positions if item.gate is not None else None
                for text, where in ((item.positions, path), (gate, (*path, "gate"))):
                    if text is None or Positions.parse(text).role not in OF_TURNS:
                        continue
                    for ref, reader in plain.items():
                        self.complain(
                            f"'{text}': {reader} reads the texts of {ref} as they are, without the chat template, so "
                            "no token of theirs is a turn's: name positions that every text has, such as all, or "
                            f"give {reader} answers (a completion, or a conversation that ends with one)",
                            *where,
                            "positions",
                        )

    def check_edited(self) -> None:
        """Every example that is measured has the turns that interventions and gates name."""
        for name, condition in self.recipe.conditions.items():
            for index, item in enumerate(condition.interventions):
                path = ("conditions", name, "interventions", index)
                gate = item.gate.positions if item.gate is not None else None
                for text, where in ((item.positions, path), (gate, (*path, "gate"))):
                    positions = Positions.parse(text) if text is not None else None
                    for ref in self.measured if positions is not None and positions.role in OF_TURNS else ():
                        assert positions is not None
                        self.check_turns(positions, ref, *where, "positions")
