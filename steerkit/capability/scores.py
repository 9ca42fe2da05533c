"""What an evaluation gave, and how it differs from the baseline's. Numbers alone: no model and no harness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerkit.intervals import standard_error, total


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task (or group of tasks).

    Args:
        task: as the harness calls it.
        metric: its metric, such as ``acc``.
        filter: what the harness did to the answers before; ``none`` for nothing.
        value: the metric.
        standard_error: the harness's own; None where it gives none.
        n: how many examples; None of a group for which the harness doesn't say.
        higher_is_better: None where the task doesn't say.
        version: of the task.
        by_example: the metric of each example, in the task's order; empty where the metric is no mean of them.
    """

    task: str
    metric: str
    filter: str
    value: float
    standard_error: float | None
    n: int | None
    higher_is_better: bool | None
    version: str
    by_example: tuple[float, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is a score of, whatever the condition."""
        return self.task, self.metric, self.filter


@dataclass(frozen=True)
class Difference:
    """A score minus the baseline's.

    Args:
        value: the difference.
        standard_error: of the mean of the differences by example, since both conditions answer the same ones; None
            where the metric is no mean, or where there is one example.
    """

    value: float
    standard_error: float | None


def difference(score: TaskScore, baseline: TaskScore) -> Difference:
    """How a condition's score differs from the unsteered model's on the same examples."""
    pairs = list(zip(score.by_example, baseline.by_example, strict=False))
    value = score.value - baseline.value
    if len(pairs) < 2 or len(score.by_example) != len(baseline.by_example):
        return Difference(value, None)
    apart = [one - other for one, other in pairs]
    error = standard_error(apart)
    return Difference(value, None if math.isnan(error) else error)


def read_scores(results: Mapping[str, Any]) -> tuple[TaskScore, ...]:
    """The scores in what ``lm_eval.simple_evaluate`` returns, in its order.

    Keys of a task's results are ``metric,filter``, and ``metric_stderr,filter`` beside them.
    """
    found = []
    for task, entry in results["results"].items():
        for key, value in entry.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = entry.get(f"{metric}_stderr,{filtered}")
            counted = results.get("n-samples", {}).get(task, {}).get("effective", entry.get("sample_len"))
            samples = results.get("samples", {}).get(task, ())
            found.append(
                TaskScore(
                    task,
                    metric,
                    filtered,
                    float(value),
                    float(error) if isinstance(error, (int, float)) and math.isfinite(error) else None,
                    None if counted is None else int(counted),
                    results.get("higher_is_better", {}).get(task, {}).get(metric),
                    str(results.get("versions", {}).get(task, "")),
                    _by_example(samples, metric, filtered, float(value)),
                )
            )
    return tuple(found)


def _by_example(samples: Sequence[Mapping[str, Any]], metric: str, filtered: str, value: float) -> tuple[float, ...]:
    """Values of the examples, where the metric is their mean: a perplexity, say, isn't, and has no such thing."""
    rows = sorted((one for one in samples if one.get("filter", filtered) == filtered), key=lambda one: one["doc_id"])
    values = [one.get(metric) for one in rows]
    numbers = [float(one) for one in values if isinstance(one, (int, float))]
    if not numbers or len(numbers) != len(values):
        return ()
    mean = total(numbers) / len(numbers)
    return tuple(numbers) if math.isclose(mean, value, rel_tol=1e-6, abs_tol=1e-9) else ()
