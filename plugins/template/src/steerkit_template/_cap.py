"""``x ← x + (min(x·u, limit) − x·u) u`` with the unit vector ``u`` along the direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.api.architecture import Layout
from steerkit.api.intervention import Intervention, Pointwise
from steerkit.errors import DataError
from steerkit.types import Site
from steerkit_template.cap import CapOptions

if TYPE_CHECKING:
    from torch import Tensor


class Cap(Intervention[CapOptions]):
    """Limits the component along a direction of rank 1. It isn't affine, so it is given as a function."""

    def default_sites(self, layout: Layout) -> Sequence[Site]:
        """The site at which the direction was estimated."""
        return (self.direction.site,)

    def update(self, site: Site, layout: Layout) -> Pointwise:
        """The function, ``[*, d_model] -> [*, d_model]``.

        Raises:
            DataError: where the direction has several vectors, or is zero.
        """
        vectors = self.direction.vectors
        norm = float(vectors.norm())
        if vectors.shape[0] != 1 or not norm > 0:
            raise DataError(
                f"cap: direction {self.direction.name!r} must be one vector that isn't zero, not {vectors.shape[0]} "
                f"of norm {norm:g}."
            )
        unit, limit = vectors[0] / norm, self.options.limit

        def capped(x: Tensor) -> Tensor:
            along = unit.to(x)
            excess: Tensor = (x @ along - limit).clamp(min=0)
            return x - excess[..., None] * along

        return Pointwise(capped)
