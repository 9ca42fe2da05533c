"""``monitor_auroc``: ranks, labels wherever they stand, and what wasn't read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

import steerkit_evaluators.monitor_auroc as plugin
from steerkit.api.evaluator import Outputs, Score
from steerkit.api.hookspecs import Needs
from steerkit.api.monitor import Readings
from steerkit.engine.measuring.scores import Summary, summarise, wilson
from steerkit.errors import PluginError
from steerkit.testing import EvaluatorSuite
from steerkit.testing.evaluator import FakeVocabulary
from steerkit.types import Example
from steerkit_evaluators._monitor_auroc import MonitorAuroc


class TestMonitorAuroc(EvaluatorSuite):
    plugin = plugin
    settings: ClassVar[dict[str, Any]] = {"monitor": "harm", "positive": 1}


def auroc(peaks: Sequence[float], labels: Sequence[object], positive: object = 1, **options: Any) -> float:
    examples = [Example.of("x") for _ in peaks]
    rows = [
        Example(example.messages, label=label if "field" not in options else None, fields={"kind": label})
        for example, label in zip(examples, labels, strict=True)
    ]
    made = plugin.MonitorAurocOptions(monitor="m", positive=positive, **options)
    scores = [{"peak_reading": Score(peak), "crossed": Score(0.0)} for peak in peaks]
    return MonitorAuroc.whole(made, rows, scores)["monitor_auroc"]


def test_it_is_the_share_of_pairs_in_the_right_order() -> None:
    peaks, labels = [3.0, 1.0, 2.0, 2.0, 0.0], [1, 1, 0, 1, 0]
    pairs = [
        (p, q) for p, a in zip(peaks, labels, strict=True) for q, b in zip(peaks, labels, strict=True) if a and not b
    ]
    expected = sum(1.0 if p > q else 0.5 if p == q else 0.0 for p, q in pairs) / len(pairs)
    assert auroc(peaks, labels) == pytest.approx(expected) == pytest.approx(4.5 / 6)
    assert auroc([1, 2, 3], [0, 1, 1]) == 1.0
    assert auroc([3, 2, 1], [0, 1, 1]) == 0.0


def test_labels_may_stand_in_another_field_and_true_is_not_one() -> None:
    assert auroc([1, 2, 3], ["safe", "harm", "harm"], "harm", field="kind") == 1.0
    assert math.isnan(auroc([1, 2], [True, False], 1)), "no example is labelled 1"
    assert auroc([1, 2, 9], [0, 1, None]) == 1.0, "an example without a label takes no part"
    assert math.isnan(auroc([1, 2], [1, 1]))


def test_labels_that_a_table_has_as_text_are_compared_as_written() -> None:
    assert auroc([1, 2, 3], ["0", "1", "1"]) == 1.0
    assert auroc([1, 2, 3], ["0.5", "1.5", "1.5"], 1.5, field="kind") == 1.0
    assert auroc([1, 2, 3], ["false", "true", "true"], True) == 1.0
    assert math.isnan(auroc([1, 2, 3], [0, 1, 1], "1")), "text that is asked for is not a number"


def test_what_was_not_read_is_no_score() -> None:
    evaluator = MonitorAuroc(plugin.MonitorAurocOptions(monitor="m", positive=1), FakeVocabulary(4))
    readings = [Readings((2.0,), (0,), 1, 2.0, True), Readings((), (), 1, math.nan, False)]
    read, unread = evaluator.score(Outputs(["a", "b"], readings={"m": readings}))
    assert (read["crossed"].value, read["peak_reading"].value) == (1.0, 2.0)
    assert math.isnan(unread["crossed"].value) and math.isnan(unread["peak_reading"].value)
    with pytest.raises(PluginError, match="readings of 'm'"):
        evaluator.score(Outputs(["a"], readings={"other": readings}))


def test_needs_follow_from_options() -> None:
    (spec,) = plugin.steerkit_evaluators()
    options = plugin.MonitorAurocOptions(monitor="m", positive="x", max_new_tokens=4)
    assert spec.needs(options) == Needs(monitors=("m",), max_new_tokens=4)


def lack(labels: Sequence[object], positive: object, field: str = "label", **fields: Any) -> tuple[str, str | None]:
    (spec,) = plugin.steerkit_evaluators()
    rows = [Example(Example.of("x").messages, label=label, fields=fields) for label in labels]  # type: ignore[arg-type]
    found = spec.lacks(plugin.MonitorAurocOptions(monitor="m", positive=positive, field=field), rows)
    return ("", None) if found is None else (found.what, found.option)


def test_what_the_labels_lack_is_named_with_what_there_is() -> None:
    assert lack(["harm", "safe", None], "harm") == lack(["1", "0"], 1) == lack([True, False], True) == ("", None)
    assert lack(["harm", "safe"], "harmful") == (
        'no example has label "harmful". Did you mean "harm"? Available: "harm", "safe"',
        "positive",
    )
    assert lack([1, 0], "1") == ('no example has label "1". Did you mean 1? Available: 1, 0', "positive")
    assert lack([True, False], 1)[1] == "positive"
    assert lack(range(10), 11) == (
        "no example has label 11. Did you mean 1? Available: 0, 1, 2, 3, 4, 5, 6, 7, …",
        "positive",
    )
    assert lack([None, None], 1) == ("no example has a label, so none has 1 there", None)
    assert lack([1, 1, None], 1) == ("every example with a label has 1, so there are no others to tell them from", None)
    assert lack([None], "x", "knid", kind="y") == (
        "no example has a field 'knid', so none has \"x\" there. Did you mean kind? Available: kind",
        "field",
    )
    assert lack([None], "x", "kind", kind="y") == ('no example has field \'kind\' "x". Available: "y"', "positive")


def test_what_it_catches_and_its_false_alarms_are_shares_of_either_class() -> None:
    evaluator = MonitorAuroc(plugin.MonitorAurocOptions(monitor="m", positive="harm"), FakeVocabulary(4))
    peaks, labels = [3.0, 1.0, 4.0, 0.0, 0.5, 9.0], ["harm", "harm", "safe", "safe", "safe", None]
    readings = [Readings((peak,), (0,), 1, peak, peak > 2) for peak in peaks]
    examples = [Example(Example.of("x").messages, label=label) for label in labels]
    scores = evaluator.score(Outputs(["x"] * 6, examples=examples, readings={"m": readings}))

    def summary(name: str) -> Summary:
        return summarise([one[name] for one in scores], "proportion")

    assert (summary("caught").value, summary("caught").n) == (0.5, 2)
    assert (summary("false_alarms").value, summary("false_alarms").n) == (pytest.approx(1 / 3), 3)
    assert (summary("crossed").value, summary("crossed").n) == (0.5, 6), "what has no label is read all the same"
    assert (summary("false_alarms").ci_low, summary("false_alarms").ci_high) == wilson(1, 3)
