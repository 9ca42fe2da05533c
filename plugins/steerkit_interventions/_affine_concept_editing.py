"""``x ← x − R Rᵀ (x − μ) + Σ α_k v_k``: affine concept editing, Marshall et al., 2024 (arXiv 2411.09003).

The paper writes it for one vector, ``v' = v − proj_r(v) + proj_r(r⁻) + α r`` with ``r = r⁺ − r⁻`` the difference of the
class means; here it is for any rank. Of a stream that has been edited, the component in the span is known: the
reference class's for α = 0, and for a difference of means the positive class's for α = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from steerkit.api.architecture import Layout
from steerkit.api.intervention import Affine
from steerkit.errors import AttachError, DataError
from steerkit.types import EMBED, RESID_POST, RESID_PRE, Site
from steerkit_interventions._numbers import one_per_vector
from steerkit_interventions._span import SpanIntervention, orthonormal, weighted_sum
from steerkit_interventions.affine_concept_editing import AffineConceptEditingOptions

if TYPE_CHECKING:
    from torch import Tensor

NAME = "affine_concept_editing"


class AffineConceptEditing(SpanIntervention[AffineConceptEditingOptions]):
    """Sets the component in the direction's span to that of the reference mean, plus the vectors times coefficients.

    Acts at ``resid_pre`` sites only. Differentiable in the vectors, where they are independent, and in the mean.
    """

    plugin = NAME

    def default_sites(self, layout: Layout) -> Sequence[Site]:
        """The ``resid_pre`` site that is the same place as the direction's own site, and no other.

        The reference mean was measured there. At another layer the same class lies elsewhere along the direction, so
        to set this mean there is a choice that sites have to be named for.

        Raises:
            AttachError: where the direction's own site is no such place: a writer, ``resid_mid``, the last stream.
        """
        own = self.direction.site
        if own.stream == RESID_PRE:
            return (own,)
        if own.stream == RESID_POST and own.layer + 1 < layout.n_layers:
            return (Site(RESID_PRE, own.layer + 1),)
        if own.stream == EMBED and layout.embed_is_first_resid_pre:
            return (Site(RESID_PRE, 0),)
        raise AttachError(
            f"{NAME} acts at resid_pre sites, and direction {self.direction.name!r} and its reference mean were "
            f"estimated at {own}. Estimate it at a resid_pre site, or name the resid_pre sites that the mean is for."
        )

    def update(self, site: Site, layout: Layout) -> Affine:
        """``A = R``, ``Q = −R`` with orthonormal rows ``R``, ``b = R Rᵀ μ + Σ α_k v_k``; never nothing.

        Raises:
            AttachError: at a site that isn't ``resid_pre``; where a list of coefficients doesn't have one per vector.
            DataError: where the direction has no reference mean, or one that doesn't fit or isn't finite; where a
                vector is zero, NaN or infinite; where dependent vectors want a gradient.
        """
        if site.stream != RESID_PRE:
            raise AttachError(
                f"{NAME} can't act at {site}: it adds a constant, which is meant once for the whole stream and would "
                "add up over the sites that write to it. Name resid_pre sites, such as "
                f"{Site(RESID_PRE, max(site.layer, 0))}."
            )
        return self._update()

    def _compute(self) -> Affine:
        vectors = self.direction.vectors
        coefficients = one_per_vector(self.options.coefficient, self.direction, NAME, "coefficient")
        span, mean = orthonormal(self.direction, NAME), self._reference_mean()
        bias = (span @ mean) @ span + weighted_sum(vectors.to(torch.float64), coefficients)
        reads = span.to(vectors.dtype)
        return Affine(reads=reads, writes=-reads, bias=bias.to(vectors.dtype))

    def _reference_mean(self) -> Tensor:
        name, vectors, mean = self.direction.name, self.direction.vectors, self.direction.reference_mean
        if mean is None:
            raise DataError(
                f"{NAME}: direction {name!r} has no reference mean, the mean of its negative class, which the stream "
                "would be set to. Estimate it with estimate_direction or in a recipe, which keep that mean, or build "
                "it with Direction(vectors, site, reference_mean=...)."
            )
        if mean.shape != vectors.shape[1:]:
            raise DataError(
                f"{NAME}: the reference mean of direction {name!r} has shape {list(mean.shape)}, and its vectors have "
                f"width {vectors.shape[1]}. Give the mean of the negative class at the direction's site."
            )
        if not bool(torch.isfinite(mean).all()):
            raise DataError(
                f"{NAME}: the reference mean of direction {name!r} holds NaN or infinite values. "
                "Check the prompts that it was estimated from."
            )
        return mean.to(vectors.device, torch.float64)
