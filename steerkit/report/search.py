"""Searches: what candidates scored, in the form that figures and tables show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from steerkit.artifacts.reading import EvaluatorEntry, Results
from steerkit.artifacts.results import CandidateEntry, SearchEntry
from steerkit.errors import counted
from steerkit.intervals import total
from steerkit.report.numbers import count, sentence_case, setting, significant

Point = tuple[int, float]


@dataclass(frozen=True)
class Panel:
    """One score over the layers.

    Args:
        name: of the score.
        what: evaluator, prompts and intervention in words.
        lines: ``{label: pieces}`` of points that were scored, broken where one was not.
        baseline: the score without any intervention, or None.
        bounds: numbers that the score has to keep to.
        chosen: the point that was chosen, or None.
        unit: of the score, or empty.
    """

    name: str
    what: str
    lines: Mapping[str, tuple[tuple[Point, ...], ...]]
    baseline: float | None
    bounds: tuple[float, ...]
    chosen: Point | None
    unit: str = ""


@dataclass(frozen=True)
class SearchView:
    """A search as the page shows it, beside the evaluators of the recipe, from which scores have their units."""

    entry: SearchEntry
    evaluators: tuple[EvaluatorEntry, ...] = ()

    @property
    def chosen(self) -> CandidateEntry | None:
        """The candidate that was chosen."""
        return None if self.entry.chosen is None else self.entry.candidates[self.entry.chosen]

    @property
    def near_ties(self) -> tuple[CandidateEntry, ...]:
        """Those that the data don't tell from it."""
        return tuple(self.entry.candidates[place] for place in self.entry.near_ties)

    @property
    def best(self) -> tuple[CandidateEntry, ...]:
        """The feasible candidates, the best first."""
        sign = -1.0 if self.entry.maximise else 1.0
        alive = [one for one in self.entry.candidates if one.removed_by is None]
        return tuple(sorted(alive, key=lambda one: sign * (self.aimed_at(one) or 0.0)))

    @property
    def aims(self) -> tuple[str, ...]:
        """The score that is the objective, or those whose sum is."""
        return self.entry.aims or (self.entry.objective,)

    def aimed_at(self, one: CandidateEntry) -> float | None:
        """The objective of a candidate; None where it was not computed."""
        values = [value for name in self.aims if (value := one.scores.get(name)) is not None]
        return total(values) if len(values) == len(self.aims) else None

    @cached_property
    def panels(self) -> tuple[Panel, ...]:
        """The objective, then the others, as the recipe has them."""
        names = sorted(self.entry.scores, key=lambda name: name not in self.aims)
        return tuple(self._panel(name) for name in names)

    def _panel(self, name: str) -> Panel:
        entry, chosen = self.entry, self.chosen
        rows: dict[str, list[CandidateEntry]] = {}
        for one in entry.candidates:
            rows.setdefault(self.label(one), []).append(one)
        bounds = [bound for bound in entry.bounds.values() if bound["score"] == name]
        limits = tuple(
            limit for bound in bounds for limit in (bound["at_least"], bound["at_most"]) if limit is not None
        )
        value = None if chosen is None else chosen.scores.get(name)
        point = None if chosen is None or value is None else (chosen.layer, value)
        lines = {label: _pieces(found, name) for label, found in rows.items()}
        return Panel(name, says(entry.scores[name]), lines, entry.baseline.get(name), limits, point, self._unit(name))

    def _unit(self, name: str) -> str:
        """The unit of a score, from the evaluator of the recipe that is of the same plugin; empty without one.

        An evaluator that says no plugin is called as its plugin is, except in results from before it was said: there
        they are of one plugin where they also have the same options, and a unit too few is better than one of
        something else.
        """
        score = self.entry.scores[name]
        plugin, options = score["evaluator"], set(score.get("options") or ())
        same = (
            one
            for one in self.evaluators
            if one.plugin == plugin or (one.plugin is None and one.name == plugin and set(one.options) == options)
        )
        return next((one.unit for one in same), "")

    def label(self, one: CandidateEntry) -> str:
        """What a candidate's line is called: its position, with its direction, stream and coefficient where these
        differ."""
        streams = {item.site.rpartition(".")[2] for item in self.entry.candidates}
        parts = [f"position {setting(one.position)}" if one.position else "its positions"]
        parts += [one.site.rpartition(".")[2]] if len(streams) > 1 else []
        parts += [f"coefficient {setting(one.coefficient)}"] if one.coefficient is not None else []
        return ", ".join([*([one.over] if one.over else []), *parts])

    @property
    def sentence(self) -> str:
        """What was chosen, among how many, and how sure that is."""
        entry, chosen = self.entry, self.chosen
        total = len(entry.candidates)
        removed = ", ".join(f"{number} by {name}" for name, number in entry.removed_by.items() if number)
        left = f"{entry.feasible} of {counted(total, 'candidate')} kept to all bounds" + (
            f" ({removed} were removed)" if removed else ""
        )
        if chosen is None:
            return f"{left}; none could be chosen."
        value = self.aimed_at(chosen)
        aim = f"{'highest' if entry.maximise else 'lowest'} {entry.objective}, {significant(value)}"
        where = f"{chosen.site}, {self.label(chosen)}"
        ties = self.near_ties
        sure = "No other candidate is within one paired standard error of it."
        if ties:
            listed = "; ".join(f"{one.site}, {self.label(one)}" for one in ties[:3])
            more = f" and {len(ties) - 3} more" if len(ties) > 3 else ""
            verb = "is" if len(ties) == 1 else "are"
            sure = (
                f"{sentence_case(count(len(ties), 'other candidate'))} {verb} within one paired standard error of it, "
                f"so these prompts don't tell which of them is best: {listed}{more}."
            )
        return f"{left}; {where} has the {aim}. {sure}"


def says(score: Mapping[str, Any]) -> str:
    """``refusal_score on harmful.validation, under ablate``."""
    under = f", under {score['under']}" if score.get("under") else ""
    return f"{score['evaluator']} on {score['data']}{under}"


def _pieces(rows: list[CandidateEntry], name: str) -> tuple[tuple[Point, ...], ...]:
    """Neighbouring layers that were scored: a line over a gap would invent what is in it."""
    pieces: list[list[Point]] = [[]]
    before: int | None = None
    for one in sorted(rows, key=lambda row: row.layer):
        value = one.scores.get(name)
        if value is None or (before is not None and one.layer > before + 1):
            pieces.append([])
        if value is not None:
            pieces[-1].append((one.layer, value))
        before = one.layer
    return tuple(tuple(piece) for piece in pieces if piece)


def make_searches(results: Results) -> tuple[SearchView, ...]:
    """The searches of a run."""
    return tuple(SearchView(entry, results.evaluators) for entry in results.searches)
