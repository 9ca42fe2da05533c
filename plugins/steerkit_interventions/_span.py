"""The span of a direction's vectors, in a form that gradients can pass."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch

from steerkit.api.direction import Direction
from steerkit.api.intervention import Affine, Intervention, OptionsT
from steerkit.errors import DataError
from steerkit_interventions._sites import at_one_site, first_vectors

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.types import Vectors

# Unit vectors whose smallest singular value is below this are dependent. A vector that is a sum of
# others misses their span by about 1e-7 when it is stored in float32.
DEPENDENT = 1e-5


class SpanIntervention(Intervention[OptionsT]):
    """An intervention whose one update, the same at every site, is made of the span of its direction's vectors.

    Its options have ``at``. Class attribute ``plugin``: its name, for messages.
    """

    plugin: ClassVar[str]

    @property
    def direction(self) -> Direction:
        """The direction at the one site that is meant, with as many of its vectors. Raises ``AttachError``."""
        one = at_one_site(super().direction, getattr(self.options, "at", None), self.plugin)
        return first_vectors(one, getattr(self.options, "rank", None), self.plugin)

    @abstractmethod
    def _compute(self) -> Affine:
        """The update."""

    def _update(self) -> Affine:
        """The update; worked out once for all sites, unless gradients may be wanted of its direction."""
        tensors = (self.direction.vectors, self.direction.reference_mean)
        if any(tensor is not None and tensor.requires_grad for tensor in tensors):
            # Learned vectors change between attachments, and a backward pass frees the graph that it went through.
            return self._compute()
        return self._constant

    @cached_property
    def _constant(self) -> Affine:
        # It is kept, and tensors of inference mode could take no part in a later backward pass.
        with torch.inference_mode(False):
            return self._compute()


def unit_vectors(direction: Direction, plugin: str) -> Vectors:
    """The direction's vectors, each with norm 1, ``[rank, d_model]`` in float64.

    Args:
        direction: whose vectors.
        plugin: named in errors.

    Raises:
        DataError: where a vector is zero, NaN or infinite.
    """
    vectors = direction.vectors.to(torch.float64)
    norms = vectors.norm(dim=1)
    for row, norm in enumerate(norms.tolist()):
        if not 0 < norm < float("inf"):
            problem = "zero" if norm == 0 else "NaN or infinite"
            raise DataError(
                f"{plugin}: vector {row} of direction {direction.name!r} is {problem}, so it spans nothing. "
                "Check the prompts that it was estimated from."
            )
    unit: Vectors = vectors / norms[:, None]
    return unit


def orthonormal(direction: Direction, plugin: str) -> Vectors:
    """Orthonormal rows that span the direction's vectors. Differentiable where the vectors are independent.

    Args:
        direction: whose vectors.
        plugin: named in errors.

    Returns:
        ``[r, d_model]`` in float64, with ``r`` at most the direction's rank, less where vectors are linearly
        dependent.

    Raises:
        DataError: where a vector is zero, NaN or infinite, or where dependent vectors want a gradient.
    """
    # Unit rows: whether vectors are dependent is a matter of angles, not of norms.
    unit = unit_vectors(direction, plugin)
    if unit.shape[0] == 1:
        return unit
    singular = torch.linalg.svdvals(unit.detach())
    if unit.shape[0] <= unit.shape[1] and float(singular[-1]) > DEPENDENT:
        # Not the singular vectors: their gradient is NaN where singular values are equal, as of orthonormal vectors.
        basis: Vectors = torch.linalg.qr(unit.T).Q.T.contiguous()
        return basis
    if unit.requires_grad:
        raise DataError(
            f"{plugin}: the vectors of direction {direction.name!r} are linearly dependent, so their span has no "
            "gradient. Leave out those that the others make up, or detach the vectors."
        )
    _, singular, rows = torch.linalg.svd(unit, full_matrices=False)
    span: Vectors = rows[singular > DEPENDENT]
    return span


def weighted_sum(vectors: Vectors, coefficients: Sequence[float]) -> Tensor:
    """``Σ c_k v_k``, ``[d_model]`` in the vectors' dtype."""
    column = torch.tensor(coefficients, dtype=vectors.dtype, device=vectors.device)[:, None]
    return (column * vectors).sum(0)
