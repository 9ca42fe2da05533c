"""A monitor judged by its peak reading of each example: AUROC by ranks, what crossed, what it caught, false alarms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from steerkit.api.evaluator import Evaluator, Outputs, Score, only_rounding
from steerkit.api.monitor import Readings
from steerkit.errors import PluginError
from steerkit.types import Example, same_value
from steerkit_evaluators._outputs import required
from steerkit_evaluators.monitor_auroc import MonitorAurocOptions, label_of


class MonitorAuroc(Evaluator[MonitorAurocOptions]):
    """The peak reading of each example, whether it crossed, and the AUROC of peaks between two classes of labels.

    A high reading counts for the positive class, also where the monitor warns below its threshold: an AUROC under 0.5
    then is what one wants. Without examples of both classes there is no AUROC.
    """

    def score(self, outputs: Outputs) -> Sequence[Mapping[str, Score]]:
        """Scores per example; needs the readings of the monitor. NaN where nothing was read.

        ``caught`` counts the positive class alone and ``false_alarms`` the others: their proportions of those that
        crossed. An example without a label counts for neither.
        """
        readings = required(outputs.readings, "monitor_auroc", "readings")
        if self.options.monitor not in readings:
            raise PluginError(f"monitor_auroc needs readings of {self.options.monitor!r}, and the outputs hold none.")
        labels = [label_of(example, self.options.field) for example in outputs.examples]
        classes = [None if label is None else same_value(label, self.options.positive) for label in labels]
        return [_scores(one, kind) for one, kind in zip(readings[self.options.monitor], classes, strict=True)]

    @classmethod
    def whole(
        cls, options: MonitorAurocOptions, examples: Sequence[Example], scores: Sequence[Mapping[str, Score]]
    ) -> Mapping[str, float]:
        """The AUROC: how often a positive example's peak is above another one's, ties counting half."""
        peaks = _peaks(options, examples, scores)
        return {"monitor_auroc": _auroc(peaks[True], peaks[False])}

    @classmethod
    def remarks(
        cls, options: MonitorAurocOptions, examples: Sequence[Example], scores: Sequence[Mapping[str, Score]]
    ) -> Sequence[str]:
        """That peaks differ by rounding alone, where they do."""
        peaks = _peaks(options, examples, scores)
        values = [*peaks[True], *peaks[False]]
        if not only_rounding(values):
            return ()
        spread = max(values) - min(values)
        return (
            f"all peaks lie within {spread:.1g} of each other near {values[0]:.4g}, which is no more than float32 "
            "rounds, so the AUROC orders noise.",
        )


def _peaks(
    options: MonitorAurocOptions, examples: Sequence[Example], scores: Sequence[Mapping[str, Score]]
) -> dict[bool, list[float]]:
    """Peak readings of the positive class and of the others. An example without a label takes no part."""
    peaks: dict[bool, list[float]] = {True: [], False: []}
    for example, score in zip(examples, scores, strict=True):
        if (label := label_of(example, options.field)) is not None:
            peaks[same_value(label, options.positive)].append(score["peak_reading"].value)
    return peaks


def _scores(readings: Readings, is_positive: bool | None) -> dict[str, Score]:
    read = not math.isnan(readings.peak)
    crossed = float(readings.crossed) if read else math.nan
    return {
        "crossed": Score(crossed),
        "peak_reading": Score(float(readings.peak)),
        "caught": Score(crossed, float(is_positive is True)),
        "false_alarms": Score(crossed, float(is_positive is False)),
    }


def _auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """By ranks (Mann and Whitney, 1947), in the time that sorting takes."""
    if not positive or not negative:
        return math.nan
    from scipy.stats import rankdata

    n, ranks = len(positive), rankdata([*positive, *negative])
    return (float(ranks[:n].sum()) - n * (n + 1) / 2) / (n * len(negative))
