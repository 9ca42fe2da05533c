"""Estimator ``mean_difference``: the mean of the positive class minus the mean of the negative one."""

from __future__ import annotations

from steerkit.api.hookspecs import EstimatorNeeds, EstimatorSpec, NoOptions, hookimpl

STEERKIT_CONTRACT = 2


class MeanDifferenceOptions(NoOptions):
    """Options of ``mean_difference``: there are none."""


@hookimpl
def steerkit_estimators() -> list[EstimatorSpec]:
    """Provide ``mean_difference``."""
    return [
        EstimatorSpec(
            name="mean_difference",
            summary="Mean of the positive class minus mean of the negative class, kept raw.",
            implementation="steerkit_estimators._mean_difference:MeanDifference",
            options=MeanDifferenceOptions,
            needs=lambda options: EstimatorNeeds(rank=1),
        )
    ]
