"""Verdicts on the same examples: κ against scikit-learn's, who is compared with whom, and what the page shows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score

from steerkit.report import load_run, write_report
from steerkit.report.agreement import CONDITIONS_SHOWN, SHOWN, Pair, cohen_kappa, make_agreements
from tests.report.conftest import write_run


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("values", [(0, 1), ("a", "b", "c")])
def test_kappa_is_scikit_learns(seed: int, values: tuple[Any, ...]) -> None:
    draw = random.Random(seed)
    first = [draw.choice(values) for _ in range(draw.randint(5, 60))]
    second = [one if draw.random() < 0.6 else draw.choice(values) for one in first]
    assert len({*first, *second}) > 1
    assert cohen_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)


def test_kappa_by_hand() -> None:
    assert cohen_kappa([1, 1, 0, 0], [1, 1, 0, 0]) == 1.0
    assert cohen_kappa([1, 1, 0, 0], [0, 0, 1, 1]) == -1.0
    assert cohen_kappa([1, 0, 1, 0], [1, 1, 0, 0]) == 0.0
    assert cohen_kappa([1, 1, 1], [1, 1, 0]) == 0.0
    # 3 of 4 agree; by chance (3·2 + 1·2) / 16 = 1/2.
    assert cohen_kappa([1, 1, 1, 0], [1, 1, 0, 0]) == 0.5


def test_there_is_no_kappa_where_chance_agrees_too() -> None:
    assert cohen_kappa([], []) is None
    assert cohen_kappa([1, 1], [1, 1]) is None
    with pytest.raises(ValueError, match="shorter"):
        cohen_kappa([1], [])


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "summary": "", "aggregate": "proportion", "unit": "fraction", **more}


def sample(place: int, condition: str, scores: dict[str, Any], **example: Any) -> dict[str, Any]:
    text = f"completion {place} under {condition}"
    given = {"prompt": f"prompt {place}", "data": "d", "condition": condition, "completion": text, "scores": scores}
    return {**given, "example": example} if example else given


def pairs(
    tmp_path: Path, evaluators: list[Any], samples: list[Any], conditions: int = 1
) -> dict[str, tuple[Pair, ...]]:
    return make_agreements(load_run(written(tmp_path, evaluators, samples, conditions)))


def written(tmp_path: Path, evaluators: list[Any], samples: list[Any], conditions: int = 1) -> Path:
    listed = [
        {"name": f"c{place}" if place else "baseline", "kind": "intervention" if place else "baseline"}
        for place in range(conditions)
    ]
    results = {
        "schema_version": 1, "name": "r", "model": {"source": "m"}, "conditions": listed, "evaluators": evaluators,
        "records": [],
    }  # fmt: skip
    return write_run(tmp_path / "run", results, samples=samples)


def test_a_pair_counts_what_both_have_under_each_condition(tmp_path: Path) -> None:
    a, b = [1, 1, 0, 0, 1], [1, 0, 1, 0, None]
    samples = [sample(at, "baseline", {"a": one, "b": other}) for at, (one, other) in enumerate(zip(a, b, strict=True))]
    samples += [sample(at, "c1", {"a": 1, "b": 0}) for at in range(SHOWN + 3)]
    samples += [sample(9, "gone", {"a": 1, "b": 0})]
    ((pair,),) = pairs(tmp_path, [entry("a"), entry("b"), entry("mean", aggregate="mean")], samples, 2).values()
    first, second = pair.rows
    assert (pair.name, first.condition, first.n, first.differ) == ("a and b", "baseline", 4, 2)
    assert (first.only_first, first.only_second, first.kappa) == (1, 1, 0.0)
    assert [(one.prompt, one.first, one.second) for one in first.differences] == [
        ("prompt 1", 1, 0),
        ("prompt 2", 0, 1),
    ]
    assert first.differences[0].completion == "completion 1 under baseline"
    assert (second.differ, second.kappa, len(second.differences)) == (SHOWN + 3, 0.0, SHOWN)


def test_side_values_and_values_without_common_examples_are_not_compared(tmp_path: Path) -> None:
    evaluators = [entry("a"), entry("b"), entry("side", compared=False), entry("c")]
    samples = [sample(0, "baseline", {"a": 1, "b": None, "side": 0, "c": 1}), sample(1, "baseline", {"a": 0, "c": 1})]
    found = pairs(tmp_path, evaluators, samples)
    assert [pair.name for pair in found["d"]] == ["a and c"]
    assert not pairs(tmp_path / "other", [entry("a")], samples)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 1], [0, 1]),
        ([False, True], [0, 1]),
        ([0.0, 1.0], [0, 1]),
        (["0", "1"], [0, 1]),
        (["false", "True"], [0, 1]),
        (["Answer", "refusal"], [0, 1]),
        (["1_no", "0"], [1, 0]),
        (["harmful", "harmless"], None),
        ([1, 2], None),
        (["refusal", "other"], None),
        (["torn", "torn"], None),
    ],
)
def test_labels_of_the_data_are_verdicts_where_they_can_be(
    tmp_path: Path, labels: list[Any], expected: list[int] | None
) -> None:
    judged = entry("a", options={"labels": {"refusal": 1, "answer": 0, "1_no": 1, "torn": 1}})
    other = entry("x", aggregate="mean", options={"labels": {"torn": 0}})
    samples = [sample(at, "baseline", {"a": 1}, label=label) for at, label in enumerate(labels)]
    samples.append(sample(7, "baseline", {"a": 1}))
    found = pairs(tmp_path, [judged, other], samples)
    if expected is None:
        assert not found
        return
    ((pair,),) = found.values()
    assert pair.name == "a and label" and pair.rows[0].n == 2, "an example without a label is left out"
    assert pair.rows[0].only_first == expected.count(0)


def test_evaluators_that_see_other_lengths_say_so(tmp_path: Path) -> None:
    evaluators = [entry("a", options={"max_new_tokens": 16}), entry("b", options={"max_new_tokens": 64})]
    ((pair,),) = pairs(tmp_path, evaluators, [sample(0, "baseline", {"a": 1, "b": 1})]).values()
    assert pair.remark == "a sees 16 tokens of a completion, b 64" and pair.rows[0].kappa is None


def test_the_page_shows_them_and_stays_small(tmp_path: Path, make: SimpleNamespace) -> None:
    evaluators, many = [entry("a<b>"), entry("b"), entry("c")], 40
    names = ["baseline", *(f"c{number}" for number in range(1, many))]
    scores, long = [{"a<b>": at % 2, "b": 1, "c": 0} for at in range(30)], {"completion": "<i>" * 9999}
    rows = [sample(at, name, one) | long for name in names for at, one in enumerate(scores)]
    folder = written(tmp_path, evaluators, rows, many)
    with_section = write_report(folder).read_text()
    assert 'href="#agreement"' in with_section and "a&lt;b&gt;" in with_section and "<i>" not in with_section
    section = with_section[with_section.index('<section id="agreement">') :]
    section = section[: section.index("</section>")]
    assert len(section) < 300_000
    # Three pairs under their names in one table, and where each of them differs.
    assert section.count("<tbody>") == 3 + 3
    assert section.count("&lt;i&gt;…") <= 3 * SHOWN * CONDITIONS_SHOWN
    without = write_report(written(tmp_path / "b", [entry("b")], [sample(0, "baseline", {"b": 1})])).read_text()
    assert "#agreement" not in without


def test_what_is_no_verdict_is_written_as_such() -> None:
    from steerkit.artifacts.results import EvaluatorEntry

    assert "compared" not in EvaluatorEntry(name="a").model_dump()
    assert json.loads(EvaluatorEntry(name="a", compared=False).model_dump_json())["compared"] is False
