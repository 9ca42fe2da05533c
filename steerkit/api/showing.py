"""How values show themselves: objects in a line or a few, and in notebooks a small table or a plot.

Nothing here is drawn by a library: a notebook shows a value whenever a cell ends with it, and that takes no time. The
colour of text is the page's own, so that dark notebooks can be read too. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final

from steerkit.errors import counted

if TYPE_CHECKING:
    from steerkit.types import Site

FEW: Final = 8
"""Rows that a notebook shows at once."""
_COLOURS: Final = ("#2f8fce", "#d55e00", "#009e73")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 420, 150, 46, 10, 10, 30
_LONG: Final = 90
_SHOWN: Final = 4
"""Items of a list or a mapping that are told one by one."""


def number(value: float | None) -> str:
    """A number in a few digits; a dash for one that isn't there."""
    return "–" if value is None or math.isnan(value) else f"{value:.3g}"


def between(values: Sequence[float]) -> str:
    """Numbers in a few words: the one, or the least and the greatest."""
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def a_kind(value: object) -> str:
    """What kind of thing a value is: ``a list``, ``an int``."""
    name = type(value).__name__
    return f"an {name}" if name[0].lower() in "aeio" else f"a {name}"


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers, with those that follow each other as a range: ``0,2-3``. A range alone is what patterns of sites
    have: ``blocks.2-3.resid_pre``."""
    runs: list[list[int]] = []
    for one in sorted(set(numbers)):
        if runs and one == runs[-1][-1] + 1:
            runs[-1].append(one)
        else:
            runs.append([one])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def brief(value: Any) -> str:
    """A dataclass, or a model of pydantic's, in one line: tensors by their shape, long lists and mappings by their
    length."""
    names = [one.name for one in fields(value)] if is_dataclass(value) else list(type(value).model_fields)
    told = ((name, getattr(value, name)) for name in names)
    return f"{type(value).__name__}({', '.join(f'{name}={_brief(item)}' for name, item in told)})"


def _brief(value: Any) -> str:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{str(dtype).removeprefix('torch.')} {list(shape)}"
    if isinstance(value, Mapping):
        if len(value) > _SHOWN:
            return f"{{{counted(len(value), 'entry', 'entries')}}}"
        return "{" + ", ".join(f"{_plain(key)}: {_brief(item)}" for key, item in value.items()) + "}"
    if isinstance(value, bytes):
        return counted(len(value), "byte")
    if isinstance(value, (list, tuple, frozenset, set)):
        if len(value) > _SHOWN:
            return f"[{counted(len(value), 'item')}]"
        return "[" + ", ".join(map(_brief, value)) + "]"
    return _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_plain, value)) + ")"
    kind: Any = type(value)
    told = kind.__repr__ is not object.__repr__ or kind.__str__ is not object.__str__
    # Sites and positions are texts to whoever reads them.
    text = repr(value) if isinstance(value, str) else str(value) if told else f"<{type(value).__name__}>"
    text = text.partition("\n")[0]
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"


# Notebooks


def card(title: str, *parts: str) -> str:
    """What a notebook shows of a value: its title in bold, and parts of HTML below."""
    return f'<div style="line-height:1.4"><div><b>{escape(title)}</b></div>{"".join(parts)}</div>'


def line(text: str) -> str:
    """A line of text."""
    return f"<div>{escape(text)}</div>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, plain: int = 1) -> str:
    """A small table; the first ``plain`` columns are words, on the left, the others numbers, on the right."""

    def cells(tag: str, row: Sequence[str]) -> str:
        sides = ("left" if place < plain else "right" for place in range(len(row)))
        return "".join(
            f'<{tag} style="text-align:{side};padding:1px 8px">{escape(cell)}</{tag}>'
            for side, cell in zip(sides, row, strict=True)
        )

    top = f"<thead><tr>{cells('th', head)}</tr></thead>" if head else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    inside = f'<table style="border-collapse:collapse;font-size:inherit">{top}<tbody>{body}</tbody></table>'
    return f'<div style="overflow-x:auto">{inside}</div>'


def listed(head: Sequence[str], rows: Sequence[Sequence[str]], *, plain: int = 1) -> str:
    """A table that is there at once where it has few rows, and opens when it is asked for where it has many."""
    whole = table(head, rows, plain=plain)
    return whole if len(rows) <= FEW else folded(f"{counted(len(rows), 'row')} by {head[0]}", whole)


def folded(summary: str, inside: str) -> str:
    """HTML that opens when it is asked for."""
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def line_plot(title: str, across: str, curves: Mapping[str, Sequence[tuple[float, float | None]]]) -> str:
    """A small plot of curves, as SVG.

    Args:
        title: what a reader who can't see it is told.
        across: what the horizontal axis is.
        curves: by name, ``(x, y)``; a gap where ``y`` is None.
    """
    points = [(x, y) for curve in curves.values() for x, y in curve if y is not None and math.isfinite(y)]
    if not points:
        return ""
    place = _Place(
        (min(x for x, _ in points), max(x for x, _ in points)),
        (min(0.0, *(y for _, y in points)), max(0.0, *(y for _, y in points))),
    )
    drawn = [_axes(place, across)]
    for (name, curve), colour in zip(curves.items(), _COLOURS, strict=False):
        for run in _runs(curve):
            path = " ".join(f"{place.x(x)},{place.y(y)}" for x, y in run)
            drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
            drawn += [
                f'<circle cx="{place.x(x)}" cy="{place.y(y)}" r="2" fill="{colour}">'
                f"<title>{escape(f'{name}: {number(y)} at {across} {x:g}')}</title></circle>"
                for x, y in run
            ]
    named = " ".join(
        f'<span style="color:{colour}">●</span> {escape(name)}&nbsp;&nbsp;'
        for name, colour in zip(curves, _COLOURS, strict=False)
    )
    return (
        f'<div>{named}</div><svg role="img" aria-label="{escape(title)}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" style="max-width:100%;color:inherit" font-size="11" fill="currentColor">'
        f"{''.join(drawn)}</svg>"
    )


def plot_by_layer(name: str, values: Mapping[Site, float | None]) -> str:
    """A curve of numbers by layer; nothing where several sites lie in one layer, or nothing was measured."""
    layers = [site.layer for site in values]
    if len(set(layers)) < len(layers):
        return ""
    curve = [(float(layer), value) for layer, value in zip(layers, values.values(), strict=True)]
    return line_plot(f"{name} by layer", "layer", {name: sorted(curve, key=lambda point: point[0])})


@dataclass(frozen=True)
class _Place:
    """Where numbers lie in a plot: its lowest and highest ones across and up."""

    across: tuple[float, float]
    up: tuple[float, float]

    def x(self, value: float) -> str:
        low, high = self.across
        return f"{_LEFT + (_WIDTH - _LEFT - _RIGHT) * ((value - low) / (high - low) if high > low else 0.5):.1f}"

    def y(self, value: float) -> str:
        low, high = self.up
        return f"{_TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - ((value - low) / (high - low) if high > low else 0)):.1f}"


def _axes(place: _Place, name: str) -> str:
    low, high = place.up
    # Zero is always within; a number beside it that the two would overlap is left out.
    ticks = [0.0, *(value for value in (low, high) if abs(value) > 0.12 * (high - low))]
    drawn = []
    for value in ticks:
        y = place.y(value)
        drawn.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="currentColor" stroke-opacity="0.25"/>'
            f'<text x="{_LEFT - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{number(value)}</text>'
        )
    first, last = place.across
    for value, side in ((first, "start"), (last, "end")) if last > first else ((first, "middle"),):
        at = f'x="{place.x(value)}" y="{_HEIGHT - _BOTTOM + 14}" text-anchor="{side}"'
        drawn.append(f"<text {at}>{value:g}</text>")
    middle = f'x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - _BOTTOM + 26}" text-anchor="middle"'
    return "".join([*drawn, f"<text {middle}>{escape(name)}</text>"])


def _runs(curve: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """A curve cut where nothing was measured."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in curve:
        if y is None or not math.isfinite(y):
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if run]
