"""Put a program on a model, and take it off without a trace."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steerkit.api.architecture import Layout, Tap
from steerkit.api.intervention import Affine
from steerkit.engine.positions import FAR, Frame, edit_mask, frame_of_mask, intervals
from steerkit.engine.program import Edit, Program, Slot
from steerkit.engine.taps import Handler, register_tap, submodule
from steerkit.errors import AttachError, PositionError
from steerkit.types import Positions

if TYPE_CHECKING:
    from collections.abc import Iterator

Applied = Callable[[Tensor], Tensor]


@dataclass
class Cursor:
    """Which columns the running forward pass holds. One per attachment, so that models don't collide.

    What is edited depends on a token's column, so the cursor asks the cache how many columns came
    before; it never counts calls.
    """

    frame: Frame | None = None
    _running: Frame | None = None
    _start: int = 0
    _length: int = 0
    _spans: dict[Positions, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _masks: dict[Positions, Tensor | None] = field(default_factory=dict)

    def set_frame(self, frame: Frame | None) -> None:
        """Say where the prompts of the coming passes lie; None for passes that nobody described."""
        self.frame = frame
        self._running = None
        self._spans.clear()

    def before_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the base model: note which columns this pass holds."""
        tokens = args[0] if args else kwargs.get("input_ids")
        if tokens is None:
            tokens = kwargs["inputs_embeds"]
        cache = kwargs.get("past_key_values")
        self._start = int(cache.get_seq_length()) if cache is not None else 0
        rows, self._length = tokens.shape[0], tokens.shape[1]
        self._masks.clear()
        frame = self.frame
        if frame is None:
            frame = _bare_frame(kwargs.get("attention_mask"), rows, self._start + self._length)
            if self._start:
                # A continued sequence: where it will end nobody knows, so nothing may count from there.
                frame = replace(frame, end=torch.full_like(frame.end, FAR))
            self._spans.clear()
        if self._running is None or self._running.rows != rows or self.frame is None:
            self._running = frame.expand(rows)
            self._spans.clear()

    def mask(self, positions: Positions, length: int, device: torch.device) -> Tensor | None:
        """The edit mask ``[rows, length, 1]`` of the pass, or None where no token of it is edited.

        Some layers see only the last columns of a pass (Gemma 4 drops the rest before its layers
        that share keys and values), so the mask is taken from its end.
        """
        if self._running is None:
            raise PositionError("A block ran outside its model's forward pass; positions are not known there.")
        if positions not in self._masks:
            # Spans and masks are made on the CPU, so that a look at them never waits for the device.
            if positions not in self._spans:
                self._spans[positions] = intervals(positions, self._running)
            mask = edit_mask(self._spans[positions], self._start, self._length)
            self._masks[positions] = mask[:, :, None].to(device) if bool(mask.any()) else None
        found = self._masks[positions]
        return None if found is None else found[:, -length:].to(device)


def _bare_frame(mask: Any, rows: int, columns: int) -> Frame:
    if mask is None:
        return frame_of_mask(torch.ones(rows, columns))
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        raise PositionError(
            "These positions need to know where padding is, and the attention mask of this pass isn't [rows, columns]. "
            "Use the steered model's own generate or forward."
        )
    return frame_of_mask(mask)


EVERYWHERE = Positions("all")
"""Needs no mask: a pass edits every column, and what padding holds reaches no token."""


@contextmanager
def attached(model: nn.Module, layout: Layout, program: Program) -> Iterator[Cursor]:
    """Run the body with the program on the model.

    Yields:
        the cursor to which frames are given.

    Raises:
        AttachError: where the program can't be attached; the model is then as it was.
    """
    cursor = Cursor()
    with ExitStack() as stack:
        if any(edit.positions != EVERYWHERE for edit in program.edits):
            base = submodule(model, layout.base)
            handle = base.register_forward_pre_hook(cursor.before_forward, with_kwargs=True)
            stack.callback(handle.remove)
        for slot in program.slots:
            for tap, handler in _handlers(model, slot, cursor):
                stack.callback(register_tap(model, tap, handler).remove)
        yield cursor


def _handlers(model: nn.Module, slot: Slot, cursor: Cursor) -> list[tuple[Tap, Handler]]:
    """What to register for a slot. The model's weights tell device and dtype once, here."""
    like = _weight_of(submodule(model, slot.tap.module), model)
    steps = [_masked(_compiled(edit, like), edit.positions, cursor) for edit in slot.edits]

    def run(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    if slot.resid_pre is None:
        return [(slot.tap, run if len(steps) > 1 else steps[0])]
    held: list[Tensor] = []

    def keep(x: Tensor) -> None:
        held[:] = [x]

    def between(attn_out: Tensor) -> Tensor:
        resid_pre = held.pop()
        resid_mid = resid_pre + attn_out
        new = run(resid_mid)
        if new is resid_mid:
            return attn_out
        # Tokens that no step edited keep their attn_out to the bit; the sum and difference would round it.
        untouched = (new == resid_mid).all(-1, keepdim=True)
        return torch.where(untouched, attn_out, new - resid_pre)

    return [(slot.resid_pre, keep), (slot.tap, between)]


def _masked(step: Applied, positions: Positions, cursor: Cursor) -> Applied:
    if positions == EVERYWHERE:
        return step

    def run(x: Tensor) -> Tensor:
        mask = cursor.mask(positions, x.shape[1], x.device)
        return x if mask is None else torch.where(mask, step(x), x)

    return run


def _weight_of(module: nn.Module, model: nn.Module) -> Tensor:
    """A floating-point parameter near a module: its own, else the model's first."""
    for owner in (module, model):
        for parameter in owner.parameters():
            if parameter.is_floating_point():
                return parameter
    raise AttachError("The model has no floating-point parameter, so the dtype of its activations isn't known.")


class _Ready:
    """An update whose vectors lie where and as its value does. Cast at attach; again only if that guess was wrong.

    The guess is the module's weights. It fails where a norm is kept in float32 inside a bfloat16
    model, and adding a float32 vector would silently turn the whole stream into float32.
    """

    def __init__(self, update: Affine, like: Tensor) -> None:
        self.update = update
        self.cast(like)

    def cast(self, like: Tensor) -> None:
        self.dtype, self.device = like.dtype, like.device

        def ready(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device=like.device, dtype=like.dtype)

        self.step = _algebra(ready(self.update.reads), ready(self.update.writes), ready(self.update.bias))

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype is not self.dtype or x.device != self.device:
            self.cast(x)
        return self.step(x)


def _compiled(edit: Edit, like: Tensor) -> Applied:
    return _Ready(edit.update, like) if isinstance(edit.update, Affine) else edit.update.function


def _algebra(reads: Tensor | None, writes: Tensor | None, bias: Tensor | None) -> Applied:
    """``x + (x readsᵀ) writes + bias`` as the fewest fused calls."""
    if reads is None or writes is None:
        if bias is None:
            return lambda x: x
        return lambda x: torch.add(x, bias)
    if reads.shape[0] == 1:
        row, column = reads[0], writes[0]
        if bias is None:
            return lambda x: torch.addcmul(x, (x @ row)[..., None], column)
        return lambda x: torch.addcmul(torch.add(x, bias), (x @ row)[..., None], column)
    transposed = reads.T.contiguous()
    if bias is None:
        return lambda x: torch.add(x, (x @ transposed) @ writes)
    return lambda x: torch.add(torch.add(x, bias), (x @ transposed) @ writes)
