"""The conditions of a run: the baseline, the recipe's, and beside each its own controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from steerkit.api.hookspecs import Options
from steerkit.api.intervention import Gate, Intervention, Placement
from steerkit.api.monitor import Monitor
from steerkit.catalog import implementation
from steerkit.errors import AttachError, DirectionError, SteerkitError
from steerkit.plan import Plan, PlannedCondition, PlannedMonitor
from steerkit.plan.planned.conditions import PlannedIntervention
from steerkit.stages.titles import condition_names
from steerkit.templates import opened
from steerkit.types import FROM_TOKEN, Example, Site, resolve_sites

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.engine.lowering.edits import Mode
    from steerkit.engine.measuring.evaluate import Steered
    from steerkit.engine.prompts.chat import ChatFormat, Rendered
    from steerkit.engine.sequence.positions import Frame
    from steerkit.session.model import LiveModel

ConditionKind: TypeAlias = Literal["baseline", "intervention", "control"]


@dataclass(frozen=True)
class Condition:
    """A condition to run: the baseline, one of the recipe's, or a control of one.

    Args:
        name: as records call it.
        kind: ``baseline``, ``intervention`` or ``control``.
        planned: what the recipe says; None for the baseline.
        placements: its interventions, ready to attach.
        of: the condition that a control stands beside.
    """

    name: str
    kind: ConditionKind
    planned: PlannedCondition | None
    placements: tuple[Placement, ...]
    of: str | None = None

    @property
    def system_prompt(self) -> str | None:
        """What takes the place of the recipe's system prompt under it, or None."""
        return None if self.planned is None else self.planned.system_prompt

    @property
    def mode(self) -> Mode:
        """How its interventions are lowered."""
        return "auto" if self.planned is None else self.planned.mode


Drawn: TypeAlias = dict[tuple[str, int], "Direction"]
"""Random stand-ins by the direction that they stand for, and their number."""


def conditions(plan: Plan, directions: Mapping[str, Direction]) -> list[Condition]:
    """The baseline, the recipe's conditions, and behind each its controls along random directions.

    Raises:
        SteerkitError: naming the condition, where a gate's direction can't decide anything.
    """
    found: list[Condition] = []
    drawn: Drawn = {}
    for group in plan.groups:
        names = condition_names(group)
        steered = steer_group(group.condition, group.controls, plan.seed, directions, names[0], drawn)
        if group.condition is None:
            found.append(Condition(names[0], "baseline", None, ()))
            continue
        found.append(Condition(names[0], "intervention", group.condition, steered[0].placements))
        found += [
            Condition(name, "control", group.condition, built.placements, names[0])
            for name, built in zip(names[1:], steered[1:], strict=True)
        ]
    return found


def steer_group(
    condition: PlannedCondition | None,
    controls: int,
    seed: int,
    directions: Mapping[str, Direction],
    name: str,
    drawn: Drawn | None = None,
) -> list[Steered]:
    """How a condition steers, then each of its controls. The baseline does nothing.

    A control's gates keep their own directions: it acts where the condition acts, along something else.

    Args:
        condition: the condition; None for the baseline.
        controls: how many controls stand beside it.
        seed: of their random directions.
        directions: those that it uses, by name.
        name: as messages call it.
        drawn: random directions that were drawn already; those that are drawn here are added.

    Raises:
        SteerkitError: naming the condition, where a gate's direction can't decide anything.
    """
    from steerkit.engine.measuring.evaluate import Steered

    if condition is None:
        return [Steered()]
    drawn = {} if drawn is None else drawn
    built = _build(condition, directions, name)
    listed = [built]
    for number in range(1, controls + 1):
        for used in condition.steering:
            if (used, number) not in drawn:
                drawn[used, number] = random_like(directions[used], seed, number)
        stand_ins = {used: drawn[used, number] for used in condition.steering}
        listed.append(tuple(placement.with_directions(stand_ins) for placement in built))
    return [Steered(placements, condition.system_prompt, condition.mode) for placements in listed]


def _build(planned: PlannedCondition, directions: Mapping[str, Direction], name: str) -> tuple[Placement, ...]:
    """A condition's interventions along its directions."""
    try:
        return tuple(_place(item, directions) for item in planned.interventions)
    except SteerkitError as error:
        raise type(error)(f"Condition {name}: {error}") from None


def _place(planned: PlannedIntervention, directions: Mapping[str, Direction]) -> Placement:
    kind = cast("type[Intervention]", implementation(planned.spec))
    options = planned.options
    if planned.chosen:
        options = with_coefficient(planned, chosen_coefficient(directions[planned.directions[0]]))
    made = kind(options, tuple(directions[name] for name in planned.directions))
    gate = None
    if (one := planned.gate) is not None:
        decides = directions[one.direction]
        gate = Gate(decides, one.threshold, one.side, one.site, one.at, one.positions, one.prepass)
    return Placement(made, planned.sites, planned.positions, planned.schedule, gate, called=planned.spec.name)


def place_along(planned: PlannedIntervention, direction: Direction, coefficient: float | None = None) -> Placement:
    """An intervention along one direction, whatever the plan calls it; with a coefficient, where it has one at all."""
    if coefficient is not None and planned.spec.additive:
        planned = replace(planned, options=with_coefficient(planned, coefficient))
    return _place(planned, dict.fromkeys(planned.directions, direction))


def with_coefficient(planned: PlannedIntervention, coefficient: float) -> Options:
    """Options with another coefficient of what is added, validated as the plugin does."""
    options = planned.options
    given = {name: getattr(options, name) for name in options.model_fields_set}
    return type(options)(**{**given, planned.spec.additive: coefficient})


def chosen_coefficient(direction: Direction) -> float:
    """The coefficient that a search chose with a direction.

    Raises:
        DirectionError: where it chose none.
    """
    told = direction.provenance.get("search", {}).get("coefficient")
    if not isinstance(told, (int, float)):
        raise DirectionError(
            f"no search chose a coefficient for direction {direction.name!r}: write a number, or give its search "
            "`coefficients: [...]`"
        )
    return float(told)


def random_like(direction: Direction, seed: int, number: int) -> Direction:
    """A random direction whose vectors have the same norms: what any direction of this size would do.

    One and the same for every condition, so that conditions can be compared. Of one at several sites, the vectors are
    drawn site by site.
    """
    import torch

    key = sha256(f"{seed}/{direction.name}/{number}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
    drawn = {}
    for site, like in direction.items():
        vectors = torch.randn(like.shape, generator=generator, dtype=torch.float64)
        norms = like.double().norm(dim=1, keepdim=True)
        drawn[site] = (vectors / vectors.norm(dim=1, keepdim=True) * norms).float()
    return direction.with_vectors(drawn, f"{direction.name}/random-{number}")


def require_possible(conditions: Sequence[Condition], plan: Plan, live: LiveModel) -> None:
    """Build every evaluator, lower every condition, and place its positions in every prompt, before anything is
    measured.

    Raises:
        SteerkitError: naming the condition, where its sites, widths or positions don't fit model and prompts.
    """
    from steerkit.engine.lowering.lower import at_sites
    from steerkit.engine.sequence.positions import position_intervals

    frames: dict[str | None, list[Frame]] = {}
    for condition in conditions:
        try:
            system_prompt = condition.system_prompt
            if system_prompt not in frames:
                chat = live.chat if system_prompt is None else live.chat.with_system_prompt(system_prompt)
                prompts, texts = _read(plan, chat.render, raw=False), _read(plan, reading(live, chat), raw=True)
                frames[system_prompt] = [
                    *(batch.frame for batch in live.batched(prompts, "left", extra_tokens=1)),
                    *(batch.frame for batch in live.batched(texts, "right")),
                ]
            at_sites(condition.placements, live.layout)
            gates = [item.gate for item in condition.placements if item.gate is not None]
            named = {item.positions for item in condition.placements}
            named |= {gate.positions for gate in gates if gate.at == "prompt"}
            for positions in (one for one in named if one.role != FROM_TOKEN):
                for frame in frames[system_prompt]:
                    position_intervals(positions, frame)
        except SteerkitError as error:
            raise type(error)(f"Condition {condition.name}: {error}") from None


def require_monitors(plan: Plan, directions: Mapping[str, Direction], live: LiveModel) -> None:
    """Build every monitor, before anything is measured.

    Raises:
        SteerkitError: for a monitor that doesn't fit the model.
    """
    from steerkit.engine.reading.monitors import require_monitors_fit

    require_monitors_fit(build_monitors(plan.monitors, directions, live.layout.n_layers), live.layout)


def reading(live: LiveModel, chat: ChatFormat) -> Callable[[Example], Rendered]:
    """How an example is read along under a condition: its system prompt stands before prompts that an answer
    follows, and what is read as it is has none."""

    def render(example: Example) -> Rendered:
        return (live.chat if opened(example).completion is None else chat).render_reading(example)

    return render


def build_monitors(
    planned: Sequence[PlannedMonitor], directions: Mapping[str, Direction], n_layers: int
) -> list[Monitor]:
    """A recipe's monitors.

    Raises:
        SteerkitError: naming the monitor, where its direction or its sites can't be read.
    """
    built = []
    for item in planned:
        try:
            direction = directions[item.direction]
            sites = monitor_sites(item, direction, n_layers)
            built.append(Monitor(item.name, direction, item.threshold, item.side, sites, item.positions))
        except SteerkitError as error:
            raise type(error)(f"monitors.{item.name}: {error}") from None
    return built


def monitor_sites(item: PlannedMonitor, direction: Direction, n_layers: int) -> tuple[Site, ...] | None:
    """Where a monitor reads, or None for its direction's own site.

    A pattern means those of its sites that a direction of several has vectors at: an estimator may leave some out.
    """
    if item.sites is None:
        return None
    several = not direction.is_single or "left_out" in direction.provenance
    found: dict[Site, None] = {}
    for written in item.sites:
        meant = resolve_sites(written, n_layers)
        if several and not isinstance(written, Site):
            meant = [site for site in meant if site in direction.sites]
            if not meant:
                raise AttachError(
                    f"direction {direction.name!r} has no vectors at {written}; it has them at {direction.describe()}."
                )
        found.update(dict.fromkeys(meant))
    return tuple(found)


def _read(plan: Plan, render: Callable[[Example], Rendered], *, raw: bool) -> list[Rendered]:
    """What the plan's looks read: prompts, or what evaluators read along."""
    looks = [look for group in plan.groups for look in group.looks]
    refs = dict.fromkeys(look.data for look in looks if (look.kind == "along" and not look.new_tokens) == raw)
    return [render(example) for ref in refs for example in plan.examples(ref)]
