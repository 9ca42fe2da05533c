"""Which contributions look at other tokens: the first token is changed, all later ones are kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from steerkit.api.architecture import Tap
from steerkit_architectures._discovery.chain import Link
from steerkit_architectures._discovery.following import Course
from steerkit_architectures._discovery.graph import Graph, Value
from steerkit_architectures._discovery.recording import named_once, run

_USUALLY_MIX = frozenset({"convolution", "constant_pad_nd", "cumsum", "roll", "logcumsumexp", "flip"})

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


def which_mix(model: nn.Module, ids: Tensor, streams: Sequence[Tap], writers: Sequence[Tap]) -> dict[Tap, bool]:
    """Whether each writer mixes tokens.

    A second pass has another first token, and at the later ones the streams and all that writers give are put back as
    they were in the first pass. So what differs in a writer there can only come from its looking at the first token.

    Args:
        model: with its modes as they should be.
        ids: tokens, ``[batch, pos]``.
        streams: where blocks begin.
        writers: what they add.
    """
    pinned = _Pinned(writers, (ids.shape[0], ids.shape[1]))
    changed = ids.clone()
    changed[:, 0] = ids[:, -1].flip(0)
    with ExitStack() as stack:
        modules = dict(named_once(model))
        for tap in dict.fromkeys([*streams, *writers]):
            stack.callback(_show(modules[tap.module], tap, pinned.meet).remove)
        run(model, ids)
        pinned.again = True
        run(model, changed)
    return pinned.mixes


def seems_to_mix(graph: Graph, link: Link, course: Course, value: Value) -> bool:
    """Whether a contribution comes from the stream by an operation that usually mixes tokens.

    All that can be said where numbers aren't known, as on the meta device.
    """
    stream = {copy.index for addition in course.additions for copy in addition.total.copies}
    made = graph.made_of(value, link.call.start, stream)
    return any(_usually_mixes(graph.values[index]) for index in made)


def _usually_mixes(value: Value) -> bool:
    kind = value.kind.partition("#")[0]
    if "attention" in kind or kind in _USUALLY_MIX:
        return True
    # Attention that is spelled out: a product of matrices of which both are made of the tokens.
    numbers = [one for one in value.inputs if one.dtype.is_floating_point]
    return kind in ("bmm", "baddbmm") and len([one for one in numbers[-2:] if _made_of_tokens(one)]) == 2


def _made_of_tokens(value: Value) -> bool:
    """Whether numbers come from the tokens, rather than tokens choosing rows of a weight."""
    while value.kind in ("index", "index_select", "gather", "t", "transpose") or value.copied is not None:
        value = value.inputs[0]
    return value.of_tokens


class _Pinned:
    """Values of the first pass, which the second one meets."""

    def __init__(self, writers: Sequence[Tap], shape: tuple[int, int]) -> None:
        self.mixes = dict.fromkeys(writers, False)
        self.again = False
        self._usual: dict[Tap, Tensor] = {}
        self._shape = shape
        self._thread = threading.get_ident()

    def meet(self, tap: Tap, value: Tensor) -> Tensor | None:
        """Keep a value of the first pass; put it back at the later tokens in the second."""
        if threading.get_ident() != self._thread:
            return None
        if not self.again:
            self._usual[tap] = value.detach().clone()
            return None
        usual = self._usual.get(tap)
        if usual is None or usual.shape != value.shape:
            return None
        rows = (*self._shape, value.shape[-1])
        before, now = usual.reshape(rows), value.detach().reshape(rows).clone()
        if tap in self.mixes:
            differs = (before[:, 1:].double() - now[:, 1:].double()).abs().max()
            self.mixes[tap] |= bool(differs > 1e-4 * before[:, 1:].double().abs().max())
        now[:, 1:] = before[:, 1:]
        return now.reshape(value.shape)


def _show(module: nn.Module, tap: Tap, meet: Callable[[Tap, Tensor], Tensor | None]) -> RemovableHandle:
    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            return meet(tap, output)
        new = meet(tap, output[0])
        return None if new is None else type(output)((new, *output[1:]))

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        new = meet(tap, args[0] if args else kwargs[tap.keyword])
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, tap.keyword: new})

    if tap.side == "output":
        return module.register_forward_hook(after)
    return module.register_forward_pre_hook(before, with_kwargs=True)
