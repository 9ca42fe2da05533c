"""``x ← x − c R Rᵀ x``: directional ablation, section 2.4 of Arditi et al., 2024 (arXiv 2406.11717), for any rank."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.api.architecture import Layout
from steerkit.api.intervention import Affine
from steerkit.types import Site
from steerkit_interventions._span import SpanIntervention, orthonormal
from steerkit_interventions.ablate import AblateOptions


class Ablate(SpanIntervention[AblateOptions]):
    """Removes the component of the residual stream that lies in the span of the direction's vectors.

    Differentiable in the vectors where they are independent.
    """

    plugin = "ablate"

    def default_sites(self, layout: Layout) -> Sequence[Site]:
        """The embedding and every writer of every block: then no part of the stream holds the span."""
        return layout.writer_sites()

    def update(self, site: Site, layout: Layout) -> Affine | None:
        """``A = R``, ``Q = −c R`` with orthonormal rows ``R``; None where the coefficient is 0.

        Raises:
            DataError: where a vector is zero, NaN or infinite, or where dependent vectors want a gradient.
        """
        return None if self.options.coefficient == 0 else self._update()

    def _compute(self) -> Affine:
        span = orthonormal(self.direction, "ablate").to(self.direction.vectors.dtype)
        return Affine(reads=span, writes=-self.options.coefficient * span)
