"""What a run would put on the model, told before anything is run."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from steerkit.catalog import needs_of
from steerkit.errors import SteerkitError
from steerkit.plan import DataRef, Plan, PlannedDirection, PlannedSearch
from steerkit.plan.looks import Lengths
from steerkit.plan.tokens import Reading
from steerkit.stages.condition import conditions, reading, require_monitors, require_possible
from steerkit.stages.saved import saved_direction
from steerkit.types import resolve_sites

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.engine.lowering.explain import Explanation
    from steerkit.session.model import LiveModel


@dataclass(frozen=True)
class Preview:
    """What becomes of conditions that are lowered alike, such as the members of a sweep.

    Args:
        conditions: their names.
        explanation: of each of them, as ``steer`` lowers it.
        expected_tokens: how many tokens each sees in the longest of its looks: each look is lowered for its own.
        together: how many conditions its group has at most in one batch: it and its controls. If it is more than one,
            they are hooked there, whatever the explanation says of folding.
    """

    conditions: tuple[str, ...]
    explanation: Explanation
    expected_tokens: int
    together: int

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "conditions": list(self.conditions),
            "expected_tokens": self.expected_tokens,
            "together": self.together,
            **self.explanation.to_json(),
        }


def stand_in(planned: PlannedDirection, plan: Plan, live: LiveModel) -> Direction:
    """A random direction in place of one that a run will estimate: unit vectors, in its width, as many as are known of.

    Lowering looks at shapes, and at values only for what cancels or was removed before, so no prompt need be read.
    """
    import torch

    from steerkit.api.direction import Direction

    assert planned.estimator is not None and planned.positions is not None
    read_at = needs_of(planned.estimator, planned.options).sites or planned.site or ()
    sites = resolve_sites(read_at, live.layout.n_layers)
    # Not the same ones for two directions: updates along them would cancel or be redundant.
    key = sha256(planned.name.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
    drawn, means = {}, {}
    for site in sites:
        width = live.layout.width(site)
        vectors = torch.randn(_rank(planned, plan), width, generator=generator)
        drawn[site] = vectors / vectors.norm(dim=1, keepdim=True)
        means[site] = torch.randn(width, generator=generator)
    return Direction(drawn, None, planned.positions, planned.name, means)


def _chosen_stand_in(search: PlannedSearch, planned: PlannedDirection, plan: Plan, live: LiveModel) -> Direction:
    """A random direction in the middle of a search's candidates, with its first coefficient."""
    candidates = stand_in(replace(planned, name=search.name), plan, live)
    told = {"search": {"coefficient": search.coefficients[0]}} if search.coefficients else {}
    return candidates.at(candidates.sites[len(candidates.sites) // 2]).replace(provenance=told)


def _rank(planned: PlannedDirection, plan: Plan) -> int:
    """How many vectors a direction will have: as its options say, or as many as coefficients are given for, else 1."""
    needed = None if planned.estimator is None else needs_of(planned.estimator, planned.options).rank
    rank = getattr(planned.options, "rank", None)
    if isinstance(rank, int) and rank > 0:
        return rank
    if needed is not None and needed > 1:
        return needed
    uses = [one for item in plan.conditions for one in item.interventions if planned.name in one.directions]
    coefficients = [getattr(one.options, "coefficient", None) for one in uses]
    return next((len(one) for one in coefficients if isinstance(one, (list, tuple)) and one), 1)


def _lengths(plan: Plan, live: LiveModel, system_prompt: str | None) -> Lengths:
    """Tokens of examples as the model reads them under a condition."""
    chat = live.chat if system_prompt is None else live.chat.with_system_prompt(system_prompt)

    @cache
    def count(ref: DataRef, how: Reading) -> list[int]:
        render = reading(live, chat) if how == "text" else chat.render
        return [len(render(example).token_ids) for example in plan.examples(ref)]

    return count


def preview(plan: Plan, live: LiveModel) -> tuple[list[Preview], list[str]]:
    """Lower every condition of a recipe, and none of its controls, which are lowered like it.

    Returns:
        what becomes of them, and the names of directions that stand-ins were taken for.

    Raises:
        SteerkitError: naming the condition that can't be, as a run would.
    """
    planned = {item.name: item for item in plan.directions}
    directions = {
        name: stand_in(item, plan, live) if item.file is None else saved_direction(item)
        for name, item in planned.items()
    }
    for item in plan.directions:
        directions |= {name: stand_in(replace(item, name=name), plan, live) for name in item.further}
    directions |= {one.name: _chosen_stand_in(one, planned[one.over[0]], plan, live) for one in plan.searches}
    listed = conditions(plan, directions)
    require_possible(listed, plan, live)
    require_monitors(plan, directions, live)
    groups = {group.condition.name: group for group in plan.groups if group.condition is not None}
    lengths = cache(partial(_lengths, plan, live))
    found: dict[str, Preview] = {}
    for condition in listed:
        if condition.kind != "intervention":
            continue
        try:
            group, counted = groups[condition.name], lengths(condition.system_prompt)
            looks = [(look, run) for look in group.looks for run in look.passes(counted)]
            expected = max((run.tokens for _, run in looks), default=0)
            together = max((group.together(look, run, live.batch_tokens) for look, run in looks), default=1)
            explanation = live.explain(*condition.placements, mode=condition.mode, expected_tokens=expected)
        except SteerkitError as error:
            raise type(error)(f"Condition {condition.name}: {error}") from None
        one = Preview((condition.name,), explanation, expected, together)
        key = json.dumps(explanation.to_json()) + str(one.together)
        before = found.get(key)
        found[key] = one if before is None else replace(before, conditions=(*before.conditions, condition.name))
    return list(found.values()), [name for name, item in planned.items() if item.file is None]
