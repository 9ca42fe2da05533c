"""First tokens of refusals that options ask for: those that the adapter knows, and those that the model itself uses.

They are known before anything else is computed, and take the place of what asks for them: whatever is scored by them
depends on the tokens, and not on how they were come by.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from steerkit.api.hookspecs import ArchitectureSpec, Options
from steerkit.api.tokens import FoundTokens, KnownTokens
from steerkit.artifacts.results import FirstTokenEntry, TokensEntry
from steerkit.errors import DataError, agreeing, counted
from steerkit.plan import Plan
from steerkit.plan.model import vocabulary_size
from steerkit.plan.types import PlannedTokens
from steerkit.stages.graph import Grapher, prompts_of
from steerkit.stages.model import adapter_of, plugin
from steerkit.stages.tasks import CompletionsTask, ModelUse, Task, TokensTask
from steerkit.stages.titles import BASELINE

if TYPE_CHECKING:
    from steerkit.api.evaluator import Evaluator, Score
    from steerkit.session.model import LiveModel


def token_tasks(plan: Plan, model: ModelUse) -> dict[str, tuple[Task, ...]]:
    """For each set of tokens that is to be found, as the plan has it, its tasks: the one that finds them last."""
    grapher = Grapher(plan, model)
    found: dict[str, tuple[Task, ...]] = {}
    use = grapher.use(None, 0, BASELINE)
    for key, one in plan.tokens.items():
        title = f"refusal tokens of {one.found_in}"
        written, inputs = [], {}
        asked = [("completions", one.found_in, one.needs.max_new_tokens)]
        asked += [] if one.against is None else [("other answers", one.against, 1)]
        for part, ref, length in asked:
            payload = CompletionsTask(model, use, prompts_of(plan.examples(ref)), length, str(ref))
            written.append(grapher.task(payload, {}, "tokens", title))
            inputs[part] = written[-1].key
        examples = plan.examples(one.found_in)
        finding = TokensTask(model, plugin(one.spec), one.options, examples, one.wanted.share, str(one.found_in))
        found[key] = (*written, grapher.task(finding, inputs, "tokens", title))
    return found


def find_tokens(
    payload: TokensTask, completions: Sequence[Sequence[int]], others: Sequence[Sequence[int]] | None, live: LiveModel
) -> dict[str, Any]:
    """First tokens of the completions that are refusals. See ``steerkit.api.tokens.FoundTokens`` for the rule.

    Args:
        payload: by what refusals are told.
        completions: token ids of the answers to what should be declined.
        others: token ids of other answers, of which the first counts; None where there are none to look at.
        live: the model.

    Returns:
        JSON values: ``tokens`` and ``left_out``, each a list of ``{id, text, refusals, others}``, and how many
        ``refusals`` there are of how many ``completions``.
    """
    from steerkit.api.evaluator import Outputs

    evaluator = cast("Evaluator", payload.evaluator.load()(payload.options, live.vocabulary))
    texts = [live.decode(list(row)) for row in completions]
    outputs = Outputs([one.text for one in payload.examples], completions=texts, examples=payload.examples)
    verdicts = cast("Sequence[Score]", evaluator.score(outputs))
    declined = [row[0] for row, verdict in zip(completions, verdicts, strict=True) if verdict.value == 1 and row]
    begun = Counter(declined)
    answered = Counter(row[0] for row in others or () if row)
    kept, left_out, covered = [], [], 0
    for token, number in sorted(begun.items(), key=lambda item: (-item[1], item[0])):
        row = {"id": token, "text": live.decode([token]), "refusals": number, "others": answered[token]}
        # As shares, without dividing: n of all refusals against m of all other answers.
        if others and answered[token] * len(declined) >= number * len(others):
            left_out.append(row)
        elif covered / len(declined) < payload.share:  # a quotient of counts is the same float as the share
            kept.append(row)
            covered += number
    return {
        "tokens": kept,
        "left_out": left_out,
        "refusals": len(declined),
        "completions": len(completions),
        "others": None if others is None else len(others),
    }


def with_tokens(
    plan: Plan, live: LiveModel, tasks: Mapping[str, Sequence[Task]], outputs: Mapping[str, bytes]
) -> tuple[Plan, list[TokensEntry]]:
    """A plan with tokens in the place of what asks for them, and what results say of them.

    Raises:
        DataError: where nothing was found, and where the adapter knows none of this model's.
    """
    entries = {key: _entry(plan.tokens[key], json.loads(outputs[listed[-1].key])) for key, listed in tasks.items()}
    by_wanted = {key: _require_some(plan.tokens[key], entry) for key, entry in entries.items()}
    known: list[TokensEntry] = []

    def filled(options: Options) -> Options:
        update: dict[str, tuple[int, ...]] = {}
        for name in type(options).model_fields:
            value = getattr(options, name)
            if isinstance(value, FoundTokens):
                update[name] = by_wanted[value.model_dump_json()]
            elif isinstance(value, KnownTokens):
                if not known:
                    known.append(known_tokens(cast(ArchitectureSpec, adapter_of(plan, live)), live))
                update[name] = tuple(one.id for one in known[0].tokens)
        return options.model_copy(update=update) if update else options

    searches = tuple(
        replace(one, scores=tuple(replace(score, options=filled(score.options)) for score in one.scores))
        for one in plan.searches
    )
    evaluations = tuple(replace(one, options=filled(one.options)) for one in plan.evaluations)
    filters = tuple(replace(one, options=filled(one.options)) for one in plan.filters)
    plan = replace(plan, searches=searches, evaluations=evaluations, filters=filters)
    return plan, [*entries.values(), *known]


def known_tokens(adapter: ArchitectureSpec, live: LiveModel) -> TokensEntry:
    """The refusal tokens that an adapter knows for a model, each found to be that text in its tokenizer.

    Raises:
        DataError: where it knows none for a vocabulary of this size, or a token is another text here.
    """
    size = vocabulary_size(live.facts.config)
    instead = "Write the tokens as a list, or where they are found: {found_in: harmful.train, against: harmless.train}."
    listed = adapter.refusal_tokens.get(size or 0)
    if listed is None:
        sizes = " and ".join(f"{number:,}" for number in adapter.refusal_tokens) or "none"
        raise DataError(
            f"Adapter {adapter.name} knows refusal tokens for vocabularies of {sizes}, and this model's has "
            f"{size or 0:,}. {instead}"
        )
    for token, text in listed.items():
        found = live.decode([token])
        if found.strip() != text:
            raise DataError(
                f"Adapter {adapter.name} knows token {token} as {text!r}, and this model's tokenizer has {found!r} "
                f"there: it is another tokenizer. {instead}"
            )
    tokens = tuple(FirstTokenEntry(id=token, text=text) for token, text in listed.items())
    return TokensEntry(how="known", by=adapter.name, tokens=tokens)


def _entry(one: PlannedTokens, found: Mapping[str, Any]) -> TokensEntry:
    return TokensEntry(
        how="found",
        by=one.spec.name,
        found_in=str(one.found_in),
        against=None if one.against is None else str(one.against),
        refusals=found["refusals"],
        completions=found["completions"],
        tokens=tuple(FirstTokenEntry(**row) for row in found["tokens"]),
        left_out=tuple(FirstTokenEntry(**row) for row in found["left_out"]),
    )


def _require_some(one: PlannedTokens, entry: TokensEntry) -> tuple[int, ...]:
    if entry.tokens:
        return tuple(token.id for token in entry.tokens)
    if not entry.refusals:
        raise DataError(
            f"No refusal tokens were found: {one.spec.name} counts none of the "
            f"{counted(entry.completions or 0, 'completion')} on "
            f"{one.found_in} as a refusal. The model may not decline these, or in other words: look at its "
            f"completions, and give {one.spec.name} its phrases under `by`, longer completions as max_new_tokens, or "
            "the tokens as a list."
        )
    begin = ", ".join(repr(token.text) for token in entry.left_out)
    raise DataError(
        f"No refusal tokens were found: the {counted(entry.refusals, 'refusal')} on {one.found_in} "
        f"{agreeing(entry.refusals, 'begins', 'begin')} with {begin}, which begin the answers to {one.against} as "
        "often. Leave `against` out, or give the tokens as a list."
    )
