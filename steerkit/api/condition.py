"""A condition as a file holds it: plain values, in the forms in which recipes write them. Its vectors stand beside it.

A format that has a place for one writes ``to_json()`` in its own way, and reads it with ``SavedCondition.from_json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from steerkit.errors import ArtifactError, SteerkitError
from steerkit.types import Positions, Schedule, Site, parse_sites

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class SavedGate:
    """The condition on the stream under which an intervention acts. See ``steerkit.api.intervention.Gate``.

    Args:
        direction: name of the direction that the stream is projected on, beside it in the file.
        above: it acts where the projection is above this number, in units of the stream; None where ``below`` is given.
        below: it acts where the projection is below this number.
        site: where it is read, as in ``blocks.3.resid_pre``; None for the direction's own site.
        at: whether each ``token`` decides, or the ``prompt`` for its row.
        positions: the tokens of the prompt that are read, for ``at="prompt"``.
        prepass: whether an extra pass without any intervention decides.

    Raises:
        ArtifactError: where there isn't exactly one threshold.
        SiteError, PositionError: for texts that are none.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    direction: str
    above: float | None = None
    below: float | None = None
    site: str | None = None
    at: Literal["token", "prompt"] = "token"
    positions: str = "last"
    prepass: bool = False

    def __post_init__(self) -> None:
        if (self.above is None) == (self.below is None):
            raise ArtifactError("A gate that is saved has one threshold, above or below.")
        if self.site is not None:
            Site.parse(self.site)
        Positions.parse(self.positions)

    def to_json(self) -> dict[str, Any]:
        """As a recipe writes it, without the keys that mean nothing here."""
        found: dict[str, Any] = {"direction": self.direction}
        found |= {"above": self.above} if self.below is None else {"below": self.below}
        found |= {} if self.site is None else {"site": self.site}
        return found | (
            {"at": self.at, "positions": self.positions, "prepass": self.prepass} if self.at == "prompt" else {}
        )


@dataclass(frozen=True)
class SavedIntervention:
    """An intervention of a condition, by the name of its plugin.

    Args:
        plugin: the plugin's name.
        directions: names of the directions that it takes, beside it in the file.
        options: the plugin's own, as JSON values.
        sites: where it acts, as in ``blocks.3.resid_pre`` or ``blocks.*.resid_post``; None for the plugin's own choice.
        positions: at which tokens, as in ``generated[:8]``.
        schedule: factor on the change along generated tokens, as in ``linear(1, 0, 64)``; None for 1 throughout.
        gate: condition on the stream under which it acts; None: always.

    Raises:
        SiteError, PositionError, ScheduleError: for texts that are none.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    plugin: str
    directions: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    sites: tuple[str, ...] | None = None
    positions: str = "all"
    schedule: str | None = None
    gate: SavedGate | None = None

    def __post_init__(self) -> None:
        for text in self.sites or ():
            parse_sites(text)
        Positions.parse(self.positions)
        Schedule.parse(self.schedule)

    def to_json(self) -> dict[str, Any]:
        """As JSON values: what is set."""
        found: dict[str, Any] = {"plugin": self.plugin, "directions": list(self.directions)}
        found |= {"options": dict(self.options), "positions": self.positions}
        found |= {} if self.sites is None else {"sites": list(self.sites)}
        found |= {} if self.schedule is None else {"schedule": self.schedule}
        return found | ({} if self.gate is None else {"gate": self.gate.to_json()})


@dataclass(frozen=True)
class SavedCondition:
    """A condition as a file holds it: interventions, a system prompt, or both.

    Args:
        name: what it is called.
        interventions: in the order in which they act where they meet.
        system_prompt: a system message before every prompt; None for none of its own.
        mode: how its interventions are lowered: ``auto``, ``fold``, ``hook`` or ``interpret``.

    Raises:
        ArtifactError: where it has no name, or is empty.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    interventions: tuple[SavedIntervention, ...] = ()
    system_prompt: str | None = None
    mode: Literal["auto", "fold", "hook", "interpret"] = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ArtifactError(f"A condition's name is a text that it goes by, not {self.name!r}.")
        if not self.interventions and self.system_prompt is None:
            raise ArtifactError(f"Condition {self.name!r} is empty: give it interventions, a system_prompt, or both.")
        if not self.interventions and self.mode != "auto":
            raise ArtifactError(
                f"Condition {self.name!r}: mode says how interventions are lowered, and there are none. Leave it out."
            )

    @property
    def directions(self) -> tuple[str, ...]:
        """Names of the directions that interventions and gates use, each once."""
        taken = [name for one in self.interventions for name in one.directions]
        return tuple(dict.fromkeys([*taken, *(one.gate.direction for one in self.interventions if one.gate)]))

    def to_json(self) -> dict[str, Any]:
        """As JSON values: what is set."""
        found: dict[str, Any] = {"name": self.name, "interventions": [one.to_json() for one in self.interventions]}
        found |= {} if self.system_prompt is None else {"system_prompt": self.system_prompt}
        return found | ({} if self.mode == "auto" else {"mode": self.mode})

    @classmethod
    def from_json(cls, value: object, where: str) -> SavedCondition:
        """Read what ``to_json`` gave.

        Args:
            value: JSON values.
            where: what they stand in, such as a path, for messages.

        Raises:
            ArtifactError: for anything else, naming the key that is wrong.
        """
        try:
            # As text: in JSON a list is what a tuple is written as, and nothing else is taken for what it isn't.
            return TypeAdapter(cls).validate_json(json.dumps(value))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "it"
            cause = f"{place}: {first['msg']}"
        except (SteerkitError, TypeError, ValueError, RecursionError) as error:
            cause = str(error)
        raise ArtifactError(f"{where}: its condition can't be read ({cause.rstrip('.')}). Save it again.")
