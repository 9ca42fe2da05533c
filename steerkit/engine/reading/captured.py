"""What ``capture`` gives: statistics by site and positions, found by their text as well, shown in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from steerkit.api.showing import card, listed, number
from steerkit.errors import PositionError, SiteError, counted
from steerkit.types import Positions, Site

if TYPE_CHECKING:
    from steerkit.api.estimator import ClassStatistics

Key: TypeAlias = tuple[Site, Positions]
Lookup: TypeAlias = "Key | Site | str | tuple[Site | str, Positions | str | int]"
"""A site, and positions where several were read; each as itself or as its text."""

_FEW = 6


class NotCapturedError(SiteError, KeyError):
    """A site or positions that weren't read."""

    __str__ = Exception.__str__  # a KeyError's is its message in quotes


class Captured(dict[Key, "ClassStatistics"]):
    """Statistics by ``(site, positions)``, in the order in which they were asked for.

    ``captured["blocks.10.resid_pre"]`` finds a site's where one kind of positions was read, and
    ``captured["blocks.10.resid_pre", -1]`` where there are several.
    """

    def __getitem__(self, key: Lookup) -> ClassStatistics:
        found = self._find(key)
        if found is None:
            raise NotCapturedError(self._lacking(key))
        return super().__getitem__(found)

    def get(self, key: Lookup, default: Any = None) -> Any:
        """As of every mapping, with the keys of this one."""
        found = self._find(key)
        return default if found is None else super().__getitem__(found)

    def __contains__(self, key: object) -> bool:
        try:
            return self._find(key) is not None
        except (SiteError, PositionError):  # what names no site or positions names none of these
            return False

    def __repr__(self) -> str:
        if not self:
            return "Captured(nothing)"
        lines = [f"  {site}, '{positions}': {statistics!r}" for (site, positions), statistics in self.items()]
        more = [f"  ... and {len(lines) - _FEW} more"] if len(lines) > _FEW + 1 else []
        return "\n".join([self._title(), *(lines[:_FEW] if more else lines), *more])

    def _repr_html_(self) -> str:
        rows = [
            [
                str(site),
                str(positions),
                f"{statistics.count:,}",
                number(float(statistics.mean.norm())),
                str(statistics.mean.shape[-1]),
                "–" if statistics.rows is None else " × ".join(map(str, statistics.rows.shape)),
            ]
            for (site, positions), statistics in self.items()
        ]
        head = ["site", "positions", "tokens", "norm of the mean", "width", "rows"]
        return card(self._title(), listed(head, rows, plain=2))

    def _title(self) -> str:
        sites, positions = {site for site, _ in self}, dict.fromkeys(str(positions) for _, positions in self)
        return f"Captured at {counted(len(sites), 'site')}, positions {', '.join(repr(one) for one in positions)}"

    def _find(self, key: object) -> Key | None:
        """The key that is meant, where it is there."""
        if isinstance(key, (str, Site)):
            site = Site.parse(key)
            meant = [one for one in self if one[0] == site]
            if len(meant) > 1:
                read = ", ".join(f"'{positions}'" for _, positions in meant)
                raise NotCapturedError(
                    f"{site} was read at several positions, {read}. Say which: captured[{str(site)!r}, "
                    f"{str(meant[0][1])!r}]."
                )
            return meant[0] if meant else None
        if not isinstance(key, tuple) or len(key) != 2:
            return None
        if not dict.__contains__(self, key):
            key = (Site.parse(key[0]), Positions.parse(key[1]))
        return key if dict.__contains__(self, key) else None

    def _lacking(self, key: object) -> str:
        sites = list(dict.fromkeys(str(site) for site, _ in self))
        positions = ", ".join(f"'{one}'" for one in dict.fromkeys(str(one) for _, one in self))
        told = ", ".join(sites if len(sites) <= _FEW else [*sites[: _FEW - 1], f"... {sites[-1]}"])
        asked = ", ".join(map(str, key)) if isinstance(key, tuple) else str(key)
        return f"Nothing was captured at {asked}. There is {told or 'nothing'}, at positions {positions or 'none'}."
