"""``x ← x − c R Rᵀ x``: directional ablation, section 2.4 of Arditi et al., 2024 (arXiv 2406.11717), for any rank."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from steerkit.api.architecture import Layout
from steerkit.api.estimator import Direction
from steerkit.api.intervention import Affine, Intervention
from steerkit.errors import DataError
from steerkit.types import Site
from steerkit_interventions.ablate import AblateOptions

if TYPE_CHECKING:
    from steerkit.types import Vectors

# Unit vectors whose smallest singular value is below this are dependent. A vector that is a sum of
# others misses their span by about 1e-7 when it is stored in float32.
DEPENDENT = 1e-5


class Ablate(Intervention[AblateOptions]):
    """Removes the component of the residual stream that lies in the span of the direction's vectors."""

    def default_sites(self, layout: Layout) -> Sequence[Site]:
        """The embedding and every writer of every block: then no part of the stream holds the span."""
        return layout.writer_sites()

    def update(self, site: Site) -> Affine | None:
        """``A = R``, ``Q = −c R`` with orthonormal rows ``R``; None where the coefficient is 0.

        Raises:
            DataError: where a vector is zero, NaN or infinite.
        """
        return None if self.options.coefficient == 0 else self._update

    @cached_property
    def _update(self) -> Affine:
        # One decomposition serves all sites.
        span = orthonormal(self.direction)
        return Affine(reads=span, writes=-self.options.coefficient * span)


def orthonormal(direction: Direction) -> Vectors:
    """Orthonormal rows that span the direction's vectors.

    Returns:
        ``[r, d_model]`` with ``r`` at most the direction's rank, less where vectors are linearly
        dependent; computed in float64, returned in the direction's dtype.

    Raises:
        DataError: where a vector is zero, NaN or infinite.
    """
    vectors = direction.vectors.to(torch.float64)
    norms = vectors.norm(dim=1)
    for row, norm in enumerate(norms.tolist()):
        if not 0 < norm < float("inf"):
            problem = "zero" if norm == 0 else "NaN or infinite"
            raise DataError(
                f"ablate: vector {row} of direction {direction.name!r} is {problem}, so it spans nothing that could be "
                "removed. Check the prompts that it was estimated from."
            )
    # Unit rows first: whether vectors are dependent is a matter of angles, not of norms.
    unit = vectors / norms[:, None]
    if unit.shape[0] > 1:
        _, singular, rows = torch.linalg.svd(unit, full_matrices=False)
        unit = rows[singular > DEPENDENT]
    span: Vectors = unit.to(direction.vectors.dtype)
    return span
