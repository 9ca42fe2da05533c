"""Figures that set things beside each other: a trade-off of two rates, heat maps, cosines by layer, suffixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from steerkit.artifacts.reading import Results
from steerkit.report.cosine_plots import draw_cosines
from steerkit.report.cosines import Alike, make_alike
from steerkit.report.heat import Heat, make_heats
from steerkit.report.heat_plots import draw_heat
from steerkit.report.search import make_searches
from steerkit.report.suffix_plots import draw_heads, draw_suffixes
from steerkit.report.suffixes import SuffixView, make_suffixes
from steerkit.report.svg import Plot, make_plot
from steerkit.report.tables import Block
from steerkit.report.tradeoff import Tradeoff, make_tradeoff
from steerkit.report.tradeoff_plots import draw_tradeoff


@dataclass(frozen=True)
class Beside:
    """What is set side by side, each with its figure; None or empty where a run has none."""

    tradeoff: tuple[Tradeoff, Plot] | None
    heats: tuple[tuple[Heat, Plot], ...]
    alike: Alike | None
    cosines: Plot | None
    suffixes: tuple[tuple[SuffixView, tuple[Plot, ...]], ...] = ()

    @property
    def plots(self) -> tuple[Plot, ...]:
        """All figures, in the order of the page."""
        found = [] if self.tradeoff is None else [self.tradeoff[1]]
        found += [plot for _, plot in self.heats]
        found += [] if self.cosines is None else [self.cosines]
        return (*found, *(plot for _, plots in self.suffixes for plot in plots))


def make_beside(results: Results, blocks: Sequence[Block]) -> Beside:
    """Read from results what is set side by side, and draw it."""
    tradeoff, alike = make_tradeoff(results), make_alike(results)
    heats = make_heats(results, blocks, make_searches(results))
    return Beside(
        None if tradeoff is None else (tradeoff, _tradeoff_plot(tradeoff)),
        tuple((heat, _heat_plot(heat, number)) for number, heat in enumerate(heats, start=1)),
        alike,
        _cosine_plot(alike) if alike is not None and alike.lines else None,
        tuple((view, _suffix_plots(view, number)) for number, view in enumerate(make_suffixes(results), start=1)),
    )


def _tradeoff_plot(tradeoff: Tradeoff) -> Plot:
    title = f"{tradeoff.says(tradeoff.should)} against {' and '.join(tradeoff.should_not)}, for every condition"
    return make_plot("tradeoff", 1, (tradeoff.evaluator.name,), title, partial(draw_tradeoff, tradeoff))


def _heat_plot(heat: Heat, number: int) -> Plot:
    what = "every candidate's scores" if heat.kind == "search" else "what each condition changes"
    title = f"{heat.name}: {what}, by layer and {heat.row_name or 'position'}"
    return make_plot("heat", number, (heat.name,), title, partial(draw_heat, heat))


def _cosine_plot(alike: Alike) -> Plot:
    title = "Cosine of directions with each other, by layer"
    return make_plot("cosines", 1, (), title, partial(draw_cosines, alike.lines))


def _suffix_plots(view: SuffixView, number: int) -> tuple[Plot, ...]:
    title = f"Cosine of the last token with {view.entry.direction} by layer, with and without suffixes"
    plots = [make_plot("suffixes", number, (view.entry.name,), title, partial(draw_suffixes, view))]
    if view.entry.heads:
        told = f"Heads that add most along {view.entry.direction}, and what they attend to from the last token"
        plots.append(make_plot("suffix-heads", number, (view.entry.name,), told, partial(draw_heads, view)))
    return tuple(plots)
