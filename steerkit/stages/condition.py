"""The conditions of a run: the baseline, the recipe's, and beside each its own controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from steerkit.api.intervention import Gate, Intervention
from steerkit.catalog import implementation
from steerkit.errors import SteerkitError
from steerkit.plan import Plan, PlannedCondition
from steerkit.stages.graph import condition_names
from steerkit.types import FROM_TOKEN

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.engine.prompts.chat import Rendered
    from steerkit.session.model import LiveModel

ConditionKind: TypeAlias = Literal["baseline", "intervention", "control"]


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
    kind: ConditionKind
    planned: PlannedCondition | None
    interventions: tuple[Intervention, ...]
    of: str | None = None


def conditions(plan: Plan, directions: Mapping[str, Direction]) -> list[Condition]:
    """The baseline, the recipe's conditions, and behind each its controls along random directions.

    Raises:
        SteerkitError: naming the condition, where a gate's direction can't decide anything.
    """
    found: list[Condition] = []
    for group in plan.groups:
        names = condition_names(group)
        steered = steer_group(group.condition, group.controls, plan.seed, directions, names[0])
        if group.condition is None:
            found.append(Condition(names[0], "baseline", None, ()))
            continue
        found.append(Condition(names[0], "intervention", group.condition, steered[0]))
        found += [
            Condition(name, "control", group.condition, built, names[0])
            for name, built in zip(names[1:], steered[1:], strict=True)
        ]
    return found


def steer_group(
    condition: PlannedCondition | None, controls: int, seed: int, directions: Mapping[str, Direction], name: str
) -> list[tuple[Intervention, ...]]:
    """The interventions of a condition, then of each of its controls. The baseline has none.

    A control's gates keep their own directions: it acts where the condition acts, along something else.

    Raises:
        SteerkitError: naming the condition, where a gate's direction can't decide anything.
    """
    if condition is None:
        return [()]
    built = [_build(condition, directions, directions, name)]
    for number in range(1, controls + 1):
        stand_ins = {one: random_like(directions[one], seed, number) for one in condition.steering}
        built.append(_build(condition, stand_ins, directions, name))
    return built


def _build(
    planned: PlannedCondition, directions: Mapping[str, Direction], deciding: Mapping[str, Direction], name: str
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
                raise type(error)(f"Condition {name}: {error}") from None
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


def require_possible(conditions: Sequence[Condition], plan: Plan, live: LiveModel) -> None:
    """Build every evaluator, lower every condition, and place its positions in every prompt, before anything is
    measured.

    Raises:
        SteerkitError: naming the condition, where its sites, widths or positions don't fit model and prompts.
    """
    from steerkit.engine.lowering.lower import at_sites
    from steerkit.engine.sequence.positions import intervals

    frames = [batch.frame for batch in live.batched(_read(plan, live.chat.render, raw=False), "left", extra_tokens=1)]
    frames += [batch.frame for batch in live.batched(_read(plan, live.chat.render_text, raw=True), "right")]
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


def _read(plan: Plan, render: Callable[[str], Rendered], *, raw: bool) -> list[Rendered]:
    """What the plan's looks read: prompts, or texts as they are."""
    looks = [look for group in plan.groups for look in group.looks]
    refs = dict.fromkeys(look.data for look in looks if (look.kind == "along" and not look.new_tokens) == raw)
    return [render(text) for ref in refs for text in plan.texts(ref)]
