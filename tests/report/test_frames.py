"""A run as rows and frames: every number of results.json, in its place."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import steerkit
from steerkit.artifacts.results import Results
from steerkit.errors import ArtifactError, SteerkitError
from steerkit.report.frames import ReadRun
from steerkit.run import run_recipe
from tests.small_run import RECIPE, results_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "small.yaml").write_text(RECIPE)
    return run_recipe(folder / "small.yaml", out=folder / "runs")


@pytest.fixture
def read(run: Path, monkeypatch: pytest.MonkeyPatch) -> ReadRun:
    """The run, where pandas isn't installed."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    return steerkit.read_run(run)


def test_rows_are_what_results_say(read: ReadRun, run: Path) -> None:
    rows, records = read.rows(), results_of(run)["records"]
    assert len(rows) == len(records)
    for row, record in zip(rows, records, strict=True):
        kept = {name: record.get(name) for name in record if name in row}
        assert {name: row[name] for name in kept} == kept and len(kept) >= 14
    assert {tuple(row) for row in rows} == {tuple(rows[0])}, "every row has every column"
    hashes = json.loads((run / "provenance.json").read_text())["data"]
    assert all(row["data_sha256"] == hashes[row["data"]]["sha256"] for row in rows)
    assert {row["run"] for row in rows} == {run.name}


def test_rows_know_their_sweep_and_their_controls(read: ReadRun) -> None:
    rows = {row["condition"]: row for row in read.rows() if row["evaluator"] == "kl_divergence"}
    assert rows["dose[coefficient=-2]"]["swept_coefficient"] == -2 and rows["dose[coefficient=-2]"]["sweep"] == "dose"
    assert rows["warmer"]["swept_coefficient"] is None and rows["warmer"]["kind"] == "intervention"
    controls = [rows[f"warmer/random-{number}"]["value"] for number in (1, 2)]
    warmer = rows["warmer"]
    assert warmer["control_low"] == min(controls) and warmer["control_high"] == max(controls)
    assert warmer["control_mean"] == pytest.approx(sum(controls) / 2, abs=1e-12) and warmer["controls"] == 2
    assert rows["warmer/random-1"]["of"] == "warmer" and rows["warmer/random-1"]["controls"] == 0
    assert rows["dose[coefficient=2]"]["controls"] == 0 and rows["dose[coefficient=2]"]["control_mean"] is None


def test_samples_are_what_the_file_holds(read: ReadRun, run: Path) -> None:
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    rows = read.samples()
    assert len(rows) == len(lines) > 10
    for row, line in zip(rows, lines, strict=True):
        assert (row["condition"], row["data"], row["prompt"]) == (line["condition"], line["data"], line["prompt"])
        assert row["completion"] == line["completion"]
        assert {f"score_{name}": value for name, value in line["scores"].items()}.items() <= row.items()
    assert len({tuple(row) for row in rows}) == 1


def test_directions_are_the_runs(read: ReadRun, run: Path) -> None:
    (direction,) = read.directions.values()
    (saved,) = steerkit.load_directions(run / "directions.safetensors").values()
    assert direction.name == "warmth" and direction.vectors.equal(saved.vectors)
    assert read.recipe == (run / "recipe.yaml").read_text() and read.provenance["seed"] == 7
    assert read.path == run and read.results.name == "small"
    assert repr(read).count("\n") == 0 and "5 conditions, 6 measures" in repr(read)


def test_a_run_in_a_notebook_is_its_conditions_its_doses_and_its_layers(read: ReadRun) -> None:
    shown = read._repr_html_()
    assert shown.count("<polyline") >= 2 and "over coefficient in dose" in shown and "AUROC by layer" in shown
    told = Results.model_validate(read.results)
    value = next(one.value for one in told.records if one.condition == "warmer" and one.evaluator == "kl_divergence")
    assert value is not None and f">{value:.2g}"[:4] in shown
    assert "dose[coefficient=-2]" in shown and "random-1" not in shown, "controls stand in the plots alone"
    for whole in (read.run, read.results):
        assert len(repr(whole)) < 2500 and str(whole) == repr(whole) and "\n" not in repr(whole)


def test_frames_are_of_pandas_where_it_is_installed(read: ReadRun, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read.frame() == read.rows() and read.samples() == read.sample_rows()
    made: list[Any] = []
    kinds: list[Any] = []
    frame = SimpleNamespace(astype=lambda asked: kinds.append(asked) or "a frame")
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows: made.append(rows) or frame))
    assert read.frame() == read.samples() == "a frame"
    assert made == [read.rows(), read.sample_rows()]
    # Columns that hold no number at all are columns of numbers still.
    numbers = {name for row in made[0] + made[1] for name, one in row.items() if isinstance(one, float)}
    asked = {**kinds[0], **kinds[1]}
    assert numbers <= set(asked) and set(asked.values()) == {float} and "score_refusal_rate" in asked
    assert not {"condition", "n", "example", "prompt"} & set(asked)


def test_a_frame_holds_numbers(run: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = steerkit.read_run(run).frame()
    assert isinstance(frame, pandas.DataFrame) and frame["value"].dtype == float
    assert frame.set_index(["condition", "evaluator", "data"]).index.is_unique


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has no results\.json"):
        steerkit.read_run(tmp_path)
    with pytest.raises(SteerkitError, match="by the path of its directory, not by a NoneType"):
        steerkit.read_run(None)  # type: ignore[arg-type]


def test_a_run_without_directions_has_none(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        """
model: {source: "tiny-random:llama", dtype: float32}
data: {a: {inline: [one, two]}}
conditions: {asked: {system_prompt: Be warm.}}
evaluate: [refusal_score: {data: a}]
"""
    )
    assert steerkit.read_run(run_recipe(tmp_path / "r.yaml", out=tmp_path / "runs")).directions == {}
