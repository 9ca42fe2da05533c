"""Section ``conditions``: interventions with every name resolved, and what can't work told without the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from steerkit.api.hookspecs import InterventionSpec
from steerkit.errors import nearest
from steerkit.plan.adapter import ModelResolver
from steerkit.plan.names import Key
from steerkit.plan.types import PlannedCondition, PlannedGate, PlannedIntervention
from steerkit.recipe.draft import INTERVENTION_KEYS
from steerkit.recipe.schema import ConditionRecipe, GateRecipe, InterventionRecipe
from steerkit.types import (
    ATTN_OUT,
    FROM_TOKEN,
    HEAD_OUT,
    MLP_OUT,
    RESID_MID,
    RESID_POST,
    RESID_PRE,
    Positions,
    Schedule,
    Site,
)

_STREAMS_IN_ORDER: Final = (RESID_PRE, HEAD_OUT, ATTN_OUT, RESID_MID, MLP_OUT, "other writers", RESID_POST)
_WITHIN_PROMPTS: Final = ("prompt", "instruction", "post_instruction", "")


class ConditionResolver(ModelResolver):
    """Resolves section ``conditions``."""

    def condition(self, name: str, written: ConditionRecipe) -> list[PlannedCondition]:
        """One condition, or the members of its sweep."""
        path = ("conditions", name)
        if name == "baseline":
            self.complain("'baseline' is the model as it is, and always run; give this condition another name", *path)
        if written.sweep is None:
            found = self.interventions(written, path, {})
            return [PlannedCondition(name, found, written.control)]
        ((option, values),) = written.sweep.items()
        if not self.check_sweep(option, written, path):
            return []
        members = []
        for value in values:
            before = len(self.problems)
            found = self.interventions(written, path, {option: value})
            label = f"{name}[{option}={format_number(value)}]"
            members.append(PlannedCondition(label, found, written.control, name, {option: float(value)}))
            if len(self.problems) > before:
                break  # the other members would have the same problems
        return members

    def check_sweep(self, option: str, written: ConditionRecipe, path: tuple[Key, ...]) -> bool:
        """Whether any intervention has the option that a sweep varies."""
        fields: dict[str, None] = {}
        for item in written.interventions:
            if item.plugin in self.catalog.names("intervention"):
                fields.update(dict.fromkeys(self.catalog.get("intervention", item.plugin).options.model_fields))
        if option not in fields and all(
            item.plugin in self.catalog.names("intervention") for item in written.interventions
        ):
            near = nearest(option, fields, "option")
            self.complain(f"no intervention of {path[-1]!r} has an option {option!r}. {near}", *path, "sweep", option)
            return False
        return True

    def interventions(
        self, written: ConditionRecipe, path: tuple[Key, ...], swept: Mapping[str, Any]
    ) -> tuple[PlannedIntervention, ...]:
        """The interventions of a condition that have no problems."""
        found = (
            self.intervention(item, swept, *path, "interventions", index)
            for index, item in enumerate(written.interventions)
        )
        return tuple(filter(None, found))

    def intervention(
        self, written: InterventionRecipe, swept: Mapping[str, Any], *path: Key
    ) -> PlannedIntervention | None:
        """One intervention, with the value of the sweep put in."""
        spec = self.spec("intervention", written.plugin, *path)
        self.check_direction(spec, written.direction, path)
        sites = self.sites(written.sites, (*path, "sites"))
        gate = self.gate(written, sites, path)
        if spec is None:
            return None
        own = {option: value for option, value in swept.items() if option in spec.options.model_fields}
        for option in own:
            if option in written.options:
                self.complain(f"{option} is what the condition sweeps; set it there alone", *path, "options", option)
        moved = {option: (*path[:2], "sweep", option) for option in own}
        options = self.options(
            spec,
            {**written.options, **own},
            *(*path, "options"),
            moved=moved,
            beside=INTERVENTION_KEYS,
            partial=self.draft.lost(*path[:2], "sweep"),
        )
        if options is None:
            return None
        positions, schedule = Positions.parse(written.positions), Schedule.parse(written.schedule)
        return PlannedIntervention(spec, options, written.direction, sites, positions, schedule, gate)

    def check_direction(self, spec: InterventionSpec | None, direction: str | None, path: tuple[Key, ...]) -> None:
        """An intervention has a direction if it needs one, and one that there is."""
        if direction is None:
            if spec is not None and spec.directions and not self.draft.lost(*path, "direction"):
                near = nearest("", self.recipe.directions, "direction")
                self.complain(f"{spec.name} needs a direction: add `direction: <name>`. {near}", *path)
        elif spec is not None and not spec.directions:
            self.complain(f"{spec.name} takes no direction; remove it", *path, "direction")
        else:
            self.check_known(direction, path)

    def check_known(self, direction: str, path: tuple[Key, ...]) -> None:
        """There is such a direction."""
        known = self.recipe.directions
        if direction not in known and not self.draft.lost("directions", direction):
            self.complain(
                f"unknown direction {direction!r}. {nearest(direction, known, 'direction')}", *path, "direction"
            )

    def sites(self, written: Sequence[str] | None, path: tuple[Key, ...]) -> tuple[Site, ...] | None:
        """The sites of an intervention, or None for its own choice."""
        if written is None:
            return None
        if not written:
            self.complain("an empty list of sites does nothing; remove it for the plugin's own choice", *path)
        checked = [self.site(text, *path, index) for index, text in enumerate(written)]
        return tuple(site for site in checked if site is not None)

    # Gates.

    def gate(
        self, written: InterventionRecipe, sites: Sequence[Site] | None, path: tuple[Key, ...]
    ) -> PlannedGate | None:
        """The gate of an intervention at ``path``, or None."""
        gate = written.gate
        if gate is None:
            return None
        here = (*path, "gate")
        self.check_known(gate.direction, here)
        site = self.gate_site(gate, here)
        positions = Positions.parse(gate.positions or "last")
        if positions.role in ("generated", FROM_TOKEN):
            self.complain(
                f"a gate reads tokens of the prompt, not {positions}: write last, instruction or prompt",
                *(*here, "positions"),
            )
        doubtful = self.draft.lost(*here, "at") or self.draft.lost(*here, "prepass")
        if not (gate.prepass or doubtful):
            self.check_order(site, sites, here if gate.site is None else (*here, "site"), path)
            self.check_reach(gate, Positions.parse(written.positions), here)
        side: Literal["above", "below"] = "above" if gate.above is not None else "below"
        threshold = gate.above if gate.above is not None else gate.below
        assert threshold is not None
        return PlannedGate(gate.direction, threshold, side, site, gate.at, positions, gate.prepass)

    def gate_site(self, gate: GateRecipe, path: tuple[Key, ...]) -> Site | None:
        """Where a gate is read; None where only a file or a lost part of the recipe tells."""
        if gate.site is not None:
            return self.site(gate.site, *path, "site")
        direction = self.recipe.directions.get(gate.direction)
        lost = self.draft.lost(*path, "site") or self.draft.lost("directions", gate.direction, "site")
        return None if lost or direction is None or direction.site is None else Site.parse(direction.site)

    def check_order(
        self, gate: Site | None, edited: Sequence[Site] | None, here: tuple[Key, ...], path: tuple[Key, ...]
    ) -> None:
        """A gate is read before any edit that it decides on, as far as the sites of both are known."""
        if gate is None or self.draft.lost_within(*path, "sites"):
            return
        early = [site for site in edited or () if _forward_order(site) < _forward_order(gate)]
        there = self.model.n_layers is None or gate.layer < self.model.n_layers
        if early and there:
            first = min(early, key=_forward_order)
            self.complain(
                f"the gate is read at {gate}, behind {first}, where it should decide already: read it at {first} or "
                "before, or decide in advance with at: prompt and prepass: true",
                *here,
            )

    def check_reach(self, gate: GateRecipe, edited: Positions, path: tuple[Key, ...]) -> None:
        """Without a pass in advance, what the prompt decides on are generated tokens."""
        if gate.at == "prompt" and edited.role in _WITHIN_PROMPTS:
            self.complain(
                f"the prompt decides what happens to generated tokens, and positions {edited} are all in the prompt: "
                "add prepass: true (the prompt is then read once more, in advance), or choose positions such as "
                "generated or all",
                *(*path, "at"),
            )


def _forward_order(site: Site) -> tuple[int, int]:
    """Places of sites as a forward pass meets them; the embedding, at layer -1, comes first."""
    stream = site.stream if site.stream in _STREAMS_IN_ORDER else "other writers"
    return site.layer, _STREAMS_IN_ORDER.index(stream)


def format_number(value: float) -> str:
    """A number as names hold it: ``-8``, ``0.5``."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
