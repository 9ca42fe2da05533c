"""The conditions of a plan, with their interventions and gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from steerkit.api.hookspecs import InterventionSpec, Options
from steerkit.types import Positions, Schedule, Site, SitePattern


@dataclass(frozen=True)
class PlannedGate:
    """The condition on the stream under which an intervention acts. See ``steerkit.api.intervention.Gate``.

    Args:
        direction: name of the direction that the stream is projected on.
        threshold: what the projection is compared with.
        side: ``above`` or ``below`` the threshold.
        site: where it is read; None for the site of a direction from a file.
        at: whether each ``token`` decides, or the ``prompt`` for its row.
        positions: the tokens of the prompt that are read, for ``at="prompt"``.
        prepass: whether an extra pass without any intervention decides, so that prompts can be edited too.
    """

    direction: str
    threshold: float
    side: Literal["above", "below"] = "above"
    site: Site | None = None
    at: Literal["token", "prompt"] = "token"
    positions: Positions = Positions("last")
    prepass: bool = False

    def to_json(self, site: Site | None = None) -> dict[str, Any]:
        """As a recipe writes it, without the keys that mean nothing here; ``site`` where the plan has none."""
        found: dict[str, Any] = {"direction": self.direction, self.side: self.threshold}
        where = self.site or site
        found |= {"site": None if where is None else str(where), "at": self.at}
        return found | ({"positions": str(self.positions), "prepass": self.prepass} if self.at == "prompt" else {})


@dataclass(frozen=True)
class PlannedIntervention:
    """An intervention of a condition.

    Args:
        spec: the plugin.
        options: of the plugin, with the value of a sweep put in.
        directions: names of the directions that it uses, as many as its plugin takes.
        sites: where it acts, sites or patterns of several; None for its own choice.
        positions: at which tokens.
        schedule: factor on the change at each generated token.
        gate: condition under which it acts, or None: always.
        chosen: whether its coefficient is that which the search of its direction chose; the one of ``options`` then
            stands in for it.
    """

    spec: InterventionSpec
    options: Options
    directions: tuple[str, ...]
    sites: tuple[Site | SitePattern, ...] | None
    positions: Positions
    schedule: Schedule = Schedule()
    gate: PlannedGate | None = None
    chosen: bool = False

    @property
    def direction_text(self) -> str | None:
        """Its directions in one text, or None where it has none."""
        return ", ".join(self.directions) or None

    def when(self, gate_site: Site | None = None) -> dict[str, Any]:
        """Schedule and gate as JSON values, each only where it is set.

        Args:
            gate_site: where the gate is read, once that is known.
        """
        schedule = {} if self.schedule.is_constant else {"schedule": str(self.schedule)}
        return schedule | ({} if self.gate is None else {"gate": self.gate.to_json(gate_site)})


@dataclass(frozen=True)
class PlannedCondition:
    """A condition, one member of a family where there is a sweep. The baseline isn't among them.

    Args:
        name: unique, as in ``dose[coefficient=4]``.
        interventions: in the order of the recipe; there may be none where there is a system prompt.
        control: whether random directions are run beside it.
        sweep: name of the family, or None.
        swept: the option that the family varies, with this member's value.
        system_prompt: takes the place of the recipe's system prompt, or None.
        mode: how its interventions are lowered.
    """

    name: str
    interventions: tuple[PlannedIntervention, ...]
    control: bool = True
    sweep: str | None = None
    swept: Mapping[str, float] = field(default_factory=dict)
    system_prompt: str | None = None
    mode: Literal["auto", "fold", "hook", "interpret"] = "auto"

    def n_controls(self, random_directions: int) -> int:
        """How many random controls run beside it: none where it uses no direction."""
        return random_directions if self.control and self.steering else 0

    def how(self) -> dict[str, Any]:
        """System prompt and mode as JSON values, each only where it is set."""
        prompt = {} if self.system_prompt is None else {"system_prompt": self.system_prompt}
        return prompt | ({} if self.mode == "auto" else {"mode": self.mode})

    @property
    def nameless(self) -> PlannedCondition:
        """What is done, without what it is called and what varies beside it: two that are equal here are run once."""
        return replace(self, name="", control=True, sweep=None, swept={})

    @property
    def directions(self) -> tuple[str, ...]:
        """Names of the directions that interventions and gates use, each once."""
        gates = [item.gate.direction for item in self.interventions if item.gate is not None]
        return tuple(dict.fromkeys([*self.steering, *gates]))

    @property
    def steering(self) -> tuple[str, ...]:
        """Names of the directions that interventions use, each once: those that controls replace."""
        return tuple(dict.fromkeys(name for item in self.interventions for name in item.directions))

    @property
    def has_prepass(self) -> bool:
        """Whether prompts are read once more, without any intervention, before each pass over them."""
        return any(item.gate is not None and item.gate.prepass for item in self.interventions)
