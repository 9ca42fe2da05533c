"""Whether a gate is open: from a stream to projections, from projections to a decision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from steerkit.engine.sequence.positions import Frame, edit_mask, position_intervals
from steerkit.errors import PositionError

if TYPE_CHECKING:
    from steerkit.api.intervention import Gate
    from steerkit.types import Site


def gate_unit(gate: Gate, x: Tensor) -> Tensor:
    """A gate's direction with norm 1, ``[width]``: float32, or float64 for a float64 stream, where ``x`` is.

    Of a gate at one head the value ``x`` holds all heads side by side; the direction is 0 at the others.
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    vector = gate.direction.vectors[0].detach().to(wide)
    return gate_at_head((vector / vector.norm()).to(x.device), gate.read_at, x)


def gate_at_head(vector: Tensor, site: Site, x: Tensor) -> Tensor:
    """A vector at a site as one of the width of ``x``, which at a head's site holds all heads side by side."""
    if site.head < 0:
        return vector
    before = site.head * len(vector)
    return pad(vector, (before, x.shape[-1] - before - len(vector)))


def gate_projection(x: Tensor, direction: Tensor) -> Tensor:
    """``x·u`` of a stream ``[rows, pos, d_model]`` with a ``unit`` direction: ``[rows, pos]`` in its dtype."""
    return x.detach().to(direction.dtype) @ direction


def gate_is_open(gate: Gate, projections: Tensor) -> Tensor:
    """Whether projections open a gate."""
    return projections > gate.threshold if gate.side == "above" else projections < gate.threshold


def decide_gate(gate: Gate, projections: Tensor, frame: Frame, rows: tuple[int, ...], asked: Tensor) -> Tensor:
    """Whether a gate is open, by the mean over its positions in each prompt: ``[rows of the frame]``.

    Args:
        gate: of the kind that prompts decide.
        projections: ``[rows of the frame, columns]``; NaN where a column wasn't seen.
        frame: where the prompts lie.
        rows: those that it decides for; the others come out closed.
        asked: ``[rows of the frame]``, rows whose answer is needed now.

    Raises:
        PositionError: where a row that is asked for has no token at the gate's positions, or one wasn't seen.
    """
    mask = torch.zeros(projections.shape, dtype=torch.bool)
    mask[list(rows)] = edit_mask(position_intervals(gate.positions, frame.select(rows)), 0, projections.shape[1])
    empty = (asked & ~mask.any(1)).nonzero()[:, 0].tolist()
    if empty:
        raise PositionError(f"The gate '{gate}': row {empty[0] + 1} has no token at positions '{gate.positions}'.")
    seen = mask.to(projections.device)
    if bool((projections.isnan() & seen)[asked.to(projections.device)].any()):
        raise PositionError(
            f"The gate '{gate}' is decided on the prompt, and its site didn't see all of it: it was read before the "
            "steering, into a cache that the model made itself (pass past_key_values=DynamicCache(config=model.config) "
            "from the start), or the layer sees only the last tokens (put the gate at an earlier site, or allow an "
            "extra pass: prepass=True)."
        )
    return gate_is_open(gate, torch.where(seen, projections, 0).sum(1) / seen.sum(1).clamp(min=1))
