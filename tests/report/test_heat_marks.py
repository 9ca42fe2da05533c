"""What a search removed is marked in a corner of its cell: clear of the number, visible on any colour, explained."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.colors import to_hex

from steerkit.artifacts.reading import Results
from steerkit.report.heat import Heat, make_heats
from steerkit.report.heat_plots import draw_heat
from steerkit.report.search import make_searches
from steerkit.report.svg import CARD, INK
from steerkit.report.tables import make_blocks
from tests.report.study import study


def few(layers: range = range(15, 21)) -> Heat:
    results = study()
    search = results["searches"][0]
    chosen = search["candidates"][search["chosen"]]
    search["candidates"] = [one for one in search["candidates"] if one["layer"] in layers and one["position"] >= -2]
    search.update(chosen=search["candidates"].index(chosen), near_ties=[])
    for number, one in enumerate(search["candidates"]):
        one["removed_by"] = "kl" if number % 2 and one is not chosen else None
        one["scores"]["kl"] = one["scores"]["kl"] or 0.047
    read = Results.model_validate(results)
    (heat,) = make_heats(read, make_blocks(read), make_searches(read))
    return heat


def marks(axes: Any) -> list[Any]:
    return [patch for patch in axes.patches if patch.get_gid() == "removed"]


@pytest.mark.parametrize("layers", [range(15, 21), range(13, 21), range(18, 20)])
def test_a_mark_is_in_the_corner_of_its_cell_and_off_every_number(layers: range) -> None:
    heat = few(layers)
    figure = draw_heat(heat)
    figure.draw_without_rendering()
    renderer = figure._get_renderer()  # type: ignore[attr-defined]  # as matplotlib's own tests take one
    assert len(figure.axes) == 2 and heat.removed
    for axes in figure.axes:
        corners = [tuple(patch.get_xy()[1]) for patch in marks(axes)]
        assert sorted(corners) == sorted((column + 1.0, float(row)) for row, column in heat.removed)
        numbers = [text.get_window_extent(renderer) for text in axes.texts]
        assert len(numbers) == len(heat.rows) * len(heat.columns)
        assert not any(patch.get_window_extent(renderer).overlaps(box) for patch in marks(axes) for box in numbers)
        assert all(patch.get_zorder() > text.get_zorder() for patch in marks(axes) for text in axes.texts)


def test_a_mark_has_the_ink_and_an_edge_of_the_page_so_that_it_stands_on_light_and_dark() -> None:
    for axes in draw_heat(few()).axes:
        assert {(to_hex(one.get_facecolor()), to_hex(one.get_edgecolor())) for one in marks(axes)} == {(INK, CARD)}


def test_the_key_shows_the_mark() -> None:
    (legend,) = draw_heat(few()).legends
    keys: list[Any] = legend.legend_handles
    shown = {text.get_text(): key for text, key in zip(legend.get_texts(), keys, strict=True)}
    mark = shown["removed"]
    assert mark.get_marker() == [(-1, 1), (1, 1), (1, -1)] and mark.get_markersize() > 4
    assert to_hex(mark.get_color()) == INK and not any("dot" in word for word in shown)
