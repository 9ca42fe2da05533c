"""The calls that are timed: a prefill, and decode steps on a cache. The very same ones with and without steering."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.types import TokenIds

Phase = Literal["prefill", "decode"]
PHASES: Final[tuple[Phase, ...]] = ("decode", "prefill")

PROMPT: Final = 16
"""Tokens that the cache holds when decoding begins."""

WARM_STEPS: Final = 4
"""Untimed steps of compiled calls: the first ones compile and record."""

CHECKED_STEPS: Final = 4
CHECKED_COLUMNS: Final = 16
MOST_STEPS: Final = 128

Call = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Workload:
    """One phase at one batch size.

    Args:
        phase: ``prefill``: one call on the whole prompts, head on the last token, as ``generate`` begins.
            ``decode``: a cached call of one token per row, and its argmax.
        call: the model's forward; a compiled one where that is what is measured.
        ids: ``[batch, pos]``, the prompts.
        calls: how many calls one sample holds.
        cache: gives an empty cache; None for the model's own.
        first: the call that fills the cache before steps are timed; None for ``call``.
    """

    phase: Phase
    call: Call
    ids: TokenIds
    calls: int = 1
    cache: Callable[[], Any] | None = None
    first: Call | None = None

    @property
    def batch(self) -> int:
        """Rows."""
        return int(self.ids.shape[0])

    @contextmanager
    def ready(self) -> Iterator[Callable[[], object]]:
        """What is timed, warm: ``calls`` calls. For decoding, the prompts are in the cache."""
        with torch.no_grad():
            if self.phase == "prefill":
                self._prefill(keep=1)
                yield self._prefills
            else:
                cache, token = self._prefill(keep=1)
                for _ in range(WARM_STEPS if self.first is not None else 1):
                    token = self._step(cache, token)
                yield lambda: self._steps(cache, token)

    def logits(self) -> Tensor:
        """``[batch, tokens, vocab]``, of the same calls: the prompt's last tokens, or some steps on fixed tokens."""
        with torch.no_grad():
            if self.phase == "prefill":
                keep = min(CHECKED_COLUMNS, self.ids.shape[1])
                found: Tensor = self.call(self.ids, use_cache=True, logits_to_keep=keep, **self._room()).logits
                return found.clone()
            cache, _ = self._prefill(keep=1)
            steps = []
            for step in range(CHECKED_STEPS):
                token = self.ids[:, step : step + 1].contiguous()
                steps.append(self.call(token, past_key_values=cache, use_cache=True).logits.clone())
            return torch.cat(steps, 1)

    def with_calls(self, calls: int) -> Workload:
        """The same with that many calls per sample."""
        return replace(self, calls=calls)

    def with_call(self, call: Call) -> Workload:
        """The same through another call of the same model."""
        return replace(self, call=call)

    def _room(self) -> dict[str, Any]:
        return {} if self.cache is None else {"past_key_values": self.cache()}

    def _prefill(self, keep: int) -> tuple[Any, Tensor]:
        call = self.call if self.phase == "prefill" or self.first is None else self.first
        found = call(self.ids, use_cache=True, logits_to_keep=keep, **self._room())
        return found.past_key_values, found.logits[:, -1].argmax(-1, keepdim=True)

    def _prefills(self) -> None:
        for _ in range(self.calls):
            self._prefill(keep=1)

    def _step(self, cache: Any, token: Tensor) -> Tensor:
        logits: Tensor = self.call(token, past_key_values=cache, use_cache=True).logits
        return logits[:, -1].argmax(-1, keepdim=True)

    def _steps(self, cache: Any, token: Tensor) -> None:
        for _ in range(self.calls):
            token = self._step(cache, token)


def prompts(batch: int, length: int, vocabulary: int, device: torch.device, seed: int = 1) -> TokenIds:
    """Random token ids, ``[batch, length]``, the same each time."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocabulary, (batch, length), generator=generator).to(device)


def calls_for(seconds_per_call: float, sample_seconds: float, most: int = MOST_STEPS) -> int:
    """How many calls make a sample long enough for the clock and for what a shared machine does in between."""
    return max(1, min(most, math.ceil(sample_seconds / seconds_per_call)))
