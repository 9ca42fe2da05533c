"""Differences of medians, or of trimmed means: outliers among the examples count for little."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from steerkit.api.estimator import ClassStatistics, Estimate, EstimationRequest, Estimator, Series
from steerkit.errors import DataError
from steerkit_template.median_difference import MedianDifferenceOptions

if TYPE_CHECKING:
    from torch import Tensor


class MedianDifference(Estimator[MedianDifferenceOptions]):
    """``median(positive) − median(negative)``, each component by itself."""

    def estimate(self, request: EstimationRequest) -> Estimate:
        """One vector at every site that was asked for, ``{site: [1, d_model]}``, with how far it is from the means'.

        Raises:
            DataError: where a class is empty or not finite, or the middles are equal.
        """
        vectors, cosines = {}, []
        for site in request.sites:
            positive, negative = (request.statistics[site][name] for name in ("positive", "negative"))
            vector = self._middle(positive) - self._middle(negative)
            if not bool(vector.any()):
                raise DataError(f"median_difference: the classes have one middle at {site}. Use other prompts.")
            vectors[site] = vector[None]
            cosines.append(float(torch.cosine_similarity(vector, positive.mean - negative.mean, dim=0)))
        places = tuple(str(site) for site in vectors)
        return Estimate(
            vectors, diagnostics={"cosine with the mean difference": Series(tuple(cosines), places, "site")}
        )

    def _middle(self, statistics: ClassStatistics) -> Tensor:
        """The middle of a class, ``[d_model]``, float64."""
        if statistics.count < 1:
            raise DataError("median_difference: a class holds no token. Give it at least one prompt.")
        rows = statistics.prompt_means()
        if not bool(torch.isfinite(rows).all()):
            raise DataError("median_difference: a class holds NaN or infinite values. Load the model in float32.")
        if self.options.trim == 0:
            return rows.quantile(0.5, dim=0)
        cut = int(self.options.trim * len(rows))
        return rows.sort(dim=0).values[cut : len(rows) - cut].mean(0)
