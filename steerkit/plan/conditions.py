"""Section ``conditions``: interventions with every name resolved, and what can't work told without the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Literal

from steerkit.api.hookspecs import InterventionSpec, Options
from steerkit.errors import SteerkitError, counted, nearest
from steerkit.plan.directions import DirectionResolver
from steerkit.plan.names import KeyPart
from steerkit.plan.planned.conditions import PlannedCondition, PlannedGate, PlannedIntervention
from steerkit.plan.types import CHOSEN
from steerkit.recipe.draft import INTERVENTION_KEYS, OPTIONS
from steerkit.recipe.steering import ConditionRecipe, GateRecipe, InterventionRecipe
from steerkit.types import (
    ATTN_OUT,
    FROM_TOKEN,
    HEAD_OUT,
    MLP_OUT,
    PREFIX,
    RESID_MID,
    RESID_POST,
    RESID_PRE,
    TURNS,
    Positions,
    Schedule,
    Site,
    SitePattern,
)

_STREAMS_IN_ORDER: Final = (RESID_PRE, HEAD_OUT, ATTN_OUT, RESID_MID, MLP_OUT, "other writers", RESID_POST)
_WITHIN_PROMPTS: Final = ("prompt", "instruction", "post_instruction", PREFIX, "", *TURNS)


class ConditionResolver(DirectionResolver):
    """Resolves section ``conditions``."""

    def condition(self, name: str, written: ConditionRecipe) -> list[PlannedCondition]:
        """One condition, or the members of its sweep."""
        path = ("conditions", name)
        if name == "baseline":
            self.complain("'baseline' is the model as it is, and always run; give this condition another name", *path)
        if written.system_prompt is not None and self.recipe.model.chat_template == "none":
            self.complain("a system prompt needs a chat template, and chat_template is none", *path, "system_prompt")
        if written.sweep is None:
            found = self.interventions(written, path, {})
            how = (written.system_prompt, written.mode)
            return [PlannedCondition(name, found, written.control, None, {}, *how)]
        ((option, values),) = written.sweep.items()
        if not self.check_sweep(option, written, path):
            return []
        members = []
        for value in values:
            before = len(self.problems)
            found = self.interventions(written, path, {option: value})
            label = f"{name}[{option}={format_number(value)}]"
            how = (written.system_prompt, written.mode)
            controlled = written.control and self.recipe.control.stands_beside(value, values)
            members.append(PlannedCondition(label, found, controlled, name, {option: float(value)}, *how))
            if len(self.problems) > before:
                break  # the other members would have the same problems
        return members

    def check_sweep(self, option: str, written: ConditionRecipe, path: tuple[KeyPart, ...]) -> bool:
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
        self, written: ConditionRecipe, path: tuple[KeyPart, ...], swept: Mapping[str, Any]
    ) -> tuple[PlannedIntervention, ...]:
        """The interventions of a condition that have no problems."""
        found = (
            self.intervention(item, swept, *path, "interventions", index)
            for index, item in enumerate(written.interventions)
        )
        return tuple(filter(None, found))

    def intervention(
        self, written: InterventionRecipe, swept: Mapping[str, Any], *path: KeyPart, along: str | None = None
    ) -> PlannedIntervention | None:
        """One intervention, with the value of the sweep put in; ``along`` a direction that the recipe doesn't name."""
        spec = self.spec("intervention", written.plugin, *path)
        if along is None:
            self.check_directions(spec, written.directions, path)
        elif spec is not None and spec.directions != 1:
            takes = "no direction" if not spec.directions else counted(spec.directions, "direction")
            self.complain(f"{spec.name} takes {takes}, and a candidate is one", *path)
        sites = self.sites(written.sites, (*path, "sites"))
        gate = self.gate(written, sites, path)
        if spec is None:
            return None
        own = {option: value for option, value in swept.items() if option in spec.options.model_fields}
        for option in own:
            if option in written.options:
                self.complain(f"{option} is what the condition sweeps; set it there alone", *path, "options", option)
        moved = {option: (*path[:2], "sweep", option) for option in own}
        chosen = self.is_chosen(spec, written, {**written.options, **own}, along, path)
        given = {key: value for key, value in written.options.items() if not (chosen and key == spec.additive)}
        options = self.options(
            spec,
            {**given, **own},
            *(*path, "options"),
            moved=moved,
            beside=(*INTERVENTION_KEYS, OPTIONS),
            partial=self.draft.lost(*path[:2], "sweep"),
        )
        if options is None:
            return None
        self.check_sites(spec, options, written.directions, path)
        if sites is None and spec.at_own:
            self.check_depth(getattr(options, "at", None), written.directions, path)
        if sites is None and spec.at_writers:
            self.everywhere.append(path)
        # Every candidate is scored, so each that a search is over has to have the vectors.
        used = written.directions if along is None else self.recipe.search[str(path[1])].directions
        self.check_rank(options, used, path, moved)
        positions, schedule = Positions.parse(written.positions), Schedule.parse(written.schedule)
        self.check_one(positions, *path, "positions")
        directions = written.directions if along is None else (along,)
        return PlannedIntervention(spec, options, directions, sites, positions, schedule, gate, chosen)

    def is_chosen(
        self,
        spec: InterventionSpec,
        written: InterventionRecipe,
        options: Mapping[str, Any],
        along: str | None,
        path: tuple[KeyPart, ...],
    ) -> bool:
        """Whether the coefficient is the one that a search chose with the direction."""
        if not spec.additive:
            return False
        search = self.recipe.search.get(written.directions[0]) if len(written.directions) == 1 else None
        if options.get(spec.additive) != CHOSEN:
            if along is None and search is not None and search.coefficients and spec.additive not in options:
                self.notes.append(
                    f"Condition {path[1]!r} adds {written.directions[0]} with {spec.name}'s own {spec.additive}; write "
                    f"{spec.additive}: {CHOSEN} for the one that its search chooses."
                )
            return False
        where = (*path, OPTIONS, spec.additive)
        if along is not None:
            self.complain("a candidate is what is chosen; give the search `coefficients: [...]` instead", *where)
        elif (search is None or search.coefficients is None) and not self.draft.lost_within("search"):
            what = ", ".join(written.directions) or "its direction"
            self.complain(
                f"no search chooses a coefficient for {what}: write a number, or give the search of that name "
                "`coefficients: [...]`",
                *where,
            )
        return True

    def check_directions(
        self, spec: InterventionSpec | None, directions: Sequence[str], path: tuple[KeyPart, ...]
    ) -> None:
        """An intervention has as many directions as it takes, and ones that there are."""
        wanted = len(directions) if spec is None else spec.directions
        if spec is not None and wanted and not directions:
            if not self.draft.lost(*path, "direction"):
                near = nearest("", self.recipe.directions, "direction")
                example = "`direction: <name>`" if wanted == 1 else f"`direction: [...]` with {wanted} names"
                what = "a direction" if wanted == 1 else counted(wanted, "direction")
                self.complain(f"{spec.name} needs {what}: add {example}. {near}", *path)
        elif spec is not None and directions and not wanted:
            self.complain(f"{spec.name} takes no direction; remove it", *path, "direction")
        elif spec is not None and len(directions) != wanted:
            takes = "one direction" if wanted == 1 else counted(wanted, "direction")
            self.complain(f"{spec.name} takes {takes}, not {len(directions)}", *path, "direction")
        else:
            for direction in directions:
                self.check_known(direction, path)

    def check_sites(
        self, spec: InterventionSpec, options: Options, directions: Sequence[str], path: tuple[KeyPart, ...]
    ) -> None:
        """Of a direction at several sites an intervention knows whose vectors are meant, as far as sites are known."""
        at = getattr(options, "at", None)
        for name in directions:
            sites = self.direction_sites(name)
            if sites is None or spec.many_sites:
                continue
            if at is not None:
                if isinstance(sites, tuple) and Site.parse(at) not in sites:
                    self.complain(f"direction {name!r} has no vectors at {at}; {held_at(sites)}", *path, OPTIONS, "at")
            elif are_several(sites):
                advice = "choose a direction at one site"
                if "at" in type(options).model_fields:
                    example = "<site>" if isinstance(sites, SitePattern) else sites[len(sites) // 2]
                    advice = f"say whose vectors are meant, at: {example}"
                self.complain(
                    f"{spec.name} uses the vectors of one site, and of direction {name!r} {held_at(sites)}; {advice}",
                    *path,
                )

    def check_depth(self, at: str | None, directions: Sequence[str], path: tuple[KeyPart, ...]) -> None:
        """Where a saved direction was made is where an intervention edits that names no sites."""
        layers = self.model.n_layers
        for name in directions:
            written = self.recipe.directions.get(name)
            saved = written is not None and written.file is not None
            sites = None if not saved else self.direction_sites(name) if at is None else (Site.parse(at),)
            beyond = [str(one) for one in sites if one.layer >= (layers or 0)] if isinstance(sites, tuple) else []
            if layers is not None and beyond:
                self.complain(
                    f"direction {name!r} has vectors at {', '.join(beyond)}, and the model has "
                    f"{counted(layers, 'layer')}, 0 to {layers - 1}: name the sites that are meant, or "
                    "a direction that was made on this model",
                    *path,
                )

    def check_rank(
        self,
        options: Options,
        directions: Sequence[str],
        path: tuple[KeyPart, ...],
        moved: Mapping[str, tuple[KeyPart, ...]],
    ) -> None:
        """An intervention uses no more vectors of a direction than there are, as far as estimators tell."""
        wanted = getattr(options, "rank", None)
        if not isinstance(wanted, int):
            return
        for name in directions:
            there = max(self.direction_ranks(name), default=None)
            if there is not None and wanted > there:
                vectors = counted(there, "vector")
                message = f"rank {wanted} of direction {name!r}, which has {vectors} at a site: write {there} at most"
                self.complain(message, *moved.get("rank", (*path, OPTIONS, "rank")))

    def sites(self, written: Sequence[str] | None, path: tuple[KeyPart, ...]) -> tuple[Site | SitePattern, ...] | None:
        """The sites of an intervention, or None for its own choice."""
        if written is None:
            return None
        if not written:
            self.complain("an empty list of sites does nothing; remove it for the plugin's own choice", *path)
        return tuple(self.sites_of(text, *path, index) for index, text in enumerate(written))

    # Gates.

    def gate(
        self, written: InterventionRecipe, sites: Sequence[Site | SitePattern] | None, path: tuple[KeyPart, ...]
    ) -> PlannedGate | None:
        """The gate of an intervention at ``path``, or None."""
        gate = written.gate
        if gate is None:
            return None
        here = (*path, "gate")
        self.check_known(gate.direction, here)
        site = self.gate_site(gate, here)
        positions = Positions.parse(gate.positions or "last")
        self.check_one(positions, *here, "positions")
        if positions.role in ("generated", "completion", FROM_TOKEN):
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

    def gate_site(self, gate: GateRecipe, path: tuple[KeyPart, ...]) -> Site | None:
        """Where a gate is read; None where only a file or a lost part of the recipe tells."""
        sites = self.direction_sites(gate.direction)
        several = sites is not None and are_several(sites)
        if gate.site is not None:
            site = self.site(gate.site, *path, "site")
            if several and isinstance(sites, tuple) and site not in sites:
                self.complain(f"direction {gate.direction!r} has no vector at {site}; {held_at(sites)}", *path, "site")
            return site
        direction = self.recipe.directions.get(gate.direction)
        if self.draft.lost(*path, "site") or direction is None or sites is None:
            return None
        if several:
            self.complain(
                f"a gate reads one vector, and of direction {gate.direction!r} {held_at(sites)}; add site: <site>",
                *path,
            )
        # What only a file tells is left to it.
        return sites[0] if isinstance(sites, tuple) and not several and direction.site is not None else None

    def check_order(
        self,
        gate: Site | None,
        edited: Sequence[Site | SitePattern] | None,
        here: tuple[KeyPart, ...],
        path: tuple[KeyPart, ...],
    ) -> None:
        """A gate is read before any edit that it decides on, as far as the sites of both are known."""
        if gate is None or self.draft.lost_within(*path, "sites"):
            return
        layers = self.model.n_layers
        known: list[Site] = []
        for item in edited or ():
            with suppress(SteerkitError):  # told where it stands
                known += [item] if isinstance(item, Site) else [] if layers is None else item.sites(layers)
        early = [site for site in known if _forward_order(site) < _forward_order(gate)]
        there = self.model.n_layers is None or gate.layer < self.model.n_layers
        if early and there:
            first = min(early, key=_forward_order)
            self.complain(
                f"the gate is read at {gate}, behind {first}, where it should decide already: read it at {first} or "
                "before, or decide in advance with at: prompt and prepass: true",
                *here,
            )

    def check_reach(self, gate: GateRecipe, edited: Positions, path: tuple[KeyPart, ...]) -> None:
        """Without a pass in advance, what the prompt decides on are generated tokens."""
        if gate.at == "prompt" and edited.role in _WITHIN_PROMPTS:
            self.complain(
                f"the prompt decides what happens to generated tokens, and positions {edited} are all in the prompt: "
                "add prepass: true (the prompt is then read once more, in advance), or choose positions such as "
                "generated or all",
                *(*path, "at"),
            )


def are_several(sites: tuple[Site, ...] | SitePattern) -> bool:
    """Whether more than one site is meant, or may be."""
    return not sites.is_one if isinstance(sites, SitePattern) else len(sites) > 1


def held_at(sites: tuple[Site, ...] | SitePattern) -> str:
    """Where vectors are, as the end of a sentence."""
    if isinstance(sites, SitePattern):
        return f"there are vectors at {sites}"
    more = f" to {sites[-1]} ({counted(len(sites), 'site')})" if len(sites) > 1 else ""
    return f"there are vectors at {sites[0]}{more}"


def _forward_order(site: Site) -> tuple[int, int]:
    """Places of sites as a forward pass meets them; the embedding, at layer -1, comes first."""
    stream = site.stream if site.stream in _STREAMS_IN_ORDER else "other writers"
    return site.layer, _STREAMS_IN_ORDER.index(stream)


def format_number(value: float) -> str:
    """A number as names hold it: ``-8``, ``0.5``."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
