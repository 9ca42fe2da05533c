"""Thresholds of monitors that are set by the false alarms that they may give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from steerkit.errors import DataError, agreeing, counted
from steerkit.plan import Plan, PlannedMonitor
from steerkit.stages.graph import Graph
from steerkit.stages.packing import from_bytes


def threshold_of(
    peaks: Sequence[float], false_alarms: float, side: Literal["above", "below"] = "above"
) -> tuple[float, int]:
    """The threshold nearest to the readings' middle that no more than so many of 1,000 cross, and how many cross it.

    It is one of the readings, and a reading crosses where it is strictly beyond. Without ties exactly
    ``floor(n * false_alarms / 1000)`` of ``n`` cross, with ties among them perhaps fewer.

    Args:
        peaks: the reading of each example that goes furthest to the side.
        false_alarms: per 1,000 examples, below 1,000.
        side: on which a reading crosses.

    Raises:
        DataError: where there are no readings, or one of them is NaN.
    """
    unread = sum(map(math.isnan, peaks))
    if unread or not peaks:
        what = (
            f"{unread} of {counted(len(peaks), 'example')} {agreeing(unread, 'has', 'have')} no token at its positions"
            if peaks
            else "there are no examples"
        )
        raise DataError(f"no threshold can be set: {what}")
    allowed = int(len(peaks) * false_alarms / 1000 + 1e-9)  # 1000 * 0.29 / 1000 is a little less than 0.29
    ordered = sorted(peaks, reverse=side == "above")
    threshold = ordered[allowed]
    beyond = sum(one > threshold if side == "above" else one < threshold for one in peaks)
    return threshold, beyond


def with_threshold(monitor: PlannedMonitor, found: Mapping[str, Any]) -> PlannedMonitor:
    """A monitor with the threshold that its task found."""
    assert monitor.calibration is not None
    return replace(monitor, threshold=found["threshold"], calibration=replace(monitor.calibration, done=True))


def calibrated(plan: Plan, graph: Graph, outputs: Mapping[str, bytes]) -> Plan:
    """The plan with the thresholds that were set."""
    if not graph.thresholds:
        return plan
    monitors = tuple(
        with_threshold(one, from_bytes(outputs[graph.thresholds[one.name].key]))
        if one.name in graph.thresholds
        else one
        for one in plan.monitors
    )
    return replace(plan, monitors=monitors)
