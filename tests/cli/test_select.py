"""``steerkit select``: a table of scores in, the choice out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import typer

from steerkit.cli import main as cli

ROW = {"position": -1, "layer": 3, "refusal_score": -5.0, "steering_score": 1.0, "kl_div_score": 0.05}


def rows(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**ROW, **change} for change in changes]


def select(path: Path, content: object, *arguments: str) -> int:
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, "utf-8")
    with pytest.raises((SystemExit, typer.Exit)) as left:
        cli.main(["select", str(path), *arguments])
    return int(getattr(left.value, "code", None) or getattr(left.value, "exit_code", 0) or 0)


def test_json_names_the_winner_its_near_ties_and_what_was_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = rows(
        {},
        {"position": -2, "refusal_score": -4.95},
        {"layer": 8},
        {"layer": 4, "kl_div_score": 0.2},
        {"layer": 5, "steering_score": -0.1},
        {"layer": 6, "refusal_score": None},
    )
    assert select(tmp_path / "scores.json", table, "--layers", "10", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "position": -1,
        "layer": 3,
        "near_ties": [{"position": -2, "layer": 3, "refusal_score": -4.95}],
        "feasible": 2,
        "removed_by": {"nan": 1, "layer": 1, "kl": 1, "induce": 1},
    }
    assert select(tmp_path / "scores.json", table, "--layers", "10", "--near-tie", "0.01") == 0
    shown = capsys.readouterr().out
    assert "2 of 6 candidates are feasible" in shown
    assert "near-tie" not in shown
    assert "1 removed by kl, which asks for kl_div_score ≤ 0.1" in shown


def test_a_standard_error_in_the_table_decides_what_is_near(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = rows({"refusal_score_se": 0.5}, {"layer": 4, "refusal_score": -4.6, "refusal_score_se": 0.5})
    assert select(tmp_path / "scores.json", table, "--layers", "10", "--json") == 0
    assert [tie["layer"] for tie in json.loads(capsys.readouterr().out)["near_ties"]] == [4]


def test_no_feasible_candidate_is_a_result_with_an_explanation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert select(tmp_path / "scores.json", rows({"kl_div_score": 3}), "--layers", "10", "--json") == 3
    told = capsys.readouterr()
    assert json.loads(told.out)["position"] is None
    assert "None of 1 candidate is feasible. Removed were 1 by kl" in told.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("[]", "an empty list"),
        ("{}", "holds a mapping"),
        ("[3]", "row 1: expected a mapping"),
        ('[{"position": -1, "position": -2}]', "'position' is there twice"),
        (rows({"layer": "3"}), "row 1: layer is '3'; expected a whole number"),
        (rows({"layer": True}), "layer is True"),
        (rows({}, {"position": -2.5}), "row 2: position is -2.5"),
        (rows({"kl_div_score": "low"}), "kl_div_score is 'low'; expected a number"),
        (rows({"refusal_score_se": -1}), "a standard error is not negative"),
        (rows({}, {}), "there twice"),
        (rows({"layer": 10}), "layers 0 to 9"),
        (
            [{"position": -1, "layer": 1, "refusal": 0}],
            "no 'refusal_score', and the rule is about refusal_score, kl_div_score, "
            "steering_score; it has refusal. If 'refusal' is it, call it so.",
        ),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_what_is_no_table_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: object, message: str
) -> None:
    assert select(tmp_path / "scores.json", content, "--layers", "10") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "0"], "at least one layer"),
        (["--layers", "10", "--near-tie", "nan"], "a number from 0 up"),
        (["--layers", "10", "--near-tie", "-1"], "a number from 0 up"),
        (["--layers", "10", "--preset", "arditi2023"], "Did you mean 'arditi2024'"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert select(tmp_path / "scores.json", rows({}), *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, typer.Exit)):
        cli.main(["select", str(tmp_path / "none.json"), "--layers", "3"])
    assert "none.json can't be read" in capsys.readouterr().err


def test_a_table_of_coefficients_says_which_one_won(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = rows({"coefficient": 2}, {"coefficient": 0.5}, {"coefficient": 1, "refusal_score": -4.95})
    assert select(tmp_path / "scores.json", table, "--layers", "10", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    # An exact tie goes to the coefficient that stands first.
    assert (found["layer"], found["coefficient"]) == (3, 2.0)
    assert [tie["coefficient"] for tie in found["near_ties"]] == [0.5, 1.0]
    assert select(tmp_path / "scores.json", table, "--layers", "10") == 0
    shown = capsys.readouterr().out
    assert "coeff" in shown  # folded where the window is narrow
    assert select(tmp_path / "scores.json", rows({"coefficient": "two"}), "--layers", "10") == 2


def test_the_second_preset_takes_the_largest_sum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def row(layer: int, comply: float, refuse: float, kl: float = 0.05) -> dict[str, Any]:
        return {"position": -1, "layer": layer, "comply_score": comply, "refuse_score": refuse, "kl_div_score": kl}

    table = [row(2, 0.9, 0.2), row(3, 0.6, 0.7), row(4, 0.9, 0.9, 0.2), row(8, 0.9, 0.9)]
    assert select(tmp_path / "scores.json", table, "--layers", "10", "--preset", "cosmic", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layer"] == 3
    assert found["removed_by"] == {"nan": 0, "layer": 1, "kl": 1}


def test_infinite_scores_crash_nothing_and_are_no_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = json.dumps(
        rows(
            {},
            {"layer": 4, "refusal_score": -1e999, "refusal_score_se": 1e999},
            {"layer": 5, "kl_div_score": -1e999},
            {"layer": 6, "refusal_score": -4.0, "refusal_score_se": 1e999},
        )
    )
    assert select(tmp_path / "scores.json", table, "--layers", "10", "--json") == 0
    told = capsys.readouterr().out
    assert "Infinity" not in told and "NaN" not in told
    assert json.loads(told)["layer"] == 3
    # An infinite score removes its candidate as a missing one does; an infinite error makes its candidate a near-tie.
    assert json.loads(told)["removed_by"] == {"nan": 2, "layer": 0, "kl": 0, "induce": 0}
    assert [one["refusal_score"] for one in json.loads(told)["near_ties"]] == [-4.0]
    assert select(tmp_path / "scores.json", rows({"kl_div_score": math.inf}), "--layers", "10") == 3
    assert "1 by nan, which asks for every score a finite number" in capsys.readouterr().err
