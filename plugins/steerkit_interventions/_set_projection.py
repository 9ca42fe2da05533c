"""``x ← x + Σ (τ_k − x·u_k) w_k``: the stream's projections on the unit vectors ``u_k = v_k/‖v_k‖`` become ``τ_k``.

``w_k`` is the dual basis of ``u_k``: it lies in their span, ``w_k·u_k = 1``, and ``w_k·u_j = 0`` for other ``j``. Of
vectors that are orthogonal it is ``u_k`` itself. So every projection has its value at once, also where vectors are not
orthogonal, and what is orthogonal to all of them stays as it is: of all such changes this is the smallest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from steerkit.api.architecture import Layout
from steerkit.api.intervention import Affine
from steerkit.errors import DataError, agreeing, counted
from steerkit.types import Site
from steerkit_interventions._numbers import one_per_vector
from steerkit_interventions._span import SpanIntervention, orthonormal, unit_vectors
from steerkit_interventions.set_projection import SetProjectionOptions

NAME = "set_projection"


class SetProjection(SpanIntervention[SetProjectionOptions]):
    """Sets the stream's projection on each of the direction's vectors. Differentiable in the vectors."""

    plugin = NAME

    def default_sites(self, layout: Layout) -> Sequence[Site]:
        """The site at which the direction was estimated."""
        return (self.direction.site,)

    def update(self, site: Site, layout: Layout) -> Affine:
        """``A = R``, ``Q = −R`` with orthonormal rows ``R``, ``b = Σ τ_k w_k``; without ``b`` where every value is 0.

        Raises:
            AttachError: where a list of values doesn't have one for each vector.
            DataError: where a vector is zero, NaN or infinite, or where vectors are linearly dependent.
        """
        return self._update()

    def _compute(self) -> Affine:
        vectors, rank = self.direction.vectors, self.direction.rank
        values = one_per_vector(self.options.value, self.direction, NAME, "value")
        span = orthonormal(self.direction, NAME)
        if span.shape[0] < rank:
            raise DataError(
                f"{NAME}: the {counted(rank, 'vector')} of direction {self.direction.name!r} {agreeing(rank)} "
                f"linearly dependent, so their "
                "projections can't each have a value of their own. Leave out those that the others make up."
            )
        reads = span.to(vectors.dtype)
        if not any(values):
            return Affine(reads=reads, writes=-reads)
        targets = torch.tensor(values, dtype=torch.float64, device=vectors.device)
        if self.options.units == "direction":
            targets = targets * vectors.to(torch.float64).norm(dim=1)
        # The one point of the span whose projections are the targets, in the coordinates of the orthonormal rows.
        point = torch.linalg.solve(unit_vectors(self.direction, NAME) @ span.T, targets)
        return Affine(reads=reads, writes=-reads, bias=(point @ span).to(vectors.dtype))
