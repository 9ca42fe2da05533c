"""Runs of a sweep in one table: what a cell is of several seeds and of one, what isn't there, and the page of it."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from steerkit.artifacts.results import ConditionEntry, EvaluatorEntry, ModelEntry, RecordEntry, Results
from steerkit.artifacts.rundir import write_json
from steerkit.artifacts.sweeps import Sweep, SweepMember, write_sweep
from steerkit.report.sweep import FAILED, NOT_RUN, Cell, ReadSweep, read_sweep
from steerkit.report.sweep_page import render_sweep, write_sweep_report
from steerkit.report.sweep_terminal import print_sweep

CONDITIONS = [
    ConditionEntry(name="baseline", kind="baseline"),
    ConditionEntry(name="warmer", kind="intervention"),
    ConditionEntry(name="plain", kind="intervention"),
    *(ConditionEntry(name=f"warmer/random-{n}", kind="control", of="warmer") for n in (1, 2)),
]
Values = dict[str, float | None]


def run(folder: Path, name: str, values: Values, *, data: str = "a" * 64, aggregate: str = "mean") -> None:
    """A finished run: ``values`` by condition, half a unit to each side; a change where both have one."""
    base = values.get("baseline")
    records = [
        RecordEntry(
            condition=where,
            evaluator="warmth",
            data="probes",
            value=value,
            n=8 if value is not None else 0,
            ci_low=None if value is None else value - 0.5,
            ci_high=None if value is None else value + 0.5,
            difference=None if value is None or base is None or where == "baseline" else value - base,
            difference_ci_low=None if value is None or base is None or where == "baseline" else value - base - 0.1,
            difference_ci_high=None if value is None or base is None or where == "baseline" else value - base + 0.1,
            aggregate=aggregate,
        )
        for where, value in values.items()
    ]
    results = Results(
        name="words",
        model=ModelEntry(source="m"),
        conditions=tuple(one for one in CONDITIONS if one.name in values),
        evaluators=(EvaluatorEntry(name="warmth", summary="How <warm>.", unit="points", aggregate=aggregate),),
        records=tuple(records),
    )
    write_json(folder / name / "results.json", results.model_dump())
    write_json(folder / name / "provenance.json", {"data": {"probes": {"n": 8, "sha256": data}}})


def sweep(folder: Path, over: dict[str, list[Any]], *members: SweepMember, title: str = "Warm words") -> ReadSweep:
    whole = Sweep(
        recipe="r.yaml", name="words", title=title, over={k: tuple(v) for k, v in over.items()}, members=members
    )
    write_sweep(folder, whole)
    return read_sweep(folder)


def member(name: str | None, settings: dict[str, Any], state: str | None = None, **more: Any) -> SweepMember:
    model = settings.get("model.source", "m")
    told = state or ("finished" if name else "waiting")
    return SweepMember.model_validate(
        {"settings": settings, "model": model, "recipe_hash": "x", "state": told, "run": name, **more}
    )


SEEDS: dict[str, list[Any]] = {"model.source": ["m", "refused", "later"], "seed": [1, 2]}


@pytest.fixture
def found(tmp_path: Path) -> ReadSweep:
    """Three models and two seeds: one model is refused, one waits, and of the first a seed measured less."""
    run(tmp_path, "m1", {"baseline": 1.0, "warmer": 4.0, "plain": 2.0, "warmer/random-1": 3.0, "warmer/random-2": 5.0})
    second = {"baseline": 2.0, "warmer": 8.0, "plain": None, "warmer/random-1": 2.0, "warmer/random-2": 5.0}
    run(tmp_path, "m2", second, data="b" * 64)
    return sweep(
        tmp_path,
        SEEDS,
        member("m1", {"model.source": "m", "seed": 1}),
        member("m2", {"model.source": "m", "seed": 2}),
        member(None, {"model.source": "refused", "seed": 1}, "failed", error="No <layout>."),
        member(None, {"model.source": "refused", "seed": 2}, "failed", error="No <layout>."),
        member(None, {"model.source": "later", "seed": 1}),
        member(None, {"model.source": "later", "seed": 2}, "running"),
    )


def cells(found: ReadSweep) -> dict[str, dict[str, Cell]]:
    (table,) = found.tables
    labels = [column.label for column in found.columns]
    return {one.name: dict(zip(labels, listed, strict=True)) for one, listed in table.rows}


def test_a_cell_of_several_seeds_is_their_mean_and_range(found: ReadSweep) -> None:
    rows = cells(found)
    assert [*rows] == ["baseline", "warmer", "plain"], "controls stand beside their condition"
    assert rows["warmer"]["m"] == Cell(
        value=6.0, low=4.0, high=8.0, change=4.5, change_low=3.0, change_high=6.0, deviation=math.sqrt(8.0), measured=2,
        planned=2, within=1, controlled=2,
    )  # fmt: skip
    assert rows["baseline"]["m"].change is None


def test_what_is_not_there_says_why_and_is_not_zero(found: ReadSweep) -> None:
    rows = cells(found)
    plain = rows["plain"]["m"]
    assert (plain.value, plain.measured, plain.planned) == (2.0, 1, 2) and plain.low is None, "one seed has no range"
    for name in rows:
        assert rows[name]["refused"] == Cell(planned=2, absent=FAILED)
        assert rows[name]["later"] == Cell(planned=2, absent=NOT_RUN)
    assert found.told == "6 runs, 2 finished, 2 failed, 2 not run yet"
    assert found.failures == (((2, 3), "No <layout>."),)


def test_a_cell_of_one_seed_has_its_interval(tmp_path: Path) -> None:
    run(tmp_path, "a", {"baseline": 1.0, "warmer": 4.0, "warmer/random-1": 5.0, "warmer/random-2": 6.0})
    run(tmp_path, "b", {"baseline": 1.0, "plain": 0.5})
    found = sweep(
        tmp_path,
        {"model.source": ["x", "y"], "seed": [3]},
        member("a", {"model.source": "x", "seed": 3}),
        member("b", {"model.source": "y", "seed": 3}),
    )
    rows = cells(found)
    assert rows["warmer"]["x"] == Cell(
        value=4.0, low=3.5, high=4.5, change=3.0, change_low=2.9, change_high=3.1, measured=1, controlled=1
    )
    assert rows["warmer"]["y"] == Cell(absent="not measured") and rows["plain"]["x"].absent == "not measured"
    page = render_sweep(found)
    assert "seed</dt><dd>3 in all runs" in page and "no control" in page


@pytest.mark.parametrize(
    ("over", "labels"),
    [
        ({"seed": [1, 2]}, ["m"]),
        ({"model.source": ["a", "b"]}, ["a", "b"]),
        ({"model.source": ["a", "b"], "model.dtype": ["float32"]}, ["a", "b"]),
        ({"model.source": ["a"], "conditions.w.0.add.coefficient": [1, 2]}, ["coefficient=1", "coefficient=2"]),
        ({"model.source": ["a", "b"], "control": [{"n": 1}, None]}, ['a, control={"n": 1}', "a, control=null"]),
        ({"x.k": [1, 2], "y.k": [3, 4]}, ["x.k=1, y.k=3", "x.k=1, y.k=4"]),
    ],
)
def test_columns_are_what_differs_beside_the_seed(
    tmp_path: Path, over: dict[str, list[Any]], labels: list[str]
) -> None:
    from itertools import product

    members = [member(None, dict(zip(over, values, strict=True))) for values in product(*over.values())]
    assert [column.label for column in sweep(tmp_path, over, *members).columns][: len(labels)] == labels


def test_examples_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    def told(*hashes: str) -> str:
        places = [(model, seed) for model in ("x", "y") for seed in (1, 2)]
        for (model, seed), digest in zip(places, hashes, strict=True):
            run(tmp_path, f"{model}{seed}", {"baseline": 1.0}, data=digest)
        members = [member(f"{model}{seed}", {"model.source": model, "seed": seed}) for model, seed in places]
        (table,) = sweep(tmp_path, {"model.source": ["x", "y"], "seed": [1, 2]}, *members).tables
        return table.examples

    assert told("a", "a", "a", "a") == "the same examples in all runs"
    assert told("a", "b", "a", "b") == "other examples with each seed, the same in all columns"
    assert told("a", "a", "b", "b") == told("a", "b", "a", "c") == "not the same examples in all runs"


def test_a_run_that_can_not_be_read_counts_as_failed(found: ReadSweep) -> None:
    (found.path / "m1" / "results.json").write_text("{")
    again = read_sweep(found.path)
    assert again.failed.keys() == {0, 2, 3} and "is damaged" in again.failed[0]
    assert cells(again)["warmer"]["m"].measured == 1


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_one_file_that_leads_to_the_runs(found: ReadSweep) -> None:
    path = write_sweep_report(found.path)
    page = Page()
    page.feed(path.read_text())
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    ids = {attributes["id"] for _, attributes in page.tags if attributes.get("id")}
    assert all(link in ("m1/report.html", "m2/report.html") or (link or "")[1:] in ids for link in links)
    assert {"m1/report.html", "#failed-2", "#failed-3"} <= set(links)
    assert not [tag for tag, attributes in page.tags if tag in ("script", "link", "img") or "src" in attributes]
    words = " ".join(page.text.split())
    assert "No <layout>." in words and "How <warm>." in words and "<layout>" not in path.read_text()
    assert "as random, 1 of 2" in words and "1 of 2 seeds" in words and "change +4.5 (3.0 to 6.0)" in words
    assert words.count("not run yet") == 1 + 2 + 3, "of the sweep, of its runs, and in each cell"
    assert words.count("failed") >= 3 + 2


def test_colours_go_by_the_change_against_the_largest(tmp_path: Path) -> None:
    for name, warmer in (("x", 5.0), ("y", -1.0), ("z", 1.0)):
        run(tmp_path, name, {"baseline": 1.0, "warmer": warmer})
    members = [member(name, {"model.source": name}) for name in "xyz"]
    page = render_sweep(sweep(tmp_path, {"model.source": [*"xyz"]}, *members))
    shades = re.findall(r'class="num (above|below)" style="--deep: (\d+)%', page)
    assert shades == [("above", "60"), ("below", str(round(60 * 0.5**0.8)))]


def test_rates_change_by_percentage_points(tmp_path: Path) -> None:
    run(tmp_path, "x", {"baseline": 0.25, "warmer": 0.75}, aggregate="proportion")
    page = render_sweep(sweep(tmp_path, {"model.source": ["x"]}, member("x", {"model.source": "x"})))
    assert re.search(r"change \+50 pp \(40 to 60\)", page), re.findall(r"change [^<]*", page)


@pytest.mark.parametrize("width", [48, 100])
def test_a_terminal_has_the_same_and_no_number_is_broken(found: ReadSweep, width: int) -> None:
    console = Console(width=width, record=True, file=StringIO(), force_terminal=False)
    print_sweep(found, console)
    text = console.export_text()
    assert "6 runs, 2 finished, 2 failed, 2 not run yet" in text
    assert "model.source=refused, seed=1; model.source=refused, seed=2: No <layout>." in " ".join(text.split())
    assert ("6.0 (4.0 to 8.0)" in text) == (width == 100) and "6.0" in text
    assert "2.0, 1 of 2" in text and text.count(NOT_RUN) == 3 + 1


def test_numbers_for_other_programs_have_no_zero_for_what_is_not_there(found: ReadSweep) -> None:
    write_sweep_report(found.path)
    told = json.loads((found.path / "comparison.json").read_text())
    (table,) = told["tables"]
    empty = [one for one in table["cells"] if one["column"] != "m"]
    assert len(empty) == 6 and all(one["value"] is None and one["absent"] in (FAILED, NOT_RUN) for one in empty)
    assert [run["state"] for column in told["columns"] for run in column["runs"]] == [
        *("finished", "finished", "failed", "failed", "waiting", "running")
    ]
