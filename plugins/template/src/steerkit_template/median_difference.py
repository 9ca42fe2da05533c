"""Estimator ``median_difference``: the median of the positive class minus the negative one's. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from steerkit.api.hookspecs import EstimatorNeeds, EstimatorSpec, Options, hookimpl

STEERKIT_CONTRACT = 2


class MedianDifferenceOptions(Options):
    """Options of ``median_difference``."""

    trim: float = Field(
        default=0.0,
        ge=0.0,
        lt=0.5,
        description="Share of the examples at either end that is left out before what is left is averaged; 0 for the "
        "median itself.",
    )


def needs(options: MedianDifferenceOptions) -> EstimatorNeeds:
    """Every example's vector, of two classes, at the sites and positions that the user names."""
    return EstimatorNeeds(statistics="rows", rank=1)


@hookimpl
def steerkit_estimators() -> list[EstimatorSpec]:
    """Provide ``median_difference``."""
    return [
        EstimatorSpec(
            name="median_difference",
            summary="Median of the positive class minus median of the negative class, component by component.",
            implementation="steerkit_template._median_difference:MedianDifference",
            options=MedianDifferenceOptions,
            needs=needs,
        )
    ]
