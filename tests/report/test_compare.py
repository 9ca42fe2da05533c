"""Runs side by side: aligned by what their data hold, whatever these are called; and what differs between them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

import steerkit
from steerkit.artifacts.reading import Run
from steerkit.artifacts.results import FilterEntry, ModelEntry, Results
from steerkit.cli.main import main
from steerkit.errors import ArtifactError, SteerkitError
from steerkit.report.compare import IS_THERE, Comparison, _examples, compare_runs
from steerkit.run import run_recipe
from tests.small_run import RECIPE, results_of

WEAKER = RECIPE.replace("coefficient: 3.0", "coefficient: 1.5").replace("name: small", "name: weaker")
RENAMED = RECIPE.replace("cold.t", "icy.t").replace("  cold:", "  icy:").replace("sentence of some", "sentence of few")
OTHER_SEED = RECIPE.replace("seed: 7", "seed: 8")
OTHER_OPTIONS = RECIPE.replace("max_new_tokens: 4}\n  - cross", "max_new_tokens: 3}\n  - cross")
MORE = RECIPE.replace("  - kl_", "  - refusal_rate: {name: again, data: warm.test, max_new_tokens: 2}\n  - kl_")
RECIPES = {
    "small": RECIPE,
    "weaker": WEAKER,
    "renamed": RENAMED,
    "seed": OTHER_SEED,
    "options": OTHER_OPTIONS,
    "more": MORE,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for name, text in RECIPES.items():
        assert text != RECIPE or name == "small"
        (folder / f"{name}.yaml").write_text(text)
        found[name] = run_recipe(folder / f"{name}.yaml", out=folder / name, store=folder / "store")
    return found


@pytest.fixture
def compared(runs: dict[str, Path]) -> Callable[..., Comparison]:
    return lambda *names: compare_runs([runs[name] for name in names])


def values(run: Path, evaluator: str, data: str) -> dict[str, float]:
    return {
        record["condition"]: record["value"]
        for record in results_of(run)["records"]
        if (record["evaluator"], record["data"]) == (evaluator, data)
    }


def test_conditions_of_both_stand_in_one_table(compared: Callable[..., Comparison], runs: dict[str, Path]) -> None:
    found = compared("small", "weaker")
    assert {one.key: dict(one.values) for one in found.recipe} == {
        "name": {"A": "small", "B": "weaker"},
        "conditions.warmer.interventions.0.add.coefficient": {"A": 3.0, "B": 1.5},
    }
    assert not found.alone and not found.called and not found.made_with
    told = repr(found).splitlines()
    assert told[0] == "<comparison of 2 steerkit runs: 6 measures in common, 2 settings of the recipes differ"
    assert told[1:] == [f"  A: small, {runs['small']}", f"  B: weaker, {runs['weaker']}>"]
    assert "<td" in found._repr_html_() and "B: warmer" in found._repr_html_()
    blocks = {block.name: block for block in found.blocks}
    assert len(blocks) == 6
    for name, block in blocks.items():
        shown = {row.condition.name: row.value for row in block.all_rows}
        measured = [
            (letter, values(runs[run], *name.split(" on "))) for letter, run in (("A", "small"), ("B", "weaker"))
        ]
        assert shown == {
            f"{letter}: {condition}": value
            for letter, by in measured
            for condition, value in by.items()
            if "random" not in condition
        }
        controls = [value for condition, value in measured[1][1].items() if condition.startswith("warmer/")]
        (row,) = (row for row in block.rows if row.condition.name == "B: warmer")
        assert row.control is not None and list(row.control.values) == controls
        assert [row.condition.name for row in block.all_rows if row.condition.kind == "baseline"] == [
            "A: baseline",
            "B: baseline",
        ]


def test_data_are_aligned_by_what_they_hold(compared: Callable[..., Comparison], runs: dict[str, Path]) -> None:
    found = compared("small", "renamed")
    assert [block.name for block in found.blocks] == [
        "refusal_score on warm.test",
        "refusal_score on cold.test",
        "kl_divergence on cold.test",
        "refusal_rate on cold.test",
    ]
    (block,) = (block for block in found.blocks if block.name == "kl_divergence on cold.test")
    shown = {row.condition.name: row.value for row in block.all_rows}
    assert shown["B: warmer"] == values(runs["renamed"], "kl_divergence", "icy.test")["warmer"]
    assert found.called == (
        "the same examples are called cold.test in A; icy.test in B",
        "text holds other examples in B than in A",
    )
    assert set(found.alone) == {
        f"{name} on text in {letter} only" for name in ("cross_entropy", "perplexity") for letter in "AB"
    }
    told = {one.key: dict(one.values) for one in found.recipe}
    assert told["data.cold"] == {"A": IS_THERE, "B": None} and told["data.icy"] == {"A": None, "B": IS_THERE}
    assert told["evaluate.kl_divergence.data"] == {"A": ["cold.test"], "B": ["icy.test"]}
    assert not [key for key in told if key.startswith(("data.cold.", "data.icy."))]
    hashes = json.loads((runs["small"] / "provenance.json").read_text())["data"]
    assert found.data == {name: hashes[name]["sha256"] for name in ("warm.test", "cold.test")}


def test_the_same_name_for_other_examples_is_not_the_same(compared: Callable[..., Comparison]) -> None:
    found = compared("small", "seed")
    assert [block.name for block in found.blocks] == ["cross_entropy on text", "perplexity on text"]
    assert "warm.test holds other examples in B than in A" in found.called
    assert "refusal_score on warm.test in A only" in found.alone and len(found.alone) == 8
    assert [one.key for one in found.recipe] == ["seed"]


def test_two_pairs_under_one_name_stand_apart(compared: Callable[..., Comparison], runs: dict[str, Path]) -> None:
    found = compared("small", "seed", "weaker", "renamed")
    names = [block.name for block in found.blocks]
    assert "refusal_score on warm.test" in names and "refusal_score on warm.test of B" not in names
    (block,) = (block for block in found.blocks if block.name == "refusal_score on warm.test")
    assert {row.condition.name[0] for row in block.all_rows} == {"A", "C", "D"}
    other = runs["renamed"].parent / "copy"
    if not other.exists():
        shutil.copytree(runs["renamed"], other)
    found = compare_runs([runs["small"], runs["weaker"], runs["renamed"], other])
    (apart,) = (block for block in found.blocks if block.name == "cross_entropy on text of C, D")
    assert {row.condition.name[0] for row in apart.all_rows} == {"C", "D"}
    rows = [row for row in found.rows() if row["data"] == "text of C, D"]
    assert {row["run"] for row in rows} == {"C", "D"} and rows[0]["data_sha256"] == found.data["text of C, D"]


def test_other_options_are_another_measure(compared: Callable[..., Comparison]) -> None:
    found = compared("small", "options")
    assert "refusal_rate on cold.test" not in [block.name for block in found.blocks] and len(found.blocks) == 5
    assert found.called == ("refusal_rate has other options in B than in A",)
    assert {one.key: dict(one.values) for one in found.recipe} == {
        "evaluate.refusal_rate.max_new_tokens": {"A": 4, "B": 3}
    }


def test_an_evaluator_more_changes_nothing_of_the_others(compared: Callable[..., Comparison]) -> None:
    found = compared("small", "more")
    assert {one.key: dict(one.values) for one in found.recipe} == {"evaluate.again": {"A": None, "B": IS_THERE}}
    assert found.alone == ("again on warm.test in B only",) and len(found.blocks) == 6


def test_files_count_by_what_they_hold(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.txt").write_text("one line\nanother line\n")
        (folder / "r.yaml").write_text(
            """
model: {source: "tiny-random:llama", dtype: float32}
data: {a: {file: a.txt}}
conditions: {asked: {system_prompt: Be warm.}}
evaluate: [refusal_score: {data: a}]
"""
        )
        made.append(run_recipe(folder / "r.yaml", out=folder / "runs"))
    found = compare_runs(made)
    assert not found.recipe and len(found.blocks) == 1


def test_what_has_two_names_in_a_run_stands_there_once(tmp_path: Path) -> None:
    whole = yaml.safe_load(RECIPE)
    whole["data"]["same"] = whole["data"]["warm"]
    whole["evaluate"] = [{"refusal_score": {"data": ["warm.test", "same.test"]}}]
    twice = yaml.safe_dump(whole, sort_keys=False)
    paths = []
    for name, text in (("one", twice), ("two", twice.replace("3.0", "1.5"))):
        (tmp_path / f"{name}.yaml").write_text(text)
        paths.append(run_recipe(tmp_path / f"{name}.yaml", out=tmp_path / name, store=tmp_path / "store"))
    found = compare_runs(paths)
    rows = [(one.condition, one.evaluator, one.data) for one in found.merged.records]
    assert len(rows) == len(set(rows)) and not found.alone
    assert [block.name for block in found.blocks] == ["refusal_score on warm.test"]


def test_files_whose_hashes_nobody_wrote_down_are_not_called_the_same(runs: dict[str, Path], tmp_path: Path) -> None:
    paths = [Path(shutil.copytree(runs["small"], tmp_path / name)) for name in ("a", "b")]
    for path in paths:
        written = json.loads((path / "provenance.json").read_text())
        for facts in written["data"].values():
            facts["sha256"] = None
        (path / "provenance.json").write_text(json.dumps(written))
        recipe = (path / "recipe.yaml").read_text()
        (path / "recipe.yaml").write_text(recipe.replace("data:\n", f"data:\n  more: {{file: {path.name}.txt}}\n", 1))
    written["data"]["more.test"] = {**facts, "sha256": None}
    for path in paths:
        (path / "provenance.json").write_text(json.dumps(written))
    assert "data.more.file" in {one.key for one in compare_runs(paths).recipe}


def test_rows_are_those_of_the_runs(compared: Callable[..., Comparison], runs: dict[str, Path]) -> None:
    rows = compared("small", "weaker").rows()
    for letter, name in (("A", "small"), ("B", "weaker")):
        own = [{**row, "run": letter} for row in steerkit.read_run(runs[name]).rows()]
        assert [row for row in rows if row["run"] == letter] == own


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag in ("table", "svg", "section", "main", "figure"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("table", "svg", "section", "main", "figure"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def said(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    with pytest.raises(SystemExit) as leaving:
        main(["compare", *map(str, words)])
    assert (leaving.value.code or 0) == code
    told = capsys.readouterr()
    return told.err if code else told.out


def test_the_page_holds_tables_and_figures_and_nothing_from_elsewhere(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert f"Page: {page}" in said(capsys, runs["small"], runs["renamed"], "--html", page).replace("\n", "")[-300:]
    text = page.read_text("utf-8")
    reader = Reader()
    reader.feed(text)
    assert not reader.open and all(link.startswith("#") for link in reader.links)
    assert text.count("<svg") == 4 and text.count('<table class="flow') == 5 and "{{" not in text
    words = " ".join(" ".join(reader.words).split())
    for wanted in (
        "Two runs side by side",
        "kl_divergence on cold.test",
        "B: warmer",
        "the same examples are called cold.test in A; icy.test in B.",
        "cross_entropy on text in B only.",
    ):
        assert wanted in words, wanted
    names = {path.name: path.read_bytes() for path in runs["small"].iterdir() if path.is_file()}
    said(capsys, runs["small"], runs["renamed"], "--html", page)
    assert page.read_text("utf-8") == text
    assert {path.name: path.read_bytes() for path in runs["small"].iterdir() if path.is_file()} == names


def test_many_conditions_have_their_sweeps_drawn_apart(runs: dict[str, Path]) -> None:
    from steerkit.report.compare_page import figures

    copies = [runs["small"], runs["weaker"], runs["more"], runs["options"], runs["renamed"]]
    found = compare_runs(copies)
    (block,) = (block for block in found.blocks if block.name == "refusal_score on warm.test")
    assert len(block.all_rows) == 25
    drawn = figures(block, 1)
    assert [plot.key for plot in drawn] == ["conditions-1", *(f"dose-{100 + place}" for place in range(5))]


def test_the_terminal_shows_what_differs_and_every_value(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = said(capsys, runs["small"], runs["weaker"])
    assert all(len(line) <= 80 or str(runs["small"].parent.parent) in line for line in told.split("\n"))
    assert "A: small, tiny-random:llama, seed 7" in told and "What differs between the recipes" in told
    assert "3.0" in told and "1.5" in told and "B: warmer" in told
    value = values(runs["weaker"], "kl_divergence", "cold.test")["warmer"]
    assert f"{value:.3f}" in told and "Not compared" not in told


def test_json_holds_all_of_it(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(said(capsys, runs["small"], runs["weaker"], "--json"))
    assert told["rows"] == compare_runs([runs["small"], runs["weaker"]]).rows()
    assert told["recipe"]["conditions.warmer.interventions.0.add.coefficient"] == {"A": 3.0, "B": 1.5}
    assert told["runs"]["B"]["path"] == str(runs["weaker"]) and told["data"].keys() == {
        "warm.test",
        "cold.test",
        "text",
    }


def test_mistakes_are_told(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = runs["small"]
    assert "name two run directories" in said(capsys, small, code=2)
    assert "is named twice" in said(capsys, small, f"{small}/../{small.name}", code=2)
    assert "has no results.json" in said(capsys, small, tmp_path, code=2)
    assert "an empty text names no" in said(capsys, small, runs["weaker"], "--html", "", code=2)
    (tmp_path / "file").touch()
    assert "Name another file with --html" in said(capsys, small, tmp_path, "--html", tmp_path / "file" / "x", code=2)
    with pytest.raises(SteerkitError, match="name two run directories"):
        compare_runs(str(small))
    with pytest.raises(SteerkitError, match="at most 26"):
        compare_runs([small] * 27)
    with pytest.raises(ArtifactError, match="is not a directory"):
        steerkit.compare_runs([small, tmp_path / "nowhere"])


def test_examples_that_a_model_filtered_are_that_models(tmp_path: Path) -> None:
    def examples(weights: str, *, kept: int = 3, filtered: bool = True, digest: str = "d") -> str:
        filters = (FilterEntry(data="a", keep="refusal_score at most 0", before=4, kept=kept),) if filtered else ()
        results = Results(name="x", model=ModelEntry(source="m"), filters=filters)
        provenance = {"data": {"a": {"n": 4, "sha256": digest}}, "model": {"weights_sha256": weights}}
        return _examples(Run(path=tmp_path, results=results, provenance=provenance), "a")

    assert examples("one") == examples("one") != examples("two")
    assert examples("one", kept=2) != examples("one")
    assert examples("one", filtered=False) == examples("two", filtered=False) != examples("one")
    assert examples("one", filtered=False, digest="e") != examples("one", filtered=False)


def test_what_a_model_said_counts_by_what_it_said(tmp_path: Path) -> None:
    found = []
    for name, said in (("one", "a"), ("two", "a"), ("three", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "completions-own.jsonl").write_text(said)
        run = Run(path=tmp_path / name, results=Results(name="x", model=ModelEntry(source="m")))
        found.append(_examples(run, "own.test"))
        assert _examples(run, "unknown") == f"{(tmp_path / name).resolve()} unknown"
    assert found[0] == found[1] != found[2]
