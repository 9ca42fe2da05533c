"""``x ← x + Σ c_k v_k``: activation addition, section 2.4 of Arditi et al., 2024 (arXiv 2406.11717)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from steerkit.api.architecture import Layout
from steerkit.api.intervention import Affine, Intervention
from steerkit.errors import AttachError
from steerkit.types import Site
from steerkit_interventions.add import AddOptions


class Add(Intervention[AddOptions]):
    """Adds the direction's vectors, raw, each times its coefficient. Differentiable in the vectors."""

    def default_sites(self, layout: Layout) -> Sequence[Site]:
        """The site at which the direction was estimated."""
        return (self.direction.site,)

    def update(self, site: Site) -> Affine | None:
        """The bias ``Σ c_k v_k``, ``[d_model]`` in the direction's dtype; None where every coefficient is 0.

        Raises:
            AttachError: where a list of coefficients doesn't have one for each vector.
        """
        vectors = self.direction.vectors
        given = self.options.coefficient
        coefficients = (given,) * self.direction.rank if isinstance(given, float) else given
        if len(coefficients) != self.direction.rank:
            raise AttachError(
                f"add: {len(coefficients)} coefficients for direction {self.direction.name!r} of rank "
                f"{self.direction.rank}. Give one number for all of its vectors, or {self.direction.rank}."
            )
        if not any(coefficients):
            return None
        column = torch.tensor(coefficients, dtype=vectors.dtype, device=vectors.device)[:, None]
        return Affine(bias=(column * vectors).sum(0))
