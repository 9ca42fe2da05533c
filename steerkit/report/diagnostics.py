"""What estimators say of how it went, as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from steerkit.artifacts.reading import DirectionEntry, Results

MOST_ROWS: Final = 12


@dataclass(frozen=True)
class Diagnostic:
    """One thing that an estimator says of a direction.

    Args:
        direction: the direction's name.
        name: what it is, as in ``training loss``.
        over: what ``rows`` go along, as in ``step``; empty for a single number.
        rows: place and value, None where it was not measured; of a long series some, the first and the last among them.
        total: how many there are.
    """

    direction: str
    name: str
    over: str
    rows: tuple[tuple[str, float | None], ...]
    total: int


def make_diagnostics(results: Results) -> tuple[Diagnostic, ...]:
    """Every diagnostic of every direction, in the order of the file; further directions share their main one's."""
    listed: list[Diagnostic] = []
    seen: list[tuple[str, Mapping[str, Any]]] = []
    for entry in results.directions:
        main = next((one for one in seen if entry.name.startswith(f"{one[0]}.") and one[1] == entry.diagnostics), None)
        if entry.diagnostics and main is None:
            seen.append((entry.name, entry.diagnostics))
            listed += _of(entry)
    return tuple(listed)


def _of(entry: DirectionEntry) -> list[Diagnostic]:
    made = []
    for name, value in entry.diagnostics.items():
        if isinstance(value, Mapping):
            values: Sequence[Any] = value.get("values") or ()
            places: Sequence[Any] = value.get("at") or range(len(values))
            rows = [(str(at), _number(one)) for at, one in zip(places, values, strict=False)]
            made.append(Diagnostic(entry.name, name, str(value.get("over") or ""), tuple(_some(rows)), len(rows)))
        else:
            made.append(Diagnostic(entry.name, name, "", (("", _number(value)),), 1))
    return made


def _some(rows: Sequence[tuple[str, float | None]]) -> list[tuple[str, float | None]]:
    """At most ``MOST_ROWS``, evenly along the series, with both ends."""
    if len(rows) <= MOST_ROWS:
        return list(rows)
    return [rows[round(place * (len(rows) - 1) / (MOST_ROWS - 1))] for place in range(MOST_ROWS)]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
