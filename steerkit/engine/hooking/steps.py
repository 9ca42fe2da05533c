"""A step of a slot as the fewest fused calls. All that doesn't depend on the value is done when it is built.

Sums are written so that a token with weight 0 keeps its value: ``x + 0 · b`` is ``x`` (a −0 may become 0, which
compares equal), and the constant of a row without an update is −0, which changes nothing when it is added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from steerkit.api.intervention import Affine, Pointwise
from steerkit.engine.lowering.algebra import apply_update
from steerkit.engine.lowering.edits import Edit
from steerkit.engine.lowering.program import Step
from steerkit.engine.sequence.cursor import Cursor
from steerkit.engine.sequence.selections import WHOLLY, Selection

Applied: TypeAlias = Callable[[Tensor], Tensor]
Like: TypeAlias = tuple[torch.dtype, torch.device]
"""Dtype and device of a value."""
Kernel: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]
"""From a value ``[rows, pos, width]`` and weights ``[rows, pos, 1]`` (None: all 1) to the new value."""


def build_step(step: Step, cursor: Cursor, like: Like) -> Applied:
    """A step, ready to run on values of a dtype and on a device."""
    run: list[Applied] = []
    affine = tuple(part if part is not None and isinstance(part.update, Affine) else None for part in step.parts)
    if any(part is not None for part in affine):
        selection = cursor.selection(tuple(None if part is None else part.when for part in affine))
        run.append(_weighted_step(_Affines(affine, like), selection))
    functions: dict[int, list[int]] = {}
    for row, part in enumerate(step.parts):
        if part is not None and isinstance(part.update, Pointwise):
            functions.setdefault(id(part.update), []).append(row)
    run += [_function_step(step, rows, cursor) for rows in functions.values()]
    return chain_steps(run)


def chain_steps(steps: Sequence[Applied]) -> Applied:
    """Steps of a hook, one after the other."""
    if len(steps) == 1:
        return steps[0]

    def run(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return run


def _weighted_step(update: _Affines, selection: Selection) -> Applied:
    if selection.always:
        return update.everywhere()

    def run(x: Tensor) -> Tensor:
        weights = selection.of(x)
        if weights is None:
            return x
        return update.kernel(x)(x, None if isinstance(weights, bool) else weights)

    return run


class _Affines:
    """One affine update for all rows, or one for each, cast once.

    Where its vectors should lie is guessed from the module's weights. The guess fails where a norm is kept in
    float32 inside a bfloat16 model, and adding a float32 vector would silently turn the whole stream into float32;
    then they are cast again.
    """

    def __init__(self, parts: tuple[Edit | None, ...], like: Like) -> None:
        self.parts, self.like = parts, like
        self._guessed = self._tensors(like, len(parts))
        self._kernels: dict[tuple[Like, int], Kernel] = {(like, len(parts)): _kernel_of_update(*self._guessed)}

    def kernel(self, x: Tensor) -> Kernel:
        """The kernel for a value's dtype, device and, where rows differ, number of rows."""
        key = ((x.dtype, x.device), x.shape[0] if len(self.parts) > 1 else 1)
        if key not in self._kernels:
            self._kernels[key] = _kernel_of_update(*self._tensors(*key))
        return self._kernels[key]

    def everywhere(self) -> Applied:
        """The update of every token, with as little Python around its calls as there can be."""
        (dtype, device), n_rows = self.like, len(self.parts)
        reads, writes, bias = self._guessed

        def general(x: Tensor) -> Tensor:
            return self.kernel(x)(x, None)

        if reads is not None and writes is not None and bias is None and reads.shape[-1] == 1:
            row = writes if writes.ndim == 3 else writes[0]

            def rank_one(x: Tensor) -> Tensor:
                if x.dtype is not dtype or x.device != device or (n_rows > 1 and x.shape[0] != n_rows):
                    return general(x)
                return torch.addcmul(x, x @ reads, row)

            return rank_one
        if reads is None and bias is not None:

            def constant(x: Tensor) -> Tensor:
                if x.dtype is not dtype or x.device != device or (n_rows > 1 and x.shape[0] != n_rows):
                    return general(x)
                return torch.add(x, bias)

            return constant
        return general

    def _tensors(self, like: Like, rows: int) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        dtype, device = like
        if len(self.parts) == 1:
            (part,) = self.parts
            assert part is not None and isinstance(part.update, Affine)
            update = part.update
            given = (update.reads, update.writes, update.bias)
            reads, writes, bias = (None if value is None else value.to(device, dtype) for value in given)
            return None if reads is None else reads.T.contiguous(), writes, bias
        stacked = _stacked_updates([part.update if part is not None else None for part in self.parts], like)
        times = rows // len(self.parts)
        if times > 1:
            stacked = [None if value is None else value.repeat_interleave(times, 0) for value in stacked]
        return stacked[0], stacked[1], stacked[2]


def _stacked_updates(updates: Sequence[object], like: Like) -> list[Tensor | None]:
    """``reads [rows, width, rank]``, ``writes [rows, rank, width]``, ``bias [rows, 1, width]`` of updates side by side.

    Rows of lower rank are filled up with zeros.
    """
    affine = [update if isinstance(update, Affine) else Affine() for update in updates]
    some = next(value for one in affine for value in (one.reads, one.bias) if value is not None)
    width = some.shape[-1]
    rank = max((0 if one.reads is None else one.reads.shape[0]) for one in affine)
    dtype, device = like
    nothing = torch.full((width,), -0.0, dtype=dtype, device=device)
    zeros = torch.zeros(rank, width, dtype=dtype, device=device)

    def filled(value: Tensor | None) -> Tensor:
        if value is None:
            return zeros
        value = value.to(device, dtype)
        return value if value.shape[0] == rank else torch.cat([value, zeros[value.shape[0] :]])

    biases = [nothing if one.bias is None else one.bias.to(device, dtype) for one in affine]
    bias = torch.stack(biases)[:, None] if any(one.bias is not None for one in affine) else None
    if rank == 0:
        return [None, None, bias]
    reads = torch.stack([filled(one.reads) for one in affine])
    return [reads.transpose(1, 2).contiguous(), torch.stack([filled(one.writes) for one in affine]), bias]


def _kernel_of_update(reads: Tensor | None, writes: Tensor | None, bias: Tensor | None) -> Kernel:
    """``x + w · ((x reads) writes + bias)``.

    Args:
        reads: ``[width, rank]``, or ``[rows, width, rank]``, or None.
        writes: ``[rank, width]``, or ``[rows, rank, width]``, or None.
        bias: ``[width]``, or ``[rows, 1, width]``, or None.
    """

    def constant(x: Tensor, weights: Tensor | None) -> Tensor:
        if bias is None:
            return x
        return torch.add(x, bias) if weights is None else torch.addcmul(x, weights, bias)

    if reads is None or writes is None:
        return constant

    def along(x: Tensor, weights: Tensor | None) -> Tensor:
        coordinates = x @ reads
        if weights is None:
            return coordinates
        if x.dtype is torch.float16:
            # A product that overflows at a token that isn't edited would be infinity times 0.
            return torch.where(weights != 0, coordinates * weights, 0)
        return coordinates * weights

    if reads.shape[-1] == 1:
        # One row: a multiple of it is added in one call, with no matrix product.
        row = writes if writes.ndim == 3 else writes[0]

        def rank_one(x: Tensor, weights: Tensor | None) -> Tensor:
            return torch.addcmul(constant(x, weights), along(x, weights), row)

        return rank_one
    if writes.ndim == 3:

        def rank_k_rows(x: Tensor, weights: Tensor | None) -> Tensor:
            return torch.baddbmm(constant(x, weights), along(x, weights), writes)

        return rank_k_rows

    def rank_k(x: Tensor, weights: Tensor | None) -> Tensor:
        base, coordinates = constant(x, weights), along(x, weights)
        flat = torch.addmm(base.reshape(-1, base.shape[-1]), coordinates.flatten(0, -2), writes)
        return flat.view(x.shape)

    return rank_k


def _function_step(step: Step, rows: Sequence[int], cursor: Cursor) -> Applied:
    """A function at the rows of a step that have it."""
    first = step.parts[rows[0]]
    assert first is not None and isinstance(first.update, Pointwise)
    function = first.update.function
    whens = tuple(part.when if part is not None and row in rows else None for row, part in enumerate(step.parts))
    selection = cursor.selection(whens)

    def everywhere(x: Tensor) -> Tensor:
        weights = WHOLLY if selection.always else selection.of(x)
        if weights is None:
            return x
        new = function(x).to(x.dtype)
        if isinstance(weights, bool):
            return new
        # A weight between 0 and 1 takes part of the change; beside the chosen tokens bits stay as they are.
        part = new if selection.binary else x + weights * (new - x)
        return torch.where(weights != 0, part, x)

    if len(step.parts) == 1:
        return everywhere

    places: dict[tuple[int, torch.device], Tensor] = {}

    def at_rows(x: Tensor) -> Tensor:
        key = (x.shape[0], x.device)
        if key not in places:
            times = x.shape[0] // len(step.parts)
            places[key] = torch.tensor([row * times + copy for row in rows for copy in range(times)], device=x.device)
        chosen = places[key]
        weights = WHOLLY if selection.always else selection.of(x)
        if weights is None:
            return x
        old = x[chosen]
        new = function(old).to(x.dtype)
        if not isinstance(weights, bool):
            weights = weights[chosen]
            new = torch.where(weights != 0, new if selection.binary else old + weights * (new - old), old)
        return x.index_copy(0, chosen, new)

    return at_rows


def build_literal_step(step: Step, cursor: Cursor) -> Applied:
    """A step as defined: each token by itself, in float64 where the update is algebra."""
    selection = cursor.selection(tuple(None if part is None else part.when for part in step.parts))

    def run(x: Tensor) -> Tensor:
        weights = WHOLLY if selection.always else selection.of(x)
        if weights is None:
            return x
        times = x.shape[0] // len(step.parts) if len(step.parts) > 1 else x.shape[0]
        new = x.clone()
        for row in range(x.shape[0]):
            part = step.parts[row // times]
            for place in range(x.shape[1]):
                weight = 1.0 if isinstance(weights, bool) else float(weights[row, place])
                if part is not None and weight != 0:
                    new[row, place] = _interpret_token_in_hook(part, x[row, place], weight)
        return new

    return run


def _interpret_token_in_hook(part: Edit, x: Tensor, weight: float) -> Tensor:
    if isinstance(part.update, Pointwise):
        changed = part.update.function(x)
        return changed if weight == 1 else x + weight * (changed - x)
    wide, update = x.double(), part.update
    values = (
        None if value is None else value.to(x.device).double() for value in (update.reads, update.writes, update.bias)
    )
    return (wide + weight * (apply_update(Affine(*values), wide) - wide)).to(x.dtype)
