"""The conditions of a run: the baseline, the recipe's, their controls, and which of them are run together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, cast

from steerkit.api.intervention import Gate, Intervention, Placement
from steerkit.catalog import implementation
from steerkit.errors import SteerkitError
from steerkit.plan import Plan, PlannedCondition
from steerkit.plan.types import PlannedIntervention
from steerkit.types import FROM_TOKEN

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.engine.lowering.edits import Mode
    from steerkit.engine.measuring.evaluate import Evaluation, Steered
    from steerkit.engine.sequence.positions import Frame
    from steerkit.session.model import LiveModel

BASELINE = "baseline"


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
    kind: str
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

    @property
    def steered(self) -> Steered:
        """As an evaluation takes it."""
        from steerkit.engine.measuring.evaluate import Steered

        return Steered(self.placements, self.system_prompt, self.mode)


def conditions(plan: Plan, directions: Mapping[str, Direction]) -> list[Condition]:
    """The baseline, the recipe's conditions, and beside each its controls along random directions.

    A control's gates keep their own directions: it acts where the condition acts, along something else.

    Raises:
        SteerkitError: naming the condition, where a gate's direction can't decide anything.
    """
    found = [Condition(BASELINE, "baseline", None, ())]
    drawn: dict[tuple[str, int], Direction] = {}
    for planned in plan.conditions:
        built = _build(planned, directions)
        found.append(Condition(planned.name, "intervention", planned, built))
        for number in range(1, planned.n_controls(plan.random_directions) + 1):
            for name in planned.direction_names:
                if (name, number) not in drawn:
                    drawn[name, number] = random_like(directions[name], plan.recipe.seed, number)
            stand_ins = {name: drawn[name, number] for name in planned.direction_names}
            placements = tuple(one.with_directions(stand_ins) for one in built)
            found.append(Condition(f"{planned.name}/random-{number}", "control", planned, placements, planned.name))
    return found


def _build(planned: PlannedCondition, directions: Mapping[str, Direction]) -> tuple[Placement, ...]:
    """A condition's interventions along its directions."""
    try:
        return tuple(_place(item, directions) for item in planned.interventions)
    except SteerkitError as error:
        raise type(error)(f"Condition {planned.name}: {error}") from None


def _place(planned: PlannedIntervention, directions: Mapping[str, Direction]) -> Placement:
    kind = cast("type[Intervention]", implementation(planned.spec))
    made = kind(planned.options, tuple(directions[name] for name in planned.directions))
    gate = None
    if (one := planned.gate) is not None:
        decides = directions[one.direction]
        gate = Gate(decides, one.threshold, one.side, one.site, one.at, one.positions, one.prepass)
    return Placement(made, planned.sites, planned.positions, planned.schedule, gate)


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


def require_possible(conditions: Sequence[Condition], evaluation: Evaluation, live: LiveModel) -> None:
    """Lower every condition, and place its positions in every prompt, before anything is measured.

    Raises:
        SteerkitError: naming the condition, where its sites, widths or positions don't fit model and prompts.
    """
    from steerkit.engine.lowering.lower import at_sites
    from steerkit.engine.sequence.positions import intervals

    frames: dict[str | None, list[Frame]] = {}
    for condition in conditions:
        try:
            system_prompt = condition.system_prompt
            if system_prompt not in frames:
                prompts = [prompt for job in evaluation.jobs for prompt in evaluation.prompts(job.data, system_prompt)]
                frames[system_prompt] = [
                    *(batch.frame for batch in live.batched(prompts, "left", extra_tokens=1)),
                    *(batch.frame for batch in live.batched(evaluation.raw_texts(system_prompt), "right")),
                ]
            at_sites(condition.placements, live.layout)
            gates = [item.gate for item in condition.placements if item.gate is not None]
            named = {item.positions for item in condition.placements}
            named |= {gate.positions for gate in gates if gate.at == "prompt"}
            for positions in (one for one in named if one.role != FROM_TOKEN):
                for frame in frames[system_prompt]:
                    intervals(positions, frame)
        except SteerkitError as error:
            raise type(error)(f"Condition {condition.name}: {error}") from None


def groups(conditions: Sequence[Condition], evaluation: Evaluation) -> list[list[Condition]]:
    """Which conditions are run together, side by side in batches that one alone wouldn't fill.

    The baseline is alone, the others with those that make the same passes. All follows from plan, texts and the token
    budget, so that a run that continues has the groups that it began with.
    """
    alike: dict[tuple[str, bool, str | None, Mode], list[Condition]] = {}
    for condition in conditions:
        prepass = condition.planned is not None and condition.planned.has_prepass
        key = condition.kind, prepass, condition.system_prompt, condition.mode
        alike.setdefault(key, []).append(condition)
    found: list[list[Condition]] = []
    for (kind, _, system_prompt, mode), members in alike.items():
        sizes = [1]
        if kind != "baseline":
            samples = kind != "control"
            sizes = evaluation.group_sizes(len(members), samples=samples, system_prompt=system_prompt, mode=mode)
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
