"""Arithmetic of low-rank affine updates ``x ← x + (x readsᵀ) writes + bias``: compose, shorten, cancel.

Values are computed in float64, since what cancels leaves the rounding of its terms behind; a value that
a gradient may be asked of keeps its graph, and is never shortened by looking at it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from steerkit.api.intervention import Affine, Pointwise, Update

NEGLIGIBLE = 1e-6
"""Below this, relative to what it came from, a singular value or a sum is what rounding left of a zero."""


def wants_gradient(update: Update) -> bool:
    """Whether a gradient may be asked of the update's tensors. Of a function nobody knows; it counts as no."""
    if not isinstance(update, Affine) or not torch.is_grad_enabled():
        return False
    return any(value is not None and value.requires_grad for value in (update.reads, update.writes, update.bias))


def is_constant(update: Update) -> bool:
    """Whether it adds one vector, whatever the stream holds."""
    return isinstance(update, Affine) and update.reads is None


def times(update: Update, factor: Tensor) -> Update:
    """The update with its change multiplied: ``x + factor * (f(x) − x)``. ``factor``: one element."""
    if isinstance(update, Pointwise):
        function = update.function

        def scaled(x: Tensor) -> Tensor:
            return x + factor.to(x) * (function(x) - x)

        return Pointwise(scaled)
    value = factor.reshape(())
    writes = None if update.writes is None else update.writes * value.to(update.writes)
    return Affine(update.reads, writes, None if update.bias is None else update.bias * value.to(update.bias))


def before_factor(update: Update, factor: float) -> Update:
    """What does to a value what ``update`` does to the value times a factor."""
    if isinstance(update, Pointwise):
        function = update.function

        def of_factor(x: Tensor) -> Tensor:
            seen = x * factor
            return x + (function(seen).to(x) - seen) / factor

        return Pointwise(of_factor)
    return Affine(update.reads, update.writes, None if update.bias is None else update.bias / factor)


def embedded(update: Update, columns: slice, width: int) -> Update:
    """An update of some columns of a value, as one of the whole value, ``[*, width]``; the others keep their bits.

    Args:
        update: of what the columns hold, such as one head's output.
        columns: where they lie.
        width: of the whole value.
    """
    if isinstance(update, Pointwise):
        function = update.function

        def of_columns(x: Tensor) -> Tensor:
            return torch.cat([x[..., : columns.start], function(x[..., columns]).to(x), x[..., columns.stop :]], -1)

        return Pointwise(of_columns)
    around = columns.start, width - columns.stop
    return Affine(*(None if part is None else pad(part, around) for part in (update.reads, update.writes, update.bias)))


def compose(first: Affine, second: Affine) -> Affine | None:
    """What doing one after the other is, as one update; None where nothing is left of the two.

    With ``x₁ = x + (x A₁ᵀ) Q₁ + b₁`` put into ``x₁ + (x₁ A₂ᵀ) Q₂ + b₂``:
    ``A = [A₁; A₂]``, ``Q = [Q₁ + Q₁A₂ᵀQ₂; Q₂]``, ``b = b₁ + b₂ + (b₁A₂ᵀ) Q₂``.
    """
    differentiable = wants_gradient(first) or wants_gradient(second)
    reads1, writes1, bias1 = _parts_of_update(first, differentiable)
    reads2, writes2, bias2 = _parts_of_update(second, differentiable)
    bias = bias1 if bias2 is None else bias2 if bias1 is None else bias1 + bias2
    if reads2 is None or writes2 is None:
        reads, writes = reads1, writes1
    else:
        if bias1 is not None:
            carried = (bias1 @ reads2.T) @ writes2
            bias = carried if bias is None else bias + carried
        if reads1 is None or writes1 is None:
            reads, writes = reads2, writes2
        else:
            reads = torch.cat([reads1, reads2])
            writes = torch.cat([writes1 + (writes1 @ reads2.T) @ writes2, writes2])
    if differentiable:
        return Affine(reads, writes, bias)
    if bias is not None and bias1 is not None:
        # A bias that one of the two brought alone has cancelled with nothing.
        size = max(float(value.abs().max()) for value in (bias1, bias2) if value is not None)
        bias = bias if float(bias.abs().max()) > NEGLIGIBLE * size else None
    short = None if reads is None or writes is None else shorten(reads, writes)
    if short is None:
        return None if bias is None else Affine(bias=bias)
    return Affine(*short, bias)


def shorten(reads: Tensor, writes: Tensor) -> tuple[Tensor, Tensor] | None:
    """The same linear part ``readsᵀ writes`` with as few rows as its rank, or None where it is zero.

    Args:
        reads: ``[rank, d_model]``.
        writes: ``[rank, d_model]``.
    """
    size = float((reads.norm(dim=1) * writes.norm(dim=1)).max())
    if size == 0:
        return None
    if reads.shape[0] == 1:
        return reads, writes
    left, upper_reads = torch.linalg.qr(reads.T)
    right, upper_writes = torch.linalg.qr(writes.T)
    one, values, other = torch.linalg.svd(upper_reads @ upper_writes.T)
    rank = int((values > NEGLIGIBLE * size).sum())
    if rank == 0:
        return None
    if rank == reads.shape[0]:
        return reads, writes
    root = values[:rank].sqrt()
    return (left @ (one[:, :rank] * root)).T.contiguous(), (right @ (other[:rank].T * root)).T.contiguous()


def _parts_of_update(update: Affine, differentiable: bool) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    values = (update.reads, update.writes, update.bias)
    wide = [
        None if value is None else value.double() if differentiable else value.detach().double() for value in values
    ]
    return wide[0], wide[1], wide[2]


def apply_update(update: Update, x: Tensor) -> Tensor:
    """Carry out an update literally on ``[*, d_model]``. Never writes into ``x``."""
    if not isinstance(update, Affine):
        return update.function(x)
    new = x
    if update.reads is not None and update.writes is not None:
        new = new + (x @ update.reads.T) @ update.writes
    return new if update.bias is None else new + update.bias
