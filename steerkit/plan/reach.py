"""What conditions can't touch, as far as a plan knows: said before a run, since its numbers would be 0 unexplained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from steerkit.api.hookspecs import Needs
from steerkit.plan.types import PlannedCondition, PlannedEvaluation, PlannedIntervention
from steerkit.sharing import greedy_tokens


def unreached(conditions: Iterable[PlannedCondition], evaluations: Sequence[PlannedEvaluation]) -> list[str]:
    """Sentences about conditions that edit nothing which an evaluator reads."""
    notes = []
    members: dict[tuple[str, ...], list[str]] = {}
    for condition in conditions:
        if not condition.interventions or not all(map(_generated_only, condition.interventions)):
            continue
        blind = tuple(item.name for item in evaluations if _reads_prompts_only(item.needs))
        if blind:
            name = condition.sweep or condition.name
            members.setdefault(blind, []).append(name)
    for blind, names in members.items():
        each = list(dict.fromkeys(names))
        many, reads = len(each) > 1, "read" if len(blind) > 1 else "reads"
        notes.append(
            f"Condition{'s' if many else ''} {', '.join(each)} edit{'' if many else 's'} generated tokens only, and "
            f"{', '.join(blind)} {reads} what follows prompts or given texts, so {'they' if many else 'it'} can't "
            "differ from the baseline there."
        )
    return notes


def _generated_only(item: PlannedIntervention) -> bool:
    by_prompt = item.gate is not None and item.gate.at == "prompt" and not item.gate.prepass
    return item.positions.role == "generated" or by_prompt


def _reads_prompts_only(needs: Needs) -> bool:
    """Whether no token that an evaluator looks at is a generated one."""
    return not (greedy_tokens(needs) or needs.samples or needs.baseline_completions)
