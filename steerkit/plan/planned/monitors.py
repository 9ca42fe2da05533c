"""The monitors of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steerkit.errors import counted
from steerkit.recipe.data import DataRef
from steerkit.types import Positions, Site, SitePattern


@dataclass(frozen=True)
class PlannedCalibration:
    """How the threshold of a monitor is set.

    Args:
        data: examples that are not to be flagged.
        false_alarms: how many of 1,000 of them may be, without any condition.
        done: whether it is set.
    """

    data: DataRef
    false_alarms: float
    done: bool = False

    def to_json(self) -> dict[str, Any]:
        """As a recipe writes it, but for the side."""
        return {"data": str(self.data), "false_alarms": self.false_alarms}

    def __str__(self) -> str:
        return f"{counted(self.false_alarms, 'false alarm', form='g')} per 1,000 of {self.data}"


@dataclass(frozen=True)
class PlannedMonitor:
    """What reads the stream and never edits it. See ``steerkit.api.monitor.Monitor``.

    Args:
        name: as the recipe calls it.
        direction: name of the direction that the stream is projected on.
        threshold: what readings are compared with; it means nothing before a calibration is done.
        side: ``above`` or ``below`` the threshold.
        sites: where it is read, sites or patterns of several; None for the direction's own.
        positions: at which tokens.
        calibration: how its threshold is set; None where the recipe says the number.
    """

    name: str
    direction: str
    threshold: float
    side: Literal["above", "below"]
    sites: tuple[Site | SitePattern, ...] | None
    positions: Positions
    calibration: PlannedCalibration | None = None

    def to_json(self, sites: Sequence[Site] | None = None) -> dict[str, Any]:
        """As a recipe writes it, with its name; ``sites`` where the plan has none."""
        where = self.sites or sites
        known = self.calibration is None or self.calibration.done
        return {
            "name": self.name,
            "direction": self.direction,
            **({self.side: self.threshold} if known else {}),
            **({} if self.calibration is None else {"calibrate": self.calibration.to_json()}),
            "sites": None if where is None else [str(site) for site in where],
            "positions": str(self.positions),
        }
