"""Several runs side by side: the conditions of all of them under each evaluator that saw the same examples.

Runs are called A, B, C… in the order in which they are given. What is compared is one evaluator with the same options
on data of the same hash (and, where a run filters its data, of the same filter): a name alone means nothing, since the
same name may stand for other rows in another recipe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Final

import yaml

from steerkit.api.frames import frame_or_rows
from steerkit.artifacts.reading import Run
from steerkit.artifacts.results import ConditionEntry, EvaluatorEntry, RecordEntry, Results
from steerkit.errors import SteerkitError, agreeing, counted
from steerkit.report.frames import ReadRun, Rows, numbers_of, read_run
from steerkit.report.numbers import joined
from steerkit.report.tables import Block, Row, make_blocks

MOST: Final = len(ascii_uppercase)
IS_THERE: Final = "is there"
NAMED: Final = frozenset({"data", "directions", "conditions", "evaluate", "monitors", "search", "filter", "suffixes"})
"""Sections of a recipe in which names stand for parts."""

Measure = tuple[str, str, str]
"""An evaluator's name, what it is with all of its options, and what its data are."""


@dataclass(frozen=True)
class Difference:
    """A setting in which runs differ.

    Args:
        key: where it stands, dotted.
        values: by run; None where the run has no such setting, which is what null says too.
    """

    key: str
    values: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several runs, aligned.

    Args:
        runs: by letter.
        merged: conditions and records of all of them, under names that begin with the run's letter.
        recipe: settings in which the recipes differ; paths of data of the same hash are none.
        made_with: what else differs: versions, code, machine.
        alone: measures that only one run has, as sentences.
        called: data sets that have several names, and names that stand for several data sets, as sentences.
        data: hash of each data set of ``merged``, by its name there.
    """

    runs: Mapping[str, Run]
    merged: Results
    recipe: tuple[Difference, ...]
    made_with: tuple[Difference, ...]
    alone: tuple[str, ...]
    called: tuple[str, ...]
    data: Mapping[str, str]

    def __repr__(self) -> str:
        common, differing = len(self.blocks), len(self.recipe)
        runs = "\n".join(f"  {letter}: {run.title}, {run.path}" for letter, run in self.runs.items())
        return (
            f"<comparison of {counted(len(self.runs), 'steerkit run')}: {counted(common, 'measure')} in common, "
            f"{counted(differing, 'setting')} of the recipes {agreeing(differing, 'differs', 'differ')}\n{runs}>"
        )

    def _repr_html_(self) -> str:
        from steerkit.api.showing import card, line, listed
        from steerkit.report.compare_terminal import written
        from steerkit.report.shown import blocks_as_html

        runs = [line(f"{letter}: {run.title}, {run.path}") for letter, run in self.runs.items()]
        rows = [[one.key, *(written(one.values[letter]) for letter in self.runs)] for one in self.recipe]
        differs = [listed(["setting", *self.runs], rows, plain=1 + len(self.runs))] if rows else []
        return card(f"{counted(len(self.runs), 'run')} side by side", *runs, *differs, blocks_as_html(self.blocks))

    @property
    def blocks(self) -> tuple[Block, ...]:
        """A table for each measure that at least two runs have."""
        return tuple(map(_of_runs_that_have_it, make_blocks(self.merged)))

    def rows(self) -> Rows:
        """What is compared: a row for each run, condition and measure, as ``steerkit.read_run(...).rows()`` has them.

        ``run`` is the letter; ``data`` and ``evaluator`` are named as in the first run that has them.
        """
        places, *_ = _shared(self.runs)
        found = []
        for letter, run in self.runs.items():
            identities = _identities(run)
            for row, record in zip(ReadRun(run).rows(), run.results.records, strict=True):
                place = places.get(identities[(record.evaluator, record.data)])
                if place is not None:
                    found.append({**row, "run": letter, "evaluator": place[0], "data": place[1]})
        return found

    def frame(self) -> Any:
        """``rows()`` as a ``pandas.DataFrame``; where pandas isn't installed, the rows themselves."""
        rows = self.rows()
        return frame_or_rows(rows, numbers_of(rows))


def compare_runs(paths: Sequence[str | Path]) -> Comparison:
    """Put finished runs side by side.

    Args:
        paths: at least two run directories.

    Raises:
        ArtifactError: where one isn't a finished run, or is damaged.
        SteerkitError: for fewer than two, or more than there are letters.
    """
    if isinstance(paths, (str, Path)) or len(paths) < 2:
        raise SteerkitError("Runs are compared with each other: name two run directories, or more.")
    if len(paths) > MOST:
        raise SteerkitError(f"{len(paths)} runs are more than a table holds: name at most {MOST}.")
    where = [Path(path).resolve() for path in paths]
    twice = next((str(path) for path in where if where.count(path) > 1), None)
    if twice is not None:
        raise SteerkitError(f"{twice} is named twice: a run is not compared with itself.")
    runs = {letter: read_run(path).run for letter, path in zip(ascii_uppercase, paths, strict=False)}
    places, alone, called, data = _shared(runs)
    return Comparison(runs, _merged(runs, places), _recipes(runs), made_with(runs), alone, called, data)


# What is the same measure


def _identities(run: Run) -> dict[tuple[str, str], Measure]:
    """What each evaluator and data set of a run is, whatever they are called."""
    parents = {
        name: entry
        for entry in run.results.evaluators
        for label in ("", *entry.derived)
        for name in ((entry.name,) if not label else (label, f"{entry.name}.{label}"))
    }
    found = {}
    for record in run.results.records:
        entry = parents.get(record.evaluator, EvaluatorEntry(name=record.evaluator))
        told = json.dumps([record.aggregate, record.unit, dict(entry.options)], sort_keys=True)
        found[(record.evaluator, record.data)] = (record.evaluator, told, _examples(run, record.data))
    return found


def _examples(run: Run, data: str) -> str:
    """What tells a data set from any other: the hash of its examples, and by what they were filtered."""
    known = run.origin.data.get(data)
    digest = known.sha256 if known is not None and known.sha256 else ""
    if not digest:  # what the model itself said, or a run that doesn't say: its own
        said = run.path / f"completions-{data.partition('.')[0]}.jsonl"
        digest = sha256(said.read_bytes()).hexdigest() if said.is_file() else f"{run.path.resolve()} {data}"
    # Which examples a filter keeps is the model's doing.
    model = run.origin.model.get("weights_sha256") or run.results.model.source
    kept = [f"{one.keep}, {one.kept} kept by {model}" for one in run.results.filters if one.data == data]
    return " ".join([digest, *kept])


Places = dict[Measure, tuple[str, str]]


def _shared(runs: Mapping[str, Run]) -> tuple[Places, tuple[str, ...], tuple[str, ...], dict[str, str]]:
    """The measures of at least two runs, with the names that they get; what else there is, in words; hashes by name."""
    found: dict[Measure, dict[str, str]] = {}
    for letter, run in runs.items():
        for (_, data), measure in _identities(run).items():
            found.setdefault(measure, {}).setdefault(letter, data)  # under two names they give the same twice
    places: Places = {}
    hashes: dict[str, str] = {}
    for measure, names in found.items():
        if len(names) < 2:
            continue
        evaluator, _, examples = measure
        name = next(iter(names.values()))
        if hashes.setdefault(name, examples) != examples:
            name = f"{name} of {', '.join(names)}"
            hashes[name] = examples
        if (evaluator, name) in places.values():  # with other options
            evaluator = f"{evaluator} of {', '.join(names)}"
        places[measure] = (evaluator, name)
    alone = [
        f"{evaluator} on {called} in {letter} only"
        for (evaluator, *_), names in found.items()
        if len(names) == 1
        for letter, called in names.items()
    ]
    return places, tuple(alone), _namesakes(found), hashes


def _namesakes(found: Mapping[Measure, Mapping[str, str]]) -> tuple[str, ...]:
    """Examples with several names, names with several sets of examples, and evaluators with other options, in words."""
    names: dict[str, dict[str, dict[str, None]]] = {}
    examples: dict[str, dict[str, dict[str, None]]] = {}
    options: dict[str, dict[str, dict[str, None]]] = {}
    for (evaluator, told, digest), by in found.items():
        for letter, name in by.items():
            names.setdefault(digest, {}).setdefault(name, {})[letter] = None
            examples.setdefault(name, {}).setdefault(digest, {})[letter] = None
            options.setdefault(evaluator, {}).setdefault(told, {})[letter] = None
    said = [
        f"the same examples are called {'; '.join(f'{name} in {joined(by)}' for name, by in called.items())}"
        for called in names.values()
        if len(called) > 1
    ]
    for what, groups in (("holds other examples", examples), ("has other options", options)):
        for name, by_identity in groups.items():
            first, *others = by_identity.values()
            said += [f"{name} {what} in {joined(other)} than in {joined(first)}" for other in others]
    return tuple(said)


# All runs as one


def _of_runs_that_have_it(block: Block) -> Block:
    """A block without the conditions of runs that have nothing in it."""
    there = {row.condition.name.partition(":")[0] for row in block.all_rows if row.record is not None}

    def belongs(row: Row) -> bool:
        return row.condition.name.partition(":")[0] in there

    kept = [row for row in block.all_rows if belongs(row)]
    baseline = next((row for row in kept if row.condition.kind == "baseline"), None)
    sweeps = tuple(sweep for sweep in block.sweeps if all(belongs(row) for _, row in sweep.points))
    return replace(block, baseline=baseline, rows=tuple(row for row in kept if row is not baseline), sweeps=sweeps)


def _merged(runs: Mapping[str, Run], places: Places) -> Results:
    conditions: list[ConditionEntry] = []
    records: list[RecordEntry] = []
    evaluators: dict[str, EvaluatorEntry] = {}
    there: set[tuple[str, str, str, str]] = set()
    for letter, run in runs.items():
        conditions += [_lettered(entry, letter) for entry in run.results.conditions]
        known = {entry.name: entry for entry in run.results.evaluators}
        identities = _identities(run)
        for record in run.results.records:
            place = places.get(identities[(record.evaluator, record.data)])
            if place is None or (letter, record.condition, *place) in there:
                continue
            there.add((letter, record.condition, *place))
            records.append(
                record.model_copy(
                    update={
                        "condition": f"{letter}: {record.condition}",
                        "evaluator": place[0],
                        "data": place[1],
                    }
                )
            )
            if record.evaluator in known:
                evaluators.setdefault(place[0], known[record.evaluator].model_copy(update={"name": place[0]}))
    first = next(iter(runs.values())).results
    title = " and ".join(dict.fromkeys(run.title for run in runs.values()))
    return Results(
        name="comparison",
        title=title,
        model=first.model,
        conditions=tuple(conditions),
        evaluators=tuple(evaluators.values()),
        records=tuple(records),
    )


def _lettered(entry: ConditionEntry, letter: str) -> ConditionEntry:
    """A condition under its run's letter."""
    return entry.model_copy(
        update={
            "name": f"{letter}: {entry.name}",
            "of": None if entry.of is None else f"{letter}: {entry.of}",
            "sweep": None if entry.sweep is None else f"{letter}: {entry.sweep}",
        }
    )


# What differs


def _recipes(runs: Mapping[str, Run]) -> tuple[Difference, ...]:
    """Settings that aren't the same in all recipes. A file counts by what it holds, which the hashes say."""
    hashes = {letter: {name: facts.sha256 for name, facts in run.origin.data.items()} for letter, run in runs.items()}
    found = []
    for one in _differing({letter: _settings(run) for letter, run in runs.items()}):
        parts = one.key.split(".")
        if parts[0] == "data" and parts[2:] == ["file"]:
            of_name = [
                {name: digest for name, digest in of.items() if name.partition(".")[0] == parts[1]}
                for of in hashes.values()
            ]
            if of_name[0] and all(of_name[0].values()) and all(other == of_name[0] for other in of_name):
                continue
        found.append(one)
    return tuple(found)


def _settings(run: Run) -> dict[str, Any]:
    try:
        read = yaml.safe_load(run.recipe or "")
    except (yaml.YAMLError, RecursionError):
        return {}
    return dict(_flat(read)) if isinstance(read, dict) else {}


def made_with(runs: Mapping[str, Run]) -> tuple[Difference, ...]:
    """Weights, versions, plugins' code, machine and commits, where they aren't the same."""
    recipes = {one.key for one in _differing({letter: _settings(run) for letter, run in runs.items()})}
    told = {}
    for letter, run in runs.items():
        origin = run.origin
        plugins = {f"{one.get('kind')} {one.get('name')}": one.get("sha256") for one in run.origin.plugins}
        git = {name: None if state is None else state.commit for name, state in origin.git}
        told[letter] = dict(
            _flat(
                {
                    "model": dict(origin.model),
                    "versions": dict(origin.versions),
                    "platform": origin.platform.model_dump(),
                    "plugins": plugins,
                    "commit": git,
                }
            )
        )
    return tuple(one for one in _differing(told) if one.key not in recipes)


def _differing(settings: Mapping[str, Mapping[str, Any]]) -> tuple[Difference, ...]:
    """Settings that aren't the same everywhere; of a part that some have and others haven't, that alone."""
    parts = {letter: {_part(key) for key in one} for letter, one in settings.items()}
    found: dict[str, Difference] = {}
    for key in dict.fromkeys(key for one in settings.values() for key in one):
        part = _part(key)
        if part and any(part not in there for there in parts.values()):
            values = {letter: IS_THERE if part in there else None for letter, there in parts.items()}
            found.setdefault(part, Difference(part, values))
            continue
        values = {letter: one.get(key) for letter, one in settings.items()}
        if len({json.dumps(value, default=str) for value in values.values()}) > 1:
            found[key] = Difference(key, values)
    return tuple(found.values())


def _part(key: str) -> str:
    """What a setting belongs to that a recipe may have or not: a data set, a direction, a condition, an evaluator."""
    section, _, rest = key.partition(".")
    name, _, rest = rest.partition(".")
    return f"{section}.{name}" if rest and section in NAMED else ""


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Settings by dotted key; lists of mappings by number, other lists whole."""
    found: list[tuple[str, Any]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if name == "evaluate" and isinstance(item, list):
            item = {options.pop("name", kind): {**options, "evaluator": kind} for kind, options in _evaluators(item)}
        elif isinstance(item, list) and item and all(isinstance(one, dict) for one in item):
            item = {str(number): one for number, one in enumerate(item)}
        if isinstance(item, dict) and item:
            found += _flat(item, f"{name}.")
        else:
            found.append((name, item if isinstance(item, (str, int, float, bool, list)) or item is None else str(item)))
    return found


def _evaluators(listed: Sequence[Any]) -> list[tuple[str, dict[str, Any]]]:
    """Evaluators of a recipe with their options. They go by name: one more before them changes nothing of them."""
    pairs = [next(iter(one.items())) for one in listed if isinstance(one, dict) and one]
    return [(str(kind), dict(options)) for kind, options in pairs if isinstance(options, dict)]
