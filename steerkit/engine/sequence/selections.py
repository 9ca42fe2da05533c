"""How much of a step each token of a pass gets: worked out once per pass for all steps of equal circumstances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import torch
from torch import Tensor

from steerkit.engine.sequence.tally import note_edited
from steerkit.engine.sequence.when import When

if TYPE_CHECKING:
    from steerkit.engine.sequence.cursor import Cursor, Pass

Like: TypeAlias = tuple[torch.dtype, torch.device]
"""Dtype and device of a value."""
WHOLLY: Final = True
"""Every token of the pass is edited, with weight one."""


@dataclass(eq=False)
class Selection:
    """How much of a step each token of a pass gets. One object for equal circumstances, so that it is worked out once.

    Args:
        whens: for all rows, or one for each; None where a row has no update.
        cursor: of the attachment.
    """

    whens: tuple[When | None, ...]
    cursor: Cursor
    _pass: Pass | None = None
    _static: Tensor | bool | None = None
    _weights: Tensor | None = None

    def __post_init__(self) -> None:
        present = [when for when in self.whens if when is not None]
        self.always = all(when.always for when in present)
        self.gates = tuple(dict.fromkeys(when.gate for when in present if when.gate is not None))
        self.binary = all(when.schedule.is_constant for when in present)

    def of(self, x: Tensor) -> Tensor | bool | None:
        """``[rows, pos, 1]`` in the dtype of ``x``; ``WHOLLY``, or None where no token is edited.

        Worked out once per pass: gates are read before the first step that they decide. Some layers see only the
        last columns of a pass (Gemma 4 drops the rest before its layers that share keys and values), so the weights
        are taken from its end.
        """
        if self._pass is not self.cursor.now or self._pass is None:
            self._enter(self.cursor.current)
        static = self._static
        if static is None or (static is WHOLLY and not self.gates):
            return static
        weights = self._weights
        if weights is None or weights.dtype is not x.dtype or weights.device != x.device:
            weights = self._weights = self._weighed(static, x)
        return weights if weights.shape[1] == x.shape[1] else weights[:, -x.shape[1] :]

    def _enter(self, current: Pass) -> None:
        if self not in current.known:
            static = self.cursor.static(self.whens)
            current.known[self] = (static, {})
            if static is None or not self.gates:
                note_edited(self.whens, static, current.length)
        self._static, self._weights, self._pass = current.known[self][0], None, current

    def _weighed(self, static: Tensor | bool, x: Tensor) -> Tensor:
        weights = self.cursor.current.known[self][1]
        like = (x.dtype, x.device)
        if like not in weights:
            fresh = not weights
            weights[like] = self._work_out(static, x)
            if fresh and self.gates:
                note_edited(self.whens, weights[like], self.cursor.current.length)
        return weights[like]

    def _work_out(self, static: Tensor | bool, x: Tensor) -> Tensor:
        if isinstance(static, Tensor):
            weights = static[:, :, None].to(device=x.device, dtype=x.dtype)
        else:
            weights = torch.ones(x.shape[0], self.cursor.current.length, 1, device=x.device, dtype=x.dtype)
        for gate in self.gates:
            concerned = torch.tensor([when is not None and when.gate is gate for when in self.whens])
            concerned = concerned.repeat_interleave(x.shape[0] // len(self.whens))
            is_open = self.cursor.open(gate, concerned, static).to(x.device)
            if is_open.shape[1] > 1:
                # A gate that saw only the last columns decides for those, and earlier ones aren't edited any more.
                weights = weights[:, -is_open.shape[1] :]
            weights = weights * (is_open if bool(concerned.all()) else is_open | ~concerned.to(x.device)[:, None, None])
        return weights
