"""The figures of a study of suffixes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from steerkit.artifacts.results import SuffixGroupEntry
from steerkit.report.layer_cosines import WIDTH, cosine_axes, legend_below
from steerkit.report.numbers import shorten
from steerkit.report.suffixes import SuffixView, group_name
from steerkit.report.svg import CONTROL, GRID, INK, MARKERS, MUTED, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TO_SUFFIX: Final = "attention to the suffix (%)"
AROUND: Final = 0.14
"""Of a panel's height, above its highest mark and below its lowest one."""
MOST_GIVEN: Final = 5
"""Given suffixes that are drawn; all are in the table."""


def draw_suffixes(view: SuffixView) -> Figure:
    """Cosine by layer, a line for each group with a band of one standard error; random suffixes thin and grey."""
    shown = _shown(view)
    figure, axes = cosine_axes(len({_label(view, group) for group in shown}))
    handles: dict[str, Any] = {}
    for group in shown:
        points = [(layer, value) for layer, value in enumerate(group.cosines) if value is not None]
        if not points:
            continue
        layers, values = zip(*points, strict=True)
        style = _style(view, group)
        (line,) = axes.plot(layers, values, **style)
        handles.setdefault(_label(view, group), line)
        errors = [group.errors[layer] for layer in layers] if group.errors else []
        if group.kind != "random" and errors and all(one is not None for one in errors):
            low = [value - (one or 0.0) for value, one in zip(values, errors, strict=True)]
            high = [value + (one or 0.0) for value, one in zip(values, errors, strict=True)]
            axes.fill_between(layers, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.axvline(view.layer, color=GRID, linewidth=3, zorder=0)
    legend_below(figure, list(handles.values()), list(handles))
    return figure


def draw_heads(view: SuffixView) -> Figure:
    """The heads that add most: what they add along the direction, and their attention; a mark for each group."""
    from matplotlib.figure import Figure

    heads, groups = view.entry.heads, view.entry.groups
    panels = [("added along the direction (projection)", [one.attribution for one in heads])]
    if view.attends:
        panels.append(("attention to the instruction (%)", [_percent(one.instruction) for one in heads]))
        panels.append((TO_SUFFIX, [_percent(one.suffix) for one in heads]))
    shown = _shown(view)
    labels = list(dict.fromkeys(_label(view, group) for group in shown))
    height = 1.35 * len(panels) + 0.6 + 0.19 * len(labels)
    figure = Figure(figsize=(WIDTH, height))
    figure.subplots_adjust(
        left=0.62 / WIDTH, right=1 - 0.2 / WIDTH, bottom=(height - 1.35 * len(panels)) / height, top=1 - 0.3 / height,
        hspace=0.42,
    )  # fmt: skip
    handles: dict[str, Any] = {}
    for number, (title, values) in enumerate(panels, start=1):
        axes = figure.add_subplot(len(panels), 1, number)
        for group in shown:
            place = groups.index(group)
            if title == TO_SUFFIX and group.suffix is None:
                continue
            aside = _aside(shown, group)
            told = [(at + aside, one[place]) for at, one in enumerate(values) if place < len(one)]
            points = [(at, value) for at, value in told if value is not None]
            style = _style(view, group)
            small = group.kind == "random"
            (marks,) = axes.plot(
                [at for at, _ in points], [value for _, value in points], linestyle="", color=style["color"],
                marker="_" if small else style["marker"], markersize=7 if small else 4.5, zorder=style["zorder"],
            )  # fmt: skip
            handles.setdefault(_label(view, group), marks)
        axes.axhline(0, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
        axes.margins(y=AROUND)
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        named = [f"{one.layer}.{one.head}" for one in heads]
        axes.set_xticks(range(len(heads)), named if number == len(panels) else [])
        axes.set_xlim(-0.55, len(heads) - 0.4)
        axes.set_title(title, color=MUTED, fontsize=9, x=-0.13)
    axes.set_xlabel("layer.head")
    figure.legend(
        list(handles.values()), list(handles), loc="lower left", bbox_to_anchor=(0.01, 0.0), ncols=1, frameon=False,
        fontsize=8, handlelength=1.8, handletextpad=0.5, labelspacing=0.35, labelcolor=MUTED, borderaxespad=0.2,
    )  # fmt: skip
    return figure


def _percent(shares: Sequence[float | None]) -> tuple[float | None, ...]:
    return tuple(None if share is None else 100 * share for share in shares)


def _aside(shown: Sequence[SuffixGroupEntry], group: SuffixGroupEntry) -> float:
    """How far a group's marks stand from a head's place, so that equal ones don't cover each other."""
    named = [one for one in shown if one.kind != "random"]
    if group.kind == "random":
        return 0.3
    return 0.5 * ((named.index(group) + 0.5) / len(named) - 0.6)


def _shown(view: SuffixView) -> list[SuffixGroupEntry]:
    """Random ones first, under the others."""
    groups = view.entry.groups
    given = [group for group in groups if group.kind == "suffix"][:MOST_GIVEN]
    drawn = [group for group in groups if group.kind == "random" and (group.of or 0) < MOST_GIVEN]
    return [*drawn, *(group for group in groups if group.kind in ("prompts", "reference")), *given]


def _label(view: SuffixView, group: SuffixGroupEntry) -> str:
    if group.kind == "random":
        return "random suffixes of as many tokens"
    name = group_name(view.entry, group)
    return name if group.suffix is None else shorten(f"{name}: {group.suffix.strip()}", 56)


def _style(view: SuffixView, group: SuffixGroupEntry) -> dict[str, Any]:
    if group.kind == "random":
        return {"color": CONTROL, "linewidth": 0.9, "linestyle": "--", "zorder": 2}
    drawn = [one for one in _shown(view) if one.kind != "random"]
    at = drawn.index(group)
    mark = {"marker": MARKERS[at % len(MARKERS)], "markersize": 4.2, "markevery": (at, 4)}
    return {"color": SERIES[at % len(SERIES)], "linewidth": 1.4, "zorder": 3, **mark}
