"""The difference of two class means, as in Arditi et al., 2024 (arXiv 2406.11717), section 2.3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from steerkit.api.estimator import ClassStatistics, Estimate, EstimationRequest, Estimator
from steerkit.errors import DataError, agreeing, counted
from steerkit_estimators.mean_difference import MeanDifferenceOptions

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.types import Site, Vectors


class MeanDifference(Estimator[MeanDifferenceOptions]):
    """``mean(positive) − mean(negative)``, not normalised: its norm is the distance between the classes."""

    def estimate(self, request: EstimationRequest) -> Estimate:
        """Subtract the class means at every site: ``{site: [1, d_model]}``, float64.

        Args:
            request: at each site classes ``positive`` and ``negative``, each with ``mean`` ``[d_model]`` in float64.

        Raises:
            DataError: where a class is empty or holds NaN or infinite values, or where the means are equal.
        """
        return Estimate({site: _difference(request.statistics[site], site) for site in request.sites})


def _difference(classes: Mapping[str, ClassStatistics], site: Site) -> Vectors:
    positive, negative = _mean(classes, "positive"), _mean(classes, "negative")
    if positive.shape != negative.shape:
        raise DataError(
            f"mean_difference: the positive class has width {positive.shape[-1]} and the negative class "
            f"{negative.shape[-1]}. Capture both at the same site of the same model."
        )
    difference = positive - negative
    if not bool(difference.any()):
        raise DataError(
            f"mean_difference: the two classes have exactly the same mean at {site}, so there is no direction between "
            "them. Check that positive and negative name different prompts, and that the position isn't a token that "
            "is the same in every prompt at a site that hasn't read the others yet."
        )
    return difference[None]


def _mean(classes: Mapping[str, ClassStatistics], name: str) -> Tensor:
    if name not in classes:
        raise DataError(
            f"mean_difference needs a {name} class, and only {', '.join(sorted(classes)) or 'none'} is given."
        )
    statistics = classes[name]
    if statistics.count < 1:
        raise DataError(f"mean_difference: the {name} class holds no token. Give it at least one prompt.")
    mean = statistics.mean.detach().to("cpu", torch.float64)
    bad = int((~torch.isfinite(mean)).sum())
    if bad:
        raise DataError(
            f"mean_difference: {bad} of {counted(mean.numel(), 'component')} of the {name} class's mean "
            f"{agreeing(bad)} NaN or infinite. "
            "The model overflowed: load it with dtype float32 or bfloat16."
        )
    return mean
