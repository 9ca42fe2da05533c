"""Estimator ``logistic_probe``: the direction that a logistic regression tells two classes by. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from steerkit.api.hookspecs import EstimatorNeeds, EstimatorSpec, Lack, Options, hookimpl
from steerkit.types import Example

STEERKIT_CONTRACT = 2


class LogisticProbeOptions(Options):
    """Options of ``logistic_probe``."""

    regularisation: tuple[float, ...] = Field(
        default=(1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        min_length=1,
        description="Values of C, the inverse of the L2 penalty's weight, among which cross-validation chooses: the "
        "smallest of those with the best balanced accuracy.",
    )
    folds: int = Field(default=5, ge=2, description="Folds of the cross-validation; at most one per example.")


def _lacks(options: LogisticProbeOptions, classes: Mapping[str, Sequence[Example]]) -> Lack | None:
    """That a class is too small to be tested on an example that was held out."""
    few = next((label for label, examples in classes.items() if len(examples) == 1), None)
    return None if few is None else Lack(f"the {few} class has 1 example, and logistic_probe needs at least two")


@hookimpl
def steerkit_estimators() -> list[EstimatorSpec]:
    """Provide ``logistic_probe``."""
    return [
        EstimatorSpec(
            name="logistic_probe",
            summary="Weights of a cross-validated logistic regression, as long as the classes lie apart along them.",
            implementation="steerkit_estimators._logistic_probe:LogisticProbe",
            options=LogisticProbeOptions,
            needs=lambda options: EstimatorNeeds(statistics="rows", rank=1),
            lacks=_lacks,
        )
    ]
