"""A run and a comparison of runs as a notebook shows them: a table of what is read first, and small plots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from steerkit.api.showing import card, line, line_plot, listed
from steerkit.artifacts.reading import Results
from steerkit.errors import counted
from steerkit.report.headline import opened
from steerkit.report.plots import is_dose
from steerkit.report.separation import Separation, make_separations
from steerkit.report.tables import Block, Row, Sweep, make_blocks

PLOTS: Final = 4
"""Of each kind, at most: the report has all of them."""


def results_as_html(title: str, results: Results, *told: str) -> str:
    """Conditions under the measures that are read first, dose–response, and separation by layer.

    Args:
        title: above it.
        results: what was measured.
        told: lines below the title.
    """
    blocks = make_blocks(results)
    doses = [plot for block in opened(blocks) for plot in _doses(block)]
    layers = [_by_layer(one) for one in make_separations(results) if one.measured]
    plots = [*filter(None, doses)][:PLOTS] + [*filter(None, layers)][:PLOTS]
    return card(title, *map(line, told), blocks_as_html(blocks), *plots)


def blocks_as_html(blocks: Sequence[Block]) -> str:
    """A row for each condition, a column for each measure that is read first."""
    shown = opened(blocks)
    rows = {row.condition.name: [row.condition.name] for block in shown for row in block.all_rows}
    for block in shown:
        values = {row.condition.name: _value(block, row) for row in block.all_rows}
        for name, cells in rows.items():
            cells.append(values.get(name, ""))
    more = len(blocks) - len(shown)
    rest = [line(f"and {counted(more, 'more measure')}: frame() has all of them")] if more else []
    return "".join([listed(["condition", *(block.name for block in shown)], [*rows.values()]), *rest])


def _value(block: Block, row: Row) -> str:
    numbers = block.format
    interval = numbers.interval(*row.interval) if row.interval else None
    return numbers.number(row.value, row.absent) + (f" ({interval})" if interval else "")


def _doses(block: Block) -> Iterator[str]:
    for sweep in block.sweeps:
        if is_dose(sweep):
            title = f"{block.name} over {sweep.option} in {sweep.name}"
            curves = {sweep.name: _curve(block, sweep)}
            if sweep.has_control:
                curves["mean of random directions"] = [
                    (at, None if row.control is None else row.control.mean) for at, row in sweep.points
                ]
            yield line(title) + line_plot(title, sweep.option, curves)


def _curve(block: Block, sweep: Sweep) -> list[tuple[float, float | None]]:
    points = [(at, row.value) for at, row in sweep.points]
    if sweep.through_baseline and block.baseline is not None and all(at for at, _ in points):
        points.append((0.0, block.baseline.value))
    return sorted(points, key=lambda point: point[0])


def _by_layer(one: Separation) -> str:
    curves = {f"AUROC, {curve.label}": _points(curve.points("auroc")) for curve in one.curves}
    title = f"{one.title}: AUROC by layer"
    drawn = line_plot(title, "layer", curves)
    return line(title) + drawn if drawn else ""


def _points(measured: Sequence[tuple[int, float]]) -> list[tuple[float, float | None]]:
    return [(float(layer), value) for layer, value in measured]
