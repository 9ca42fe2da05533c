"""Vectors in the residual stream, with where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from steerkit.types import Positions, Site

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.types import Vectors


@dataclass(frozen=True, eq=False)
class Direction:
    """Vectors that were estimated at one site and position, kept raw: their norm is part of them.

    Args:
        vectors: ``[rank, d_model]``, float32 on the CPU.
        site: where they were estimated.
        positions: at which tokens.
        name: as the recipe calls it.
        reference_mean: ``[d_model]``, the mean of the reference (negative) class, or None.
        provenance: JSON values: estimator, options, data, hashes.
    """

    vectors: Vectors
    site: Site
    positions: Positions = field(default_factory=lambda: Positions("", (-1,)))
    name: str = "direction"
    reference_mean: Tensor | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", Site.parse(self.site))
        object.__setattr__(self, "positions", Positions.parse(self.positions))
        if not self.vectors.is_floating_point():
            # Whole numbers would cut coefficients to whole numbers too.
            object.__setattr__(self, "vectors", self.vectors.float())
        if self.vectors.ndim == 1:
            object.__setattr__(self, "vectors", self.vectors[None])
        if self.vectors.ndim != 2 or self.vectors.shape[0] == 0:
            raise ValueError(f"Direction needs vectors of shape [rank, d_model], not {list(self.vectors.shape)}.")

    @property
    def rank(self) -> int:
        """Number of vectors."""
        return int(self.vectors.shape[0])

    def with_vectors(self, vectors: Vectors, name: str | None = None) -> Direction:
        """The same direction with other vectors, ``[rank, d_model]``."""
        return replace(self, vectors=vectors, name=name or self.name)
