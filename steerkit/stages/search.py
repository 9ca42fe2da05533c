"""The stages of a search: candidates scored, and one of them chosen."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from steerkit.api.direction_gaps import gaps_in_words
from steerkit.artifacts.results import CandidateEntry, SearchEntry, SearchStage
from steerkit.errors import NoCandidateError
from steerkit.intervals import standard_error
from steerkit.plan import PlannedScore
from steerkit.plan.listed import options_as_json
from steerkit.selection import NAN, Bound, Candidate, Rule, Selection, select
from steerkit.stages.condition import place_along
from steerkit.stages.task_groups import SearchTasks
from steerkit.stages.tasks import CandidatesTask, ChooseTask, ScoreUse
from steerkit.types import Positions

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.engine.searching.scorers import Choice, Probe
    from steerkit.engine.searching.search import Scored
    from steerkit.progress import Observer
    from steerkit.session.model import LiveModel


def score_candidates(
    payload: CandidatesTask, directions: Iterable[Direction], live: LiveModel, observer: Observer
) -> dict[str, Any]:
    """Score each site, position and coefficient of a direction, as JSON values."""
    from steerkit.engine.searching.search import CandidateSearch

    probes = [_probe(use, live) for use in payload.scores]
    directions = [one for one in directions if one.name in (payload.over, f"{payload.over}@{one.positions}")]
    choices = choices_of(directions, payload.over, payload.coefficients)
    lacking = gaps_in_words(directions)
    if lacking:
        observer.step(f"candidates of {payload.over}: {lacking}")
    search = CandidateSearch(live, probes, payload.rule, exhaustive=payload.exhaustive, observer=observer)
    found = search.run(choices)
    return {
        "n_layers": live.layout.n_layers,
        "rows": [_row(choice, scored, payload.rule) for choice, scored in zip(choices, found.scored, strict=True)],
        "stages": [{"score": one.name, "asked": one.asked, "alive": one.alive} for one in found.stages],
        "notes": [*([f"of {payload.over}, {lacking}"] if lacking else []), *found.notes],
        "baseline": dict(found.baseline),
    }


def choices_of(directions: Iterable[Direction], over: str, coefficients: Sequence[float] = ()) -> list[Choice]:
    """Every site of a direction, or of those that it has at several positions; in their order, then of the sites, then
    of the coefficients, where there are any.

    What an estimator gives beside its main direction is no candidate.
    """
    from steerkit.engine.searching.scorers import Choice

    return [
        Choice(_one_position(direction.positions), site, at, coefficient=coefficient)
        for direction in directions
        if direction.name in (over, f"{over}@{direction.positions}")
        for site, at in ((site, direction.at(site)) for site in direction.sites)
        for coefficient in coefficients or (None,)
    ]


def _one_position(positions: Positions) -> int:
    """The position that a direction was read at; 0, the token behind the prompt, where it was read at several."""
    return positions.indices[0] if not positions.role and len(positions.indices) == 1 else 0


def _probe(use: ScoreUse, live: LiveModel) -> Probe:
    from steerkit.engine.searching.scorers import Probe

    limits = (-math.inf, math.inf)
    if use.limits is not None:
        limits = use.limits(use.options, live.vocabulary.size)
    return Probe(
        use.name,
        use.evaluator.load()(use.options, live.vocabulary),
        use.needs,
        use.data,
        use.examples,
        lambda direction: tuple(place_along(item, direction) for item in use.under),
        limits,
        dict(use.references),
        (lambda direction, times: tuple(place_along(item, direction, times) for item in use.under))
        if use.varies
        else None,
    )


def _row(choice: Choice, scored: Scored, rule: Rule) -> dict[str, Any]:
    return {
        "position": choice.position,
        "layer": choice.site.layer,
        "site": str(choice.site),
        **({} if choice.coefficient is None else {"coefficient": choice.coefficient}),
        "norm": float(choice.direction.vectors.double().norm()),
        "scores": dict(scored.scores),
        "errors": {name: standard_error(values) for name, values in scored.by_example.items()},
        "removed_by": scored.failed,
        "broken_off": dict(scored.broken_off),
        "examples": {name: list(scored.by_example[name]) for name in rule.aims if name in scored.by_example},
    }


# Choosing


def chosen_among(payload: ChooseTask, tables: Mapping[str, Mapping[str, Any]]) -> Selection:
    """What the rule takes, with near-ties by paired standard errors."""
    candidates = [_candidate_of(payload, row, name) for name in payload.over for row in tables[name]["rows"]]
    n_layers = max(table["n_layers"] for table in tables.values())
    first = select(candidates, payload.rule, n_layers, near_tie=0.0)
    if first.winner is None:
        return first
    paired = _paired_errors(payload, tables, first.winner)
    known = [replace(one, errors=paired[one.place]) if one.place in paired else one for one in candidates]
    return select(known, payload.rule, n_layers, near_tie=0.0)


def _candidate_of(payload: ChooseTask, row: Mapping[str, Any], direction: str) -> Candidate:
    """A row as the rule sees it, told from those of other directions where there are any."""
    return _candidate(row, payload.rule, direction if len(payload.over) > 1 else "", payload.coefficients)


def _candidate(row: Mapping[str, Any], rule: Rule, direction: str, coefficients: Sequence[float] = ()) -> Candidate:
    """A row as the rule sees it. What was not computed, since something else had removed the candidate, is NaN."""
    scores = {name: _number(row["scores"].get(name)) for name in rule.scores}
    variant = " ".join(part for part in (direction, row["site"]) if part)
    times = row.get("coefficient")
    order = coefficients.index(times) if times in coefficients else 0
    return Candidate(
        row["position"],
        row["layer"],
        scores,
        variant=variant,
        removed_by=row["removed_by"],
        coefficient=times,
        order=order,
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _paired_errors(
    payload: ChooseTask, tables: Mapping[str, Mapping[str, Any]], winner: Candidate
) -> dict[tuple[int, int, str], dict[str, float]]:
    """By score that is aimed at the standard error of each candidate's minus the winner's, over the same examples."""
    rows = {
        _candidate_of(payload, row, name).place: row["examples"]
        for name in payload.over
        for row in tables[name]["rows"]
        if row["examples"]
    }
    own = rows[winner.place]
    # An example that has no score under one of the two says nothing of their difference.
    return {
        place: {
            name: standard_error(
                [a - b for a, b in zip(values, own[name], strict=True) if a is not None and b is not None]
            )
            for name, values in by_score.items()
        }
        for place, by_score in rows.items()
    }


def chosen_direction(
    payload: ChooseTask, tables: Mapping[str, Mapping[str, Any]], directions: Mapping[str, Mapping[str, Direction]]
) -> Direction:
    """The direction that the rule takes, under the search's name.

    Raises:
        NoCandidateError: where no candidate stays within all bounds.
    """
    found = chosen_among(payload, tables)
    if found.winner is None:
        raise NoCandidateError(f"Search {payload.name}: {found.why_none(payload.rule)}")
    winner = found.winner
    direction, _, site = winner.variant.rpartition(" ")
    name = direction or payload.over[0]
    held = next(
        one
        for one in directions[name].values()
        if _one_position(one.positions) == winner.position and one.name in (name, f"{name}@{one.positions}")
    )
    at = held.at(site)
    told = {
        "search": payload.name,
        "over": name,
        "position": winner.position,
        **({} if winner.coefficient is None else {"coefficient": winner.coefficient}),
        "scores": dict(winner.scores),
        "near_ties": len(found.near_ties),
        "feasible": found.feasible,
        "candidates": found.candidates,
    }
    return at.replace(name=payload.name, provenance={**at.provenance, "search": told})


# For readers


def describe_search(search: SearchTasks, outputs: Mapping[str, bytes]) -> SearchEntry:
    """A search as ``results.json`` lists it."""
    planned, payload = search.planned, search.chosen.payload
    assert isinstance(payload, ChooseTask)
    tables = {name: json.loads(outputs[task.key]) for name, task in search.scored.items()}
    found = chosen_among(payload, tables)
    several = len(tables) > 1
    times = payload.coefficients
    n_layers = max(table["n_layers"] for table in tables.values())
    rows = [(name, {**row, "removed_by": _removed_by(row, payload.rule, n_layers)}) for name, row in _rows(tables)]
    places = {_candidate_of(payload, row, name).place: at for at, (name, row) in enumerate(rows)}
    fields: tuple[str, ...] = ("position", "layer", "site", "norm", "scores", "errors", "removed_by", "broken_off")
    fields = (*fields, "coefficient") if times else fields
    return SearchEntry(
        name=planned.name,
        over=planned.over,
        objective=planned.rule.aim,
        aims=planned.rule.aims if planned.rule.plus else (),
        coefficients=times,
        maximise=planned.rule.maximise,
        subject_to={name: says for name, says in planned.rule.says().items() if name != NAN},
        exhaustive=planned.exhaustive,
        n_layers=n_layers,
        scores={one.name: _score_as_json(one) for one in planned.scores},
        baseline={name: value for table in tables.values() for name, value in table["baseline"].items()},
        bounds={bound.name: _bound_as_json(bound) for bound in planned.rule.bounds},
        layers_below=None if planned.rule.layers is None else planned.rule.layers.first_outside(n_layers),
        candidates=tuple(
            CandidateEntry(over=name if several else "", **{field: row[field] for field in fields})
            for name, row in rows
        ),
        chosen=None if found.winner is None else places[found.winner.place],
        near_ties=tuple(places[one.place] for one in found.near_ties),
        feasible=found.feasible,
        removed_by=dict(found.removed_by),
        stages=_added([table["stages"] for table in tables.values()]),
        notes=tuple(dict.fromkeys(note for table in tables.values() for note in table["notes"])),
    )


def _rows(tables: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, row) for name, table in tables.items() for row in table["rows"]]


def _removed_by(row: Mapping[str, Any], rule: Rule, n_layers: int) -> str | None:
    """What removed a candidate, as the rule counts it: in its order where all is scored, else what came first."""
    return rule.failure(_candidate(row, rule, ""), n_layers)


def _score_as_json(one: PlannedScore) -> dict[str, Any]:
    under = " and ".join(item.spec.name for item in one.under)
    return {"evaluator": one.spec.name, "data": str(one.data), "under": under, "options": options_as_json(one.options)}


def _bound_as_json(bound: Bound) -> dict[str, Any]:
    return {"score": bound.score, "at_least": bound.at_least, "at_most": bound.at_most}


def _added(listed: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[SearchStage, ...]:
    """Stages of several directions' candidates, added up by score."""
    found: dict[str, SearchStage] = {}
    for one in (one for stages in listed for one in stages):
        before = found.get(one["score"], SearchStage(score=one["score"], asked=0, alive=0))
        asked, alive = before.asked + one["asked"], before.alive + one["alive"]
        found[one["score"]] = SearchStage(score=one["score"], asked=asked, alive=alive)
    return tuple(found.values())


def candidate_rows(entry: SearchEntry) -> list[dict[str, Any]]:
    """Candidates as ``steerkit select`` reads them: scores side by side, null where one was not computed."""
    names = list(entry.scores)
    return [
        {
            "position": one.position,
            "layer": one.layer,
            "site": one.site,
            **({} if one.coefficient is None else {"coefficient": one.coefficient}),
            **({"over": one.over} if one.over else {}),
            **{name: one.scores.get(name) for name in names},
            **{f"{name}_se": one.errors.get(name) for name in names},
            "removed_by": one.removed_by,
        }
        for one in entry.candidates
    ]
