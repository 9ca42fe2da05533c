"""The self-test's check of how heads are cut: heads don't see each other's values, so one changes without the others.

No name says which of a mixer's modules make queries. So copies of one row share a pass, and in each of them one column
of what one module gives before the heads' tap is pushed at the last tokens, in every block, while the stream that
enters the block is that of the first copy in all of them. A push on a query, a key or a gate of a head changes all
columns of some heads, of one alone where it is that head's own; a push on a value changes one column of each. Thus:

- what changes in one piece is made of whole heads: heads that are declared too wide are seen to change in part;
- some push changes one head and no other: of heads that are declared too narrow several change each time.

Where nothing changes less than all heads, as behind a norm over all of them, nobody can tell them apart there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

import torch
from torch import Tensor, nn

from steerkit.api.architecture import Heads
from steerkit.engine.parallel.shards import Input, sharded_input
from steerkit.engine.sites.checks import Check
from steerkit.engine.sites.selftest_passes import Bench
from steerkit.engine.sites.selftest_shares import given_widths
from steerkit.engine.sites.taps import Handler, register_tap, submodule
from steerkit.errors import counted
from steerkit.types import HEAD_OUT, RESID_PRE, Site

LAST: Final = 3
"""Tokens at whose place columns are pushed, and at which heads are looked at: the last ones."""
PUSHES: Final = 5
"""Columns of a module that are pushed, one in a row each."""
FORCE: Final = 8.0
"""How far: so many times the size of the values there."""
PLAIN: Final = 3
"""Rows in which nothing is pushed, which tell what a model's own noise is."""
RUN: Final = 3
"""How many changed columns side by side are more than single values beside each other."""
CLEAR: Final = 8.0
"""How many times rounding half of what changes in a head changes at least, where all that takes part is to be seen."""
WHOLE: Final = 0.8
"""The share of a head's columns that are seen to change when all do: a few change less than rounding by chance."""
GOLDEN: Final = (5**0.5 - 1) / 2


def check_heads_apart(on: Bench) -> Check:
    """Whether heads are cut as declared, in every block that has some."""
    meaning = "a head's own values change without those of other heads, and all of them at once"
    layers = [layer for layer, block in enumerate(on.layout.blocks) if block.heads]
    if not layers:
        return Check("heads_apart", meaning, True, detail="Nothing of the kind is declared.")
    for scope in (_mixer, _block):
        modules = _before_heads(on, {layer: scope(on, layer) for layer in layers})
        layers = [layer for layer, fault in _faults(on, modules).items() if fault]
        if not layers:
            return Check("heads_apart", meaning, True)
    for layer in layers:
        # What one block pushes may reach another one, as where later blocks use keys of earlier ones: so each alone.
        fault = _faults(on, {layer: modules[layer]})[layer]
        if fault:
            return Check("heads_apart", meaning, False, site=str(Site(HEAD_OUT, layer)), detail=fault)
    return Check("heads_apart", meaning, True)


def _mixer(on: Bench, layer: int) -> nn.Module:
    """What holds the heads' tap, which is where most models make all of their heads."""
    heads = on.layout.blocks[layer].heads
    assert heads is not None  # of such blocks alone
    return submodule(on.model, heads.tap.module.rpartition(".")[0])


def _block(on: Bench, layer: int) -> nn.Module:
    return submodule(on.model, on.layout.blocks[layer].module)


def _faults(on: Bench, modules: Mapping[int, Sequence[nn.Module]]) -> dict[int, str]:
    """By layer what is wrong with its heads, of what pushes in its modules change; empty where nothing is."""
    passed = _Pushes(on, modules)
    seen = passed.run()
    found = {}
    for layer in modules:
        heads = on.layout.blocks[layer].heads
        assert heads is not None
        found[layer] = _fault(seen[layer], heads, passed.count[layer])
    return found


# Which modules


def _before_heads(on: Bench, scopes: Mapping[int, nn.Module]) -> dict[int, list[nn.Module]]:
    """By layer the modules within another one that give a vector per token before the heads' tap, in their order."""
    found: dict[int, dict[nn.Module, None]] = {layer: {} for layer in scopes}
    now = [-1]

    def note(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if now[0] == layer and _by_token(output, *ids.shape) is not None:
                found[layer][module] = None

        return hook

    ids = on.ids[:1]
    with ExitStack() as stack:
        for layer, scope in scopes.items():
            own = on.taps[Site(HEAD_OUT, layer)].module
            for module in scope.modules():
                if module is not submodule(on.model, own):
                    stack.callback(module.register_forward_hook(note(layer)).remove)
        _pass(on, ids, [*_watched(on, scopes, now)])
    return {layer: list(modules) for layer, modules in found.items()}


def _watched(on: Bench, layers: Iterable[int], now: list[int]) -> Iterator[tuple[Site, Handler]]:
    """Handlers that keep which block is on its way to its heads."""

    def to(layer: int) -> Handler:
        def handler(value: Tensor) -> None:
            now[0] = layer

        return handler

    for layer in layers:
        yield Site(RESID_PRE, layer), to(layer)
        yield Site(HEAD_OUT, layer), to(-1)


def _by_token(output: Any, rows: int, columns: int) -> Tensor | None:
    """An output as ``[rows, columns, width]``, or None where it isn't one vector per token."""
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.ndim < 2:
        return None
    if output.shape[:2] == (rows, columns) or (output.ndim == 2 and output.shape[0] == rows * columns):
        return output.reshape(rows, columns, -1)
    return None


def _pass(on: Bench, ids: Tensor, handlers: Iterable[tuple[Site, Handler]]) -> None:
    with ExitStack() as stack:
        for site, handler in handlers:
            stack.callback(register_tap(on.model, on.taps[site], handler).remove)
        base = submodule(on.model, on.layout.base)
        base(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)


# Pushes


def _shared_out(on: Bench, layer: int) -> Input | None:
    """The heads of a layer, where each process has some of them; None where each has all."""
    tap = on.taps[Site(HEAD_OUT, layer)]
    parts = sharded_input(submodule(on.model, tap.module)) if tap.side == "input" else None
    if parts is None:
        return None
    (given,) = given_widths(on, [tap.module]).values()
    return None if given == parts.width else parts


class _Pushes:
    """A pass over copies of one row in which every row from the first few on has a push of its own in every block.

    Args:
        on: the bench.
        modules: by layer.
    """

    def __init__(self, on: Bench, modules: Mapping[int, Sequence[nn.Module]]) -> None:
        self._on, self._modules = on, modules
        self.count = {layer: PUSHES * len(found) for layer, found in modules.items()}
        self._ids = on.ids[:1].expand(PLAIN + max(self.count.values()), -1)
        self._now = [-1]
        self._pushed: set[nn.Module] = set()
        self._seen: dict[int, Tensor] = {}
        self._parts = {layer: parts for layer in modules if (parts := _shared_out(on, layer)) is not None}

    def run(self) -> dict[int, Tensor]:
        """By layer the heads at the last tokens, ``[rows, LAST, n_heads * d_head]``, as they pass."""
        with ExitStack() as stack:
            for layer, modules in self._modules.items():
                for place, module in enumerate(modules):
                    stack.callback(module.register_forward_hook(self._push(layer, PLAIN + PUSHES * place)).remove)
            _pass(self._on, self._ids, self._handlers())
        return self._seen

    def _handlers(self) -> Iterator[tuple[Site, Handler]]:
        for layer in range(self._on.layout.n_layers):
            yield Site(RESID_PRE, layer), _as_the_first
        yield from _watched(self._on, self._modules, self._now)
        for layer in self._modules:
            yield Site(HEAD_OUT, layer), self._see(layer)

    def _see(self, layer: int) -> Handler:
        def handler(value: Tensor) -> None:
            self._seen[layer] = value[:, -LAST:].detach().clone()
            self._pushed.clear()

        return handler

    def _takes_part(self, layer: int) -> Callable[[int], bool]:
        """Which pushes this process makes: where heads are shared out, the same column is another head's in each."""
        parts = self._parts.get(layer)
        return lambda place: parts is None or place % parts.processes == parts.rank

    def _push(self, layer: int, first: int) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor | None:
            if self._now[0] != layer or module in self._pushed:
                return None
            value = _by_token(output, *self._ids.shape)
            if value is None:
                return None
            self._pushed.add(module)
            new = value.clone()
            takes = self._takes_part(layer)
            size = value[:, -LAST:].double().square().mean(-1).sqrt()
            for place in filter(takes, range(PUSHES)):
                row, column = first + place, _column(place, value.shape[-1])
                new[row, -LAST:, column] += (FORCE * size[row]).to(new.dtype)
            return new.reshape(output.shape)

        return hook


def _as_the_first(value: Tensor) -> Tensor:
    return value[:1].expand_as(value).clone()


def _column(place: int, width: int) -> int:
    """Spread so that no pattern of queries, keys and values side by side is met in one of its parts alone."""
    return int(width * ((place + 0.5) * GOLDEN % 1.0))


# What they change


def _fault(seen: Tensor, heads: Heads, pushes: int) -> str:
    """What speaks against how heads are cut, from their values ``[rows, LAST, n_heads * d_head]``; empty: nothing."""
    wide = seen.to("cpu", torch.float64)
    usual, pushed = wide[0], wide[PLAIN : PLAIN + pushes]
    noise = 4 * (wide[1:PLAIN] - usual).abs().amax(0)
    rounding = torch.finfo(seen.dtype).eps * torch.maximum(pushed.abs(), usual.abs())
    tiny = torch.finfo(torch.float64).tiny
    alone = False
    for change in ((pushed - usual).abs() / (noise + rounding).clamp(min=tiny)).amax(1):
        if not bool(change.isfinite().all()) or not _in_one_piece(change > 1):
            continue
        by_head = change.view(heads.n_heads, heads.d_head)
        touched = [head for head in range(heads.n_heads) if bool((by_head[head] > 1).any())]
        clear = [head for head in touched if float(by_head[head][by_head[head] > 1].median()) > CLEAR]
        # A single value that changes beside a head, by what a kernel rounds otherwise, is no part of one.
        pieces = [head for head in clear if _in_one_piece(by_head[head] > 1)]
        in_part = [head for head in pieces if float((by_head[head] > 1).double().mean()) < WHOLE]
        if in_part:
            part = f"{int((by_head[in_part[0]] > 1).sum())} of the {counted(heads.d_head, 'column')}"
            return f"What changes together holds {part} of head {in_part[0]}: heads are cut otherwise."
        alone = alone or (len(touched) == len(clear) == 1)
    return "" if alone else "Nothing changes one head alone: heads are cut otherwise, or can't be told apart there."


def _in_one_piece(changed: Tensor) -> bool:
    """Whether columns that change lie side by side somewhere, as those of a head do, and single values don't."""
    if changed.shape[0] < RUN:
        return bool(changed.any())
    return bool(changed.unfold(0, RUN, 1).all(1).any())
