"""The conditions of a run: the baseline, the recipe's, their controls, and which of them are run together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, cast

from steerkit.api.intervention import Gate, Intervention
from steerkit.catalog import implementation
from steerkit.errors import SteerkitError
from steerkit.plan import Plan, PlannedCondition
from steerkit.types import FROM_TOKEN

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.engine.measuring.evaluate import Evaluation
    from steerkit.session.model import LiveModel

BASELINE = "baseline"


@dataclass(frozen=True)
class Condition:
    """A condition to run: the baseline, one of the recipe's, or a control of one.

    Args:
        name: as records call it.
        kind: ``baseline``, ``intervention`` or ``control``.
        planned: what the recipe says; None for the baseline.
        interventions: ready to attach.
        of: the condition that a control stands beside.
    """

    name: str
    kind: str
    planned: PlannedCondition | None
    interventions: tuple[Intervention, ...]
    of: str | None = None


def conditions(plan: Plan, directions: Mapping[str, Direction]) -> list[Condition]:
    """The baseline, the recipe's conditions, and beside each its controls along random directions.

    A control's gates keep their own directions: it acts where the condition acts, along something else.

    Raises:
        SteerkitError: naming the condition, where a gate's direction can't decide anything.
    """
    found = [Condition(BASELINE, "baseline", None, ())]
    for planned in plan.conditions:
        built = _build(planned, directions, directions)
        found.append(Condition(planned.name, "intervention", planned, built))
        if not planned.control or not any(item.direction for item in planned.interventions):
            continue
        for number in range(1, plan.random_directions + 1):
            stand_ins = {name: random_like(one, plan.recipe.seed, number) for name, one in directions.items()}
            built = _build(planned, stand_ins, directions)
            found.append(Condition(f"{planned.name}/random-{number}", "control", planned, built, planned.name))
    return found


def _build(
    planned: PlannedCondition, directions: Mapping[str, Direction], deciding: Mapping[str, Direction]
) -> tuple[Intervention, ...]:
    """A condition's interventions along ``directions``, with gates on ``deciding`` ones."""
    found = []
    for item in planned.interventions:
        direction = None if item.direction is None else directions[item.direction]
        kind = cast("type[Intervention]", implementation(item.spec))
        built = kind(item.options, direction, item.sites, item.positions)
        # Set, not passed: a plugin's own __init__ needn't know of them.
        built.schedule = item.schedule
        if (gate := item.gate) is not None:
            try:
                built.gate = Gate(
                    deciding[gate.direction],
                    gate.threshold,
                    gate.side,
                    gate.site,
                    gate.at,
                    gate.positions,
                    gate.prepass,
                )
            except SteerkitError as error:
                raise type(error)(f"Condition {planned.name}: {error}") from None
        found.append(built)
    return tuple(found)


def random_like(direction: Direction, seed: int, number: int) -> Direction:
    """A random direction whose vectors have the same norms: what any direction of this size would do.

    One and the same for every condition, so that conditions can be compared.
    """
    import torch

    key = sha256(f"{seed}/{direction.name}/{number}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
    vectors = torch.randn(direction.vectors.shape, generator=generator, dtype=torch.float64)
    norms = direction.vectors.double().norm(dim=1, keepdim=True)
    vectors = vectors / vectors.norm(dim=1, keepdim=True) * norms
    return direction.with_vectors(vectors.float(), f"{direction.name}/random-{number}")


def require_possible(conditions: Sequence[Condition], evaluation: Evaluation, live: LiveModel) -> None:
    """Lower every condition, and place its positions in every prompt, before anything is measured.

    Raises:
        SteerkitError: naming the condition, where its sites, widths or positions don't fit model and prompts.
    """
    from steerkit.engine.lowering.lower import at_sites
    from steerkit.engine.sequence.positions import intervals

    prompts = [prompt for job in evaluation.jobs for prompt in evaluation.prompts(job.data)]
    frames = [batch.frame for batch in live.batched(prompts, "left", extra_tokens=1)]
    frames += [batch.frame for batch in live.batched(evaluation.raw_texts(), "right")]
    for condition in conditions:
        try:
            at_sites(condition.interventions, live.layout)
            gates = [item.gate for item in condition.interventions if item.gate is not None]
            named = {item.positions for item in condition.interventions}
            named |= {gate.positions for gate in gates if gate.at == "prompt"}
            for positions in (one for one in named if one.role != FROM_TOKEN):
                for frame in frames:
                    intervals(positions, frame)
        except SteerkitError as error:
            raise type(error)(f"Condition {condition.name}: {error}") from None


def groups(conditions: Sequence[Condition], evaluation: Evaluation) -> list[list[Condition]]:
    """Which conditions are run together, side by side in batches that one alone wouldn't fill.

    The baseline is alone, the others with those that make the same passes. All follows from plan, texts and the token
    budget, so that a run that continues has the groups that it began with.
    """
    alike: dict[tuple[str, bool], list[Condition]] = {}
    for condition in conditions:
        prepass = condition.planned is not None and condition.planned.has_prepass
        alike.setdefault((condition.kind, prepass), []).append(condition)
    found: list[list[Condition]] = []
    for (kind, _), members in alike.items():
        sizes = [1] if kind == "baseline" else evaluation.group_sizes(len(members), samples=kind != "control")
        for size in sizes:
            found.append(members[:size])
            members = members[size:]
    place = {condition.name: number for number, condition in enumerate(conditions)}
    return sorted(found, key=lambda group: place[group[0].name])


def name_group(group: Sequence[Condition]) -> str:
    """What the stage of a group is called."""
    return f"condition{'s' * (len(group) > 1)} {', '.join(condition.name for condition in group)}"


def announce(group: Sequence[Condition], done: int, total: int) -> str:
    """What is said when a group begins, ``done`` conditions of ``total`` being behind it."""
    last = f" to {done + len(group)}" if len(group) > 1 else ""
    kind, _, names = name_group(group).partition(" ")
    return f"{kind} {done + 1}{last} of {total}: {names}"
