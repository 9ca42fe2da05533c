"""What a pass holds at its fullest: the pass is run on the meta device, where nothing is computed or stored."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_FUSED: Final = "steerkit_fused"
"""The name of an attention that holds what a fused kernel does: its output, and no scores of tokens by tokens."""


@dataclass(frozen=True)
class PassMemory:
    """What one pass takes beside the weights, in bytes.

    Args:
        peak: the most that is held at once.
        cache: what stays for the tokens that follow: keys and values, or states.
    """

    peak: int
    cache: int

    @property
    def work(self) -> int:
        """What isn't the cache."""
        return max(self.peak - self.cache, 0)


class Held(TorchDispatchMode):
    """Counts the bytes that tensors hold which are made in its block.

    A storage counts once, from the operation that made it until nobody holds it any more.

    Args:
        known: tensors that were there before.
    """

    def __init__(self, known: Iterator[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def pass_memory(model: nn.Module, rows: int, columns: int, *, all_logits: bool = False) -> PassMemory:
    """What a pass over a batch takes beside the weights.

    Attention counts as a fused kernel where transformers lets it be chosen by name; a model that brings its own counts
    as it is written, with its scores.

    Args:
        model: on the meta device, in eval mode.
        rows: of the batch.
        columns: tokens of each row.
        all_logits: whether logits are given at every token, and held once more in float32, or at the last alone.

    Raises:
        RuntimeError, NotImplementedError: where the model can't be run without numbers.
    """
    ids = torch.zeros(rows, columns, dtype=torch.long, device="meta")
    kept: dict[str, Any] = {} if all_logits else _last_only(model)
    with torch.no_grad(), fused_attention(model), Held(_tensors(model)) as held:
        given = model(ids, use_cache=True, **kept)
        logits = given.logits.float() if all_logits else given.logits
        cache = given.get("past_key_values")
        del given
        size = _bytes_in(cache)
        del logits
    return PassMemory(held.peak, size)


def _last_only(model: nn.Module) -> dict[str, Any]:
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _bytes_in(value: Any, seen: set[int] | None = None) -> int:
    """Bytes of the tensors in a cache, whichever of transformers' it is."""
    seen = set() if seen is None else seen
    if id(value) in seen or value is None:
        return 0
    seen.add(id(value))
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, (list, tuple)):
        return sum(_bytes_in(one, seen) for one in value)
    if isinstance(value, dict):
        return sum(_bytes_in(one, seen) for one in value.values())
    held = getattr(value, "__dict__", None)
    return _bytes_in(held, seen) if held and type(value).__module__.startswith("transformers") else 0


@contextmanager
def fused_attention(model: Any) -> Iterator[None]:
    """Have a model count attention as a fused kernel, in the block, where it can be told so."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    before = getattr(model.config, "_attn_implementation", None)
    if before != "sdpa":  # one that knows no other, or whose scores are really held
        yield
        return
    AttentionInterface.register(_FUSED, _attend)
    AttentionMaskInterface.register(_FUSED, sdpa_mask)
    model.set_attn_implementation(_FUSED)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Of the shape that attention gives, ``[batch, pos, head, head_dim]``, and no weights."""
    given = query.new_empty(*query.shape[:-1], value.shape[-1])
    return given.transpose(1, 2).contiguous(), None
