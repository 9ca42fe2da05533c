"""Recipe and catalog to a plan. Every name is resolved, and every problem is found before one is told."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Literal

from steerkit.api.hookspecs import EstimatorSpec, Needs, Options
from steerkit.catalog import Catalog, needs_of
from steerkit.errors import PluginError, RecipeError, SteerkitError, nearest
from steerkit.plan.conditions import ConditionResolver
from steerkit.plan.cost import Meter, meter_directions, meter_groups
from steerkit.plan.files import directions_fault
from steerkit.plan.looks import PlannedGroup, plan_groups, plan_separations
from steerkit.plan.names import KeyPart
from steerkit.plan.plan import Plan
from steerkit.plan.reach import asked_outside, unprompted, unreached
from steerkit.plan.tokens import token_counter, turns_shown
from steerkit.plan.turns import closed, lacking, unrendered, within_prompt, without_completion
from steerkit.plan.types import (
    Cost,
    PlannedDirection,
    PlannedEvaluation,
    PlannedLoading,
    PlannedMonitor,
    PlannedReport,
    PlannedSamples,
    PlannedSeparation,
)
from steerkit.recipe.data import DataRef, load_data
from steerkit.recipe.draft import EVALUATION_KEYS, OPTIONS, Draft
from steerkit.recipe.load import draft_recipe
from steerkit.recipe.problems import in_order
from steerkit.recipe.rows import describe_shared, identity, prompt_of
from steerkit.recipe.schema import DirectionRecipe, EvaluationRecipe, MonitorRecipe, Recipe
from steerkit.types import FROM_TOKEN, TURNS, Positions


def plan_recipe(
    source: str | os.PathLike[str], overrides: Iterable[str], catalog: Catalog, profile: str | None = None
) -> Plan:
    """Read a recipe and resolve every name of it.

    Args:
        source: a file, or the name of a shipped recipe.
        overrides: ``"a.b=value"`` each.
        catalog: the plugins that it may name.
        profile: name of one of its profiles, or None.

    Raises:
        RecipeError: with every problem: what can't be read doesn't hide what can't be resolved.
    """
    return make_plan(draft_recipe(source, overrides, profile), catalog)


def make_plan(recipe: Recipe | Draft, catalog: Catalog) -> Plan:
    """Resolve every name of a recipe.

    Args:
        recipe: a recipe, whose files are relative to the present folder, or a draft, which knows where it was written
            and whose problems are raised with those that are found here.
        catalog: the plugins that it may name.

    Raises:
        RecipeError: with every problem of the recipe, its data and its plugins' options.
    """
    return _Planner(recipe if isinstance(recipe, Draft) else Draft(recipe), catalog).plan()


class _Planner(ConditionResolver):
    def __init__(self, draft: Draft, catalog: Catalog) -> None:
        super().__init__(draft, catalog)
        self.estimated: dict[DataRef, None] = {}
        self.measured: dict[DataRef, tuple[KeyPart, ...]] = {}

    def plan(self) -> Plan:
        """Resolve all, then tell all."""
        architecture = self.architecture()
        template = self.template()
        section = self.recipe.model
        self.shown = turns_shown(self.model.folder, template, section.system_prompt, section.chat_template_arguments)
        self.data, problems = load_data(self.draft)
        self.problems += problems
        directions = tuple(filter(None, (self.direction(*item) for item in self.recipe.directions.items())))
        conditions = tuple(one for item in self.recipe.conditions.items() for one in self.condition(*item))
        evaluations = tuple(filter(None, (self.evaluation(*item) for item in enumerate(self.recipe.evaluate))))
        self.check_labels(evaluations)
        samples = self.samples()
        monitors = tuple(filter(None, (self.monitor(*item) for item in self.recipe.monitors.items())))
        self.check_monitors(evaluations)
        self.check_whole()
        self.check_rendered(template)
        self.notes += unreached(conditions, evaluations) + unprompted(conditions, evaluations, self.examples)
        controls = sum(one.n_controls(self.recipe.control.random_directions) for one in conditions)
        self.notes += asked_outside(evaluations, 1 + len(conditions) + controls)
        if self.problems:
            raise RecipeError(in_order(self.problems), str(self.draft.source or "recipe"))
        recipe = self.recipe
        random_directions = recipe.control.random_directions
        separations = plan_separations(directions, self.data) if recipe.report.separation else ()
        groups = plan_groups(conditions, random_directions, evaluations, samples, monitored=bool(monitors))
        return Plan(
            recipe=recipe,
            source=self.draft.source,
            report=self.report(),
            seed=recipe.seed,
            hash=self.hash(template, directions),
            model=self.model,
            loading=self.loading(template),
            architecture=architecture,
            adapters=self.catalog.only("architecture"),
            data=self.data,
            directions=directions,
            conditions=conditions,
            evaluations=evaluations,
            samples=samples,
            random_directions=random_directions,
            separated=recipe.report.separation,
            cost=self.cost(template, directions, separations, groups),
            plugins=self.plugins(),
            notes=tuple(dict.fromkeys(self.notes)),
            monitors=monitors,
            profiles=self.draft.profiles,
        )

    def report(self) -> PlannedReport:
        """What readers are told."""
        recipe, source = self.recipe, self.draft.source
        folder = None if source is None else source.resolve().parent
        return PlannedReport(recipe.name, recipe.report.title, recipe.description, self.draft.to_yaml(), folder)

    def loading(self, template: str) -> PlannedLoading:
        """How the model is loaded."""
        section = self.recipe.model
        return PlannedLoading(
            source=section.source,
            revision=section.revision,
            adapter=section.adapter,
            dtype=section.dtype,
            device=section.device,
            chat_template=template,
            system_prompt=section.system_prompt,
            chat_template_arguments=section.chat_template_arguments,
            trust_remote_code=section.trust_remote_code,
            accept_terms=section.accept_terms,
            batch_tokens=section.batch_tokens,
        )

    # Directions.

    def direction(self, name: str, written: DirectionRecipe) -> PlannedDirection | None:
        """One direction, or None where it has problems."""
        before = len(self.problems)
        path = ("directions", name)
        if written.file is not None:
            return self.saved(name, written, written.file)
        assert written.estimator is not None and written.site is not None
        spec = self.spec("estimator", written.estimator, *path, "estimator")
        options = self.options(spec, written.options, *path, "options") if spec else None
        classes = [
            self.ref(text or "", *path, key)
            for key, text in (("positive", written.positive), ("negative", written.negative))
        ]
        site = self.sites_of(written.site, *path, "site")
        positions = Positions.parse(written.positions)
        if positions.role == "generated":
            message = "prompts have no generated tokens; directions are read from prompts, or from given completions"
            self.complain(f"{message}: write completion", *path, "positions")
        self.estimated.update(dict.fromkeys(filter(None, classes)))
        self.check_classes(classes, positions, path)
        if len(self.problems) > before or spec is None or options is None:
            return None
        further = self.further_of(name, spec, options)
        if further is None:
            return None
        return PlannedDirection(name, spec, options, classes[0], classes[1], site, positions, further=further)

    def further_of(self, name: str, spec: EstimatorSpec, options: Options) -> tuple[str, ...] | None:
        """Names of the directions that an estimator gives beside its main one, or None where it can't be used here."""
        path = ("directions", name, "estimator")
        try:
            needs = needs_of(spec, options)
        except PluginError as error:
            self.complain(error, *path)
            return None
        if needs.sites is not None:
            self.notes.append(f"{spec.name} chooses its own sites for direction {name!r}: {', '.join(needs.sites)}.")
        outputs = ("positive", "negative") if needs.outputs == "labels" else needs.outputs
        further = tuple(f"{name}.{output}" for output in outputs)
        self.further.update(dict.fromkeys(further))
        return further

    def saved(self, name: str, written: DirectionRecipe, path: str) -> PlannedDirection | None:
        """A direction from a file, or None where the file can't be one, or says something else than the recipe."""
        from steerkit.api.format import Given
        from steerkit.artifacts.directions import saved_places

        format = written.format
        if format is not None and self.spec("format", format, "directions", name, "format") is None:
            return None
        site = None if written.site is None else self.sites_of(written.site, "directions", name, "site")
        said = "positions" in written.model_fields_set
        given = Given(site, Positions.parse(written.positions) if said else None)
        try:
            file = self.draft.path_of(path)
            fault = directions_fault(file, self.catalog, format) if file.is_file() else f"there is no file {file}"
        except SteerkitError as error:
            fault = str(error)
        if fault is None:
            places = saved_places(file, self.catalog, format)
            own = name if name in places else next(iter(places), name)
            fault = given.fault(own, places[own].sites, places[own].positions) if own in places else None
        if fault is None:
            return PlannedDirection(name, site=given.site, positions=given.positions, file=file, format=format)
        self.complain(fault, "directions", name, "file")
        return None

    def check_classes(self, classes: Sequence[DataRef | None], positions: Positions, path: tuple[KeyPart, ...]) -> None:
        """The two classes of a direction have no text in common, and have what is to be read."""
        for ref in dict.fromkeys(filter(None, classes)):
            self.check_turns(positions, ref, *path, "positions")
            fault = without_completion(ref, self.examples(ref)) if positions.role == "completion" else None
            if fault is not None:
                self.complain(f"{fault}: name a field, completion: <field>, or pairs of them", *path, "positions")
        positive, negative = classes
        if positive is None or negative is None:
            return
        whole = {identity(example) for example in self.examples(negative)}
        shared = [example for example in self.examples(positive) if identity(example) in whole]
        if shared:
            self.complain(f"{positive} and {negative} {describe_shared(shared)}", *path, "negative")
            return
        # Where only prompts are read, two completions of one prompt are one text, twice.
        prompts = {prompt_of(one) for one in self.examples(negative) if one.completion is not None}
        alike = [one for one in self.examples(positive) if one.completion is not None and prompt_of(one) in prompts]
        if alike and within_prompt(positions):
            message = f"{positions} are tokens of the prompt, and {positive} and {negative} differ in completions only"
            self.complain(f"{message}: {describe_shared(alike)}; write completion", *path, "positions")

    def check_turns(self, positions: Positions, ref: DataRef, *path: KeyPart) -> None:
        """Every example of a split has the turn that positions name."""
        fault = lacking(positions, ref, self.examples(ref), self.shown)
        if fault is not None:
            self.complain(f"'{positions}': {fault}", *path)

    # Evaluators and samples.

    def evaluation(self, index: int, written: EvaluationRecipe) -> PlannedEvaluation | None:
        """One evaluator, or None where it has problems."""
        path = ("evaluate", index)
        refs = [self.ref(text, *path, "data", at) for at, text in enumerate(written.data)]
        for at, ref in enumerate(refs):
            self.measure(ref, *path, "data", at)
        known = [ref for ref in refs if ref is not None]
        if len(set(written.data)) != len(written.data) or len(set(known)) != len(known):
            self.complain("one data reference stands here twice", *path, "data")
        if [item.name for item in self.recipe.evaluate].index(written.name) != index:
            self.complain(f"two evaluators are called {written.name!r}; give one `name: ...`", *path)
        spec = self.spec("evaluator", written.plugin, *path)
        options = (
            self.options(spec, written.options, *path, "options", beside=(*EVALUATION_KEYS, OPTIONS)) if spec else None
        )
        if spec is None or options is None:
            return None
        try:
            needs: object = spec.needs(options)
        except Exception as error:
            self.complain(f"{spec.name} failed to say what it needs: {type(error).__name__}: {error}", *path)
            return None
        if not isinstance(needs, Needs):
            what = type(needs).__name__
            raise PluginError(f"Evaluator {spec.name!r}: `needs` returned {what}, not steerkit.api.hookspecs.Needs.")
        if needs.next_token_logits or needs.max_new_tokens:
            for ref in known:
                self.check_open(ref, *path, "data")
        return PlannedEvaluation(written.name, spec, options, needs, tuple(known))

    def check_open(self, ref: DataRef, *path: KeyPart) -> None:
        """An answer can follow every conversation of a split."""
        fault = closed(ref, self.examples(ref))
        if fault is not None:
            self.complain(f"{fault}: they end with the assistant's turn; leave that out of what is answered", *path)

    def check_labels(self, evaluations: Iterable[PlannedEvaluation]) -> None:
        """Results hold each name once: no evaluator is called as a value is that another one derives."""
        names = [item.name for item in self.recipe.evaluate]
        taken = {name: name for name in names}
        for item in evaluations:
            for label in item.added:
                other = taken.setdefault(label, item.name)
                if other != item.name:
                    message = f"{item.name} adds {label!r} to the results, and so would {other}; give one `name: ...`"
                    self.complain(message, "evaluate", names.index(other))

    def samples(self) -> PlannedSamples | None:
        """The samples, or None."""
        written = self.recipe.report.samples
        if written is None:
            return None
        path = ("report", "samples")
        ref = self.ref(written.data, *path, "data")
        if ref is None:
            return None
        self.measure(ref, *path, "data")
        self.check_open(ref, *path, "data")
        there = len(self.examples(ref))
        if 0 < there < written.n:  # a data set without texts has a problem of its own
            self.complain(f"asks for {written.n} prompts; {ref} has {there}", *path, "n")
        return PlannedSamples(ref, written.n, written.max_new_tokens)

    def measure(self, ref: DataRef | None, *path: KeyPart) -> None:
        """Note that something is measured on some texts, and where that is said first."""
        if ref is not None:
            self.measured.setdefault(ref, path)

    # Monitors.

    def monitor(self, name: str, written: MonitorRecipe) -> PlannedMonitor | None:
        """One monitor, or None where it has problems."""
        path, before = ("monitors", name), len(self.problems)
        self.check_known(written.direction, path)
        sites = self.sites(written.sites, (*path, "sites"))
        self.check_monitored(written.direction, sites, path)
        positions = Positions.parse(written.positions)
        if positions.role == FROM_TOKEN:
            self.complain(f"{positions} can be steered, not read: write a role such as all", *path, "positions")
        if len(self.problems) > before:
            return None
        threshold = written.above if written.above is not None else written.below
        assert threshold is not None
        side: Literal["above", "below"] = "above" if written.above is not None else "below"
        return PlannedMonitor(name, written.direction, threshold, side, sites, positions)

    def check_monitors(self, evaluations: Sequence[PlannedEvaluation]) -> None:
        """Evaluators that score readings find their monitors, and monitors somebody who looks at them."""
        known, names = self.recipe.monitors, [item.name for item in self.recipe.evaluate]
        for item in evaluations:
            path = ("evaluate", names.index(item.name))
            if item.needs.monitors is True and not known:
                self.complain(f"{item.name} scores readings of monitors: add section `monitors`", *path)
            for name in () if isinstance(item.needs.monitors, bool) else item.needs.monitors:
                if name not in known and not self.draft.lost("monitors", name):
                    self.complain(f"unknown monitor {name!r}. {nearest(name, known, 'monitor')}", *path)
        if self.recipe.report.samples is None and not any(item.needs.monitors for item in evaluations):
            self.notes += [
                f"Monitor {name!r} is read by no evaluator, and there are no report.samples to show it."
                for name in known
            ]

    # All together.

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
        self.check_leaks()
        self.check_edited()
        used = {ref.dataset for ref in (*self.estimated, *self.measured)}
        self.notes += [f"Data set {name!r} is not used." for name in recipe.data if name not in used]
        listed = [item for one in recipe.conditions.values() for item in one.interventions]
        steering = {name for item in listed for name in item.directions}
        steering |= {item.gate.direction for item in listed if item.gate}
        steering |= {item.direction for item in recipe.monitors.values()}
        self.notes += [
            f"Direction {name!r} is not used by any condition{' or monitor' if recipe.monitors else ''}."
            for name in recipe.directions
            if not any(used == name or str(used).startswith(f"{name}.") for used in steering)
        ]

    def check_leaks(self) -> None:
        """No text that a direction is estimated from is measured on, unless the recipe says so by name."""
        seen = {prompt_of(example): ref for ref in self.estimated for example in self.examples(ref)}
        for ref, path in self.measured.items():
            shared = [example for example in self.examples(ref) if prompt_of(example) in seen]
            if shared and ref.part == "train":
                self.notes.append(f"{ref} is measured on, and directions are estimated from it: not held out.")
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
        for ref in {**self.estimated, **self.measured} if template == "none" else ():
            fault = unrendered(ref, self.examples(ref))
            if fault is not None:
                message = f"{fault}: that needs a chat template, and model.chat_template is none"
                self.complain(message, "data", ref.dataset)

    def check_edited(self) -> None:
        """Every example that is measured has the turns that interventions and gates name."""
        for name, condition in self.recipe.conditions.items():
            for index, item in enumerate(condition.interventions):
                path = ("conditions", name, "interventions", index)
                gate = item.gate.positions if item.gate is not None else None
                for text, where in ((item.positions, path), (gate, (*path, "gate"))):
                    positions = Positions.parse(text) if text is not None else None
                    for ref in self.measured if positions is not None and positions.role in TURNS else ():
                        assert positions is not None
                        self.check_turns(positions, ref, *where, "positions")

    def cost(
        self,
        template: str,
        directions: Sequence[PlannedDirection],
        separations: Sequence[PlannedSeparation],
        groups: Sequence[PlannedGroup],
    ) -> Cost:
        """What it takes."""
        section = self.recipe.model
        arguments = section.chat_template_arguments
        counter = partial(token_counter, self.model.folder, template, arguments=arguments)
        meter = Meter(
            self.data, counter(section.system_prompt), section.batch_tokens, cache(partial(counter, instead=True))
        )
        meter_directions(meter, directions, separations)
        meter_groups(meter, groups)
        return meter.cost()

    def hash(self, template: str, directions: Sequence[PlannedDirection]) -> str:
        """sha256 over all that the plan comes from."""
        files = {
            item.name: hashlib.sha256(item.file.read_bytes()).hexdigest()
            for item in directions
            if item.file is not None
        }
        # Files count by what they hold, wherever they are: only the model's weights are too large for that.
        recipe = self.draft.resolved()
        for data in recipe["data"].values():
            data["file"] = data["file"] is not None
        recipe["directions"].update(
            {name: {**recipe["directions"][name], "file": file} for name, file in files.items()}
        )
        recipe["model"]["chat_template"] = template
        parts = {
            "recipe": recipe,
            "data": {
                name: {part: [example.to_json() for example in rows] for part, rows in splits.items()}
                for name, splits in self.data.items()
            },
            "plugins": self.plugins(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def plugins(self) -> tuple[Mapping[str, str], ...]:
        """Kind, name, distribution and version of each plugin that the plan uses."""
        entries = [self.catalog.entry(kind, name) for kind, name in sorted(self.used)]
        return tuple(
            {
                "kind": entry.kind,
                "name": entry.name,
                "distribution": entry.origin.distribution,
                "version": entry.origin.version,
            }
            for entry in entries
        )
