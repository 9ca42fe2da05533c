"""Random controls that some evaluators are asked about and others aren't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steerkit.catalog import Catalog
from steerkit.cli.check import print_plan
from steerkit.errors import RecipeError
from steerkit.plan import plan_recipe
from steerkit.report import write_report
from steerkit.run import run_recipe
from tests.plan.test_plan_cost import engine_calls
from tests.small_run import RECIPE, carried, results_of, runs_in

LEFT_OUT = (
    RECIPE.replace("{data: [warm.test, cold.test]}", "{data: [warm.test, cold.test], control: cold.test}")
    .replace("kl_divergence: {data: cold.test}", "kl_divergence: {data: cold.test, control: false}")
    .replace("cross_entropy: {data: text}", "cross_entropy: {data: text, control: false}")
)
CONTROLS = {f"{name}/random-{number}" for name in ("warmer", "without") for number in (1, 2)}
CONDITIONS = {"baseline", "warmer", "without", "dose[coefficient=-2]", "dose[coefficient=2]"}


def run(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "small.yaml").write_text(text)
    return run_recipe(folder / "small.yaml", out=folder / "runs")


def values(run: Path) -> dict[tuple[str, str, str], Any]:
    return {(one["evaluator"], one["data"], one["condition"]): one for one in results_of(run)["records"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One with all controls, one with some left out. They share no store."""
    folder = tmp_path_factory.mktemp("controls")
    return run(folder / "all", RECIPE), run(folder / "some", LEFT_OUT)


def test_controls_are_measured_where_the_recipe_says(runs: tuple[Path, Path]) -> None:
    found = values(runs[1])
    measured = {(evaluator, data): set() for evaluator, data, _ in found}
    for evaluator, data, condition in found:
        measured[evaluator, data].add(condition)
    assert measured["refusal_score", "cold.test"] == CONDITIONS | CONTROLS
    assert measured["refusal_rate", "cold.test"] == CONDITIONS | CONTROLS
    assert measured["refusal_score", "warm.test"] == CONDITIONS
    assert measured["kl_divergence", "cold.test"] == measured["cross_entropy", "text"] == CONDITIONS


def test_what_is_measured_is_what_it_was(runs: tuple[Path, Path]) -> None:
    whole, some = (values(one) for one in runs)
    assert set(some) < set(whole)
    for place, record in some.items():
        # Who shares a batch with whom differs, so float sums do.
        assert record["value"] == pytest.approx(whole[place]["value"], rel=1e-5, abs=1e-5), place
    assert any(record["value"] for record in some.values())


def text_of(evaluators: list[str], *, every: bool = False) -> str:
    """The recipe with other evaluators. ``every``: whether all of its conditions have controls."""
    head = RECIPE.partition("evaluate:")[0]
    head = head.replace("    control: false\n", "") if every else head
    return head + "evaluate:\n" + "".join(f"  - {one}\n" for one in evaluators) + "control: {random_directions: 2}\n"


SCORE = "refusal_score: {data: cold.test, name: other}"
SCORE_LEFT_OUT = "refusal_score: {data: cold.test, name: other, control: false}"


@pytest.mark.parametrize(
    "text",
    [
        RECIPE,
        LEFT_OUT,
        text_of(["refusal_score: {data: [warm.test, cold.test], control: cold.test}", SCORE_LEFT_OUT]),
        text_of(["refusal_score: {data: cold.test}", SCORE_LEFT_OUT], every=True),
        text_of(["refusal_rate: {data: cold.test, max_new_tokens: 3}", SCORE_LEFT_OUT]),
        text_of(["refusal_rate: {data: cold.test, max_new_tokens: 3, control: false}", SCORE]),
        text_of(
            [
                "cross_entropy: {data: text}",
                "cross_entropy: {data: text, name: again, control: false}",
                "cross_entropy: {data: cold.test, of: baseline_completions, max_new_tokens: 3, name: own}",
                "kl_divergence: {data: cold.test, control: false}",
            ]
        ),
        text_of(
            ["refusal_rate: {data: text, max_new_tokens: 3, control: false}", "refusal_score: {data: said}"]
        ).replace(
            "directions:", "  said: {completions: {of: text, condition: warmer, max_new_tokens: 3}}\ndirections:", 1
        ),
    ],
)
def test_check_counts_the_passes_that_a_run_makes(tmp_path: Path, text: str) -> None:
    (tmp_path / "small.yaml").write_text(text)
    found = plan_recipe(tmp_path / "small.yaml", [], Catalog.discover())
    assert engine_calls(found) == found.cost.forward_passes


def test_conditions_without_controls_are_looked_at_once(tmp_path: Path) -> None:
    """The baseline and a condition without controls make one pass for those who ask for controls and those who don't;
    a condition with controls makes one by itself more."""
    costs = []
    for one in (SCORE, SCORE_LEFT_OUT):
        (tmp_path / "small.yaml").write_text(text_of(["refusal_score: {data: cold.test}", one]))
        costs.append(plan_recipe(tmp_path / "small.yaml", [], Catalog.discover()).cost)
    both, some = (dict(cost.parts) for cost in costs)
    assert some["baseline"] == both["baseline"]
    assert some["conditions"] == both["conditions"] + 2  # `warmer` and `without`; those of `dose` have no controls
    off = text_of(["refusal_score: {data: cold.test}", SCORE_LEFT_OUT]).replace("{random_directions: 2}", "false")
    (tmp_path / "small.yaml").write_text(off)
    none = plan_recipe(tmp_path / "small.yaml", [], Catalog.discover()).cost
    assert dict(none.parts)["conditions"] == both["conditions"]


def test_completions_are_written_for_those_who_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = LEFT_OUT.replace("max_new_tokens: 4}\n  - cross", "max_new_tokens: 4, control: false}\n  - cross")
    done = carried(monkeypatch)
    found = values(run(tmp_path, text))
    written = [task.payload.group.controls for task in done if task.kind == "completions"]
    assert written and set(written) == {0}
    assert {condition for evaluator, _, condition in found if evaluator == "refusal_rate"} == CONDITIONS


def test_asking_about_controls_later_computes_them_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path, LEFT_OUT)
    done = carried(monkeypatch)
    second = run(
        tmp_path,
        LEFT_OUT.replace("kl_divergence: {data: cold.test, control: false}", "kl_divergence: {data: cold.test}"),
    )
    assert {task.payload.name for task in done} == {"kl_divergence"}
    assert {task.payload.group.controls for task in done} == {2}
    assert len(runs_in(tmp_path / "runs")) == 2 and first != second


def test_the_report_and_results_say_so(runs: tuple[Path, Path]) -> None:
    notes = results_of(runs[1])["notes"]
    assert "No random controls for refusal_score on warm.test: the recipe leaves them out." in notes
    assert "No random controls for kl_divergence on cold.test: the recipe leaves them out." in notes
    assert not any("for refusal_rate" in note for note in notes)
    page = write_report(runs[1]).read_text("utf-8").replace("<wbr>", "")
    assert "No random controls for kl_divergence on cold.test" in page


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("control: warm.train", "warm.train is none of the data of refusal_score"),
        (
            "control: [cold.test, lukewarm.test]",
            "'lukewarm.test' is not a data set. Did you mean 'warm.test' or 'cold.test'? "
            "Available: cold.test, cold.train, text, warm.test, warm.train.",
        ),
        ("control: []", "expected true or false or a list of at least 1 item, not []"),
        ("control: [3]", "expected text, not 3; put it in quotes"),
        ("control: [true]", "expected text, not true; put it in quotes"),
        ("control: 3", "expected true or false or a list, not 3"),
        ("control: [cold.test, cold.test]", "one data reference stands here twice"),
    ],
)
def test_one_mistake_is_one_problem(tmp_path: Path, written: str, said: str) -> None:
    (tmp_path / "small.yaml").write_text(LEFT_OUT.replace("control: cold.test", written))
    with pytest.raises(RecipeError) as error:
        plan_recipe(tmp_path / "small.yaml", [], Catalog.discover())
    assert [one.message for one in error.value.problems] == [said]


def test_check_shows_where_there_are_no_controls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    def shown(text: str) -> str:
        (tmp_path / "small.yaml").write_text(text)
        print_plan(plan_recipe(tmp_path / "small.yaml", [], Catalog.discover()))
        return " ".join(capsys.readouterr().out.split())

    assert "refusal_score warm.test (no controls), cold.test" in shown(LEFT_OUT)
    assert "kl_divergence cold.test (no controls)" in shown(LEFT_OUT)
    assert "(no controls)" not in shown(RECIPE)
    assert "(no controls)" not in shown(LEFT_OUT.replace("control: {random_directions: 2}", "control: false"))


def test_check_notes_a_tradeoff_that_has_controls_on_one_side_only(tmp_path: Path) -> None:
    tradeoff = "  tradeoff: {evaluator: refusal_score, should: cold.test, should_not: warm.test}\n"

    def notes(text: str) -> list[str]:
        (tmp_path / "small.yaml").write_text(text + tradeoff)
        found = plan_recipe(tmp_path / "small.yaml", [], Catalog.discover()).notes
        return [one for one in found if "trade-off" in one]

    said = "The trade-off of refusal_score shows no random controls: refusal_score leaves them out on warm.test."
    assert notes(LEFT_OUT) == [said]
    assert notes(RECIPE) == notes(LEFT_OUT.replace("control: cold.test", "control: false")) == []
    assert notes(LEFT_OUT.replace("control: {random_directions: 2}", "control: false")) == []


def test_the_resolved_recipe_reads_back(runs: tuple[Path, Path]) -> None:
    written = (runs[1] / "recipe.yaml").read_text("utf-8")
    assert written.count("control: false") == 3  # two evaluators and the sweep
    (runs[1].parent / "again.yaml").write_text(written)
    again = plan_recipe(runs[1].parent / "again.yaml", [], Catalog.discover())
    assert [len(one.uncontrolled) for one in again.evaluations] == [1, 1, 0, 1]
