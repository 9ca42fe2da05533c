"""Next-token logits of the same prompts under one condition after another, with what can be shared computed once.

Shortcuts, each exact but for float noise. The first two an adapter may rule out (``Layout``); else each is tried on the
live model, once, before it is used:

- prompts of one template begin alike: keys and values of the common beginning are computed once per condition, and
  shared by all prompts;
- an edit at layer l leaves the layers below as they were: their output is kept from the unsteered pass, and a pass
  begins at layer l;
- on a device that the rows of one condition don't fill, those of several share a pass;
- only the last token of each prompt goes through the head, and rows are cut so that little is padded.

What a model can't do (a cache that can't be shared, a block that can't be left out) is done by whole passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from steerkit.api.hookspecs import NoOptions
from steerkit.api.intervention import Affine, Intervention, Placement
from steerkit.engine.prompts.batches import common_beginning as common_beginning_of_rows
from steerkit.engine.prompts.batches import cut_evenly
from steerkit.engine.reading.passes import logits_of
from steerkit.engine.runtime.caches import cache_for_rows, for_rows, keys_and_values, new_cache
from steerkit.engine.runtime.shareable import fixed_rows, longest_shareable, most_apart, unshared
from steerkit.engine.searching.partial import Below, beginning_at, kept_below
from steerkit.engine.sites.evaluating import evaluating
from steerkit.engine.sites.taps import submodule
from steerkit.types import EMBED, RESID_PRE, Site

if TYPE_CHECKING:
    from transformers import Cache

    from steerkit.api.architecture import Layout
    from steerkit.engine.prompts.chat import Rendered
    from steerkit.engine.runtime.runtime import Runtime


@dataclass(frozen=True)
class Shortcuts:
    """Which shortcuts a model takes.

    Args:
        prefix: whether a common beginning is shared.
        layers: whether a pass may begin at a layer.
        rows: whether rows of several conditions may share a pass.
        no_prefix: why a common beginning isn't shared, in words.
        no_layers: why passes begin at the first layer.
        no_rows: why conditions have passes of their own.
    """

    prefix: bool = True
    layers: bool = True
    rows: bool = True
    no_prefix: str = ""
    no_layers: str = ""
    no_rows: str = ""


@dataclass(frozen=True, eq=False)
class Piece:
    """Prompts that are read together, without their common beginning.

    Args:
        order: their places.
        ids: ``[rows, pos]``, padded on the right, where a causal model's tokens don't look; of another model's prompts
            those of one length are read together.
        last: ``[rows]``, the column of each prompt's last token.
        below: what each block is given in the unsteered pass.
    """

    order: tuple[int, ...]
    ids: Tensor
    last: Tensor
    below: Below = field(default_factory=Below)


@dataclass(eq=False)
class _Beginning:
    """The common beginning of all prompts: its tokens ``[1, pos]``, and what the unsteered pass over it gave."""

    ids: Tensor
    below: Below = field(default_factory=Below)
    cache: Cache | None = None


class AlikePrompts:
    """Prompts to be read under one condition after another.

    Args:
        live: the model.
        prompts: rendered prompts, at least one.
        shortcuts: which may be taken; None for those that the model takes.

    Attributes:
        refused: which shortcuts are not taken, and why.
        unsteered: logits after the last token of each prompt without any intervention, ``[n, vocab]``, on the CPU.
    """

    def __init__(self, live: Runtime, prompts: Sequence[Rendered], shortcuts: Shortcuts | None = None) -> None:
        self.live = live
        self.prompts = tuple(prompts)
        for prompt in self.prompts:
            prompt.require_open()
        live.require_fitting(self.prompts)
        self.shortcuts = shortcuts_for(live, self.prompts) if shortcuts is None else shortcuts
        alike = common_beginning(self.prompts)
        told = self.shortcuts
        self.refused = tuple(filter(None, (told.no_prefix if alike else "", told.no_layers, told.no_rows)))
        shared = alike if self.shortcuts.prefix else 0
        self.beginning = _Beginning(self._tensor([self.prompts[0].token_ids[:shared]])) if shared else None
        rest = [prompt.token_ids[shared:] for prompt in self.prompts]
        cut = _cut(rest, live)
        # The shortest first: where a few prompts are enough to know, they are the cheap ones.
        self.pieces = [self._piece(rest, places) for places in reversed(cut)]
        self.unsteered = self._read_unsteered()

    def _tensor(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(rows, dtype=torch.long, device=self.live.device)

    def _piece(self, rest: Sequence[Sequence[int]], places: Sequence[int]) -> Piece:
        width = max(len(rest[place]) for place in places)
        rows = [[*rest[place], *[self.live.pad_id] * (width - len(rest[place]))] for place in places]
        return Piece(
            tuple(places), self._tensor(rows), self._tensor([[len(rest[place]) - 1] for place in places])[:, 0]
        )

    @torch.no_grad()
    def _read_unsteered(self) -> Tensor:
        """``all_logits`` when nothing steers, on the CPU; what every block is given meanwhile is kept, of the beginning
        and of every piece."""
        cache = None
        found = []
        with self.live.steering.running(None), evaluating(self.live.model):
            if self.beginning is not None:
                with self._keeping(self.beginning.below):
                    cache = self.beginning.cache = self._begin(self.beginning.ids)
            for piece in self.pieces:
                with self._keeping(piece.below):
                    hidden = self._hidden(piece.ids, cache)
                found.append((piece.order, self._last_logits(piece, hidden).cpu()))
        return self._in_order(found)

    def _keeping(self, below: Below) -> AbstractContextManager[None]:
        return kept_below(self.live.model, self.live.layout, below) if self.shortcuts.layers else nullcontext()

    @property
    def tokens(self) -> int:
        """How many tokens a condition's passes read, with padding."""
        shared = 0 if self.beginning is None else self.beginning.ids.numel()
        return shared + sum(piece.ids.numel() for piece in self.pieces)

    @torch.no_grad()
    def logits(
        self, placements: Sequence[Placement], *, layer: int | None = None
    ) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """Logits after the last token of each prompt under interventions, some prompts at a time.

        Whoever has seen enough stops asking: what was not asked for is not computed.

        Args:
            placements: the interventions, which act at all tokens alike.
            layer: where passes begin; None for the lowest layer that is edited.

        Yields:
            places of the prompts, and their logits ``[rows, vocab]`` in float32.
        """
        if layer is None:
            layer = first_layer(placements, self.live)
        layer = layer if self.shortcuts.layers else 0
        with self.live.steer(*placements, mode="hook") if placements else nullcontext(), evaluating(self.live.model):
            cache = None
            if self.beginning is not None:
                with self._running(), self._from(layer, self.beginning.below):
                    cache = self._begin(self.beginning.ids)
                    cache = _cache_for_candidate(self.beginning.cache, cache, layer)
            for piece in self.pieces:
                with self._running(), self._from(layer, piece.below):
                    hidden = self._hidden(piece.ids, cache)
                yield piece.order, self._last_logits(piece, hidden)

    def all_logits(self, placements: Sequence[Placement], *, layer: int | None = None) -> Tensor:
        """``logits`` of all prompts, ``[n, vocab]``, in their order."""
        return self._in_order(self.logits(placements, layer=layer))

    @torch.no_grad()
    def logits_of_each(self, conditions: Sequence[Sequence[Placement]]) -> list[Tensor]:
        """``all_logits`` under each of some conditions, whose rows share passes."""
        layer = min(first_layer(placements, self.live) for placements in conditions) if self.shortcuts.layers else 0
        found: list[list[tuple[tuple[int, ...], Tensor]]] = [[] for _ in conditions]
        copies = len(conditions)
        # Each condition's rows lie side by side, as copies do, so that its edits are lowered once for all passes.
        with self.live.steer_rows([tuple(one) for one in conditions], mode="hook"), evaluating(self.live.model):
            cache = None
            if self.beginning is not None:
                with self._running(), self._from(layer, self.beginning.below, copies):
                    cache = self._begin(self.beginning.ids.expand(copies, -1))
                    cache = _cache_for_candidate(self.beginning.cache, cache, layer, copies)
            for piece in self.pieces:
                with self._running(), self._from(layer, piece.below, copies):
                    logits = self._last_logits(piece, self._hidden(piece.ids.repeat(copies, 1), cache, copies), copies)
                for into, rows in zip(found, logits.chunk(copies), strict=True):
                    into.append((piece.order, rows))
        return [self._in_order(one) for one in found]

    @property
    def side_by_side(self) -> int:
        """How many conditions' rows share a pass: as many as a batch's budget of tokens holds, where the rows of one
        don't fill the device. They fill a CPU."""
        if not self.shortcuts.rows or self.live.device.type == "cpu":
            return 1
        return max(1, self.live.batch_tokens // max(piece.ids.numel() for piece in self.pieces))

    def _in_order(self, found: Iterable[tuple[tuple[int, ...], Tensor]]) -> Tensor:
        rows = {place: row for order, logits in found for place, row in zip(order, logits, strict=True)}
        return torch.stack([rows[place] for place in range(len(self.prompts))])

    # Passes

    def _running(self) -> Any:
        return self.live.steering.running(None)

    def _from(self, layer: int, below: Below, copies: int = 1) -> Any:
        return beginning_at(self.live.model, self.live.layout, layer, below, copies)

    def _begin(self, ids: Tensor) -> Cache:
        """A pass over the common beginning; what it leaves in the cache."""
        cache = new_cache()  # of ours, which keeps what a sliding layer's own would forget
        submodule(self.live.model, self.live.layout.base)(input_ids=ids, past_key_values=cache, use_cache=True)
        return cache

    def _hidden(self, ids: Tensor, beginning: Cache | None, copies: int = 1) -> Tensor:
        """What the model without its head gives for the rest of some prompts, ``[rows, pos, d_model]``; the beginning
        has a row for each copy of them."""
        base = submodule(self.live.model, self.live.layout.base)
        if beginning is None:
            output = base(input_ids=ids, use_cache=False)
        else:
            output = base(
                input_ids=ids, past_key_values=_shared_by(beginning, ids.shape[0] // copies, copies), use_cache=True
            )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _last_logits(self, piece: Piece, hidden: Tensor, copies: int = 1) -> Tensor:
        """Logits behind each prompt's last token, ``[rows, vocab]``."""
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        return logits_of(self.live.model, self.live.layout, hidden[rows, piece.last.repeat(copies).to(hidden.device)])


# Where prompts are cut


def common_beginning(prompts: Sequence[Rendered]) -> int:
    """How many first tokens all prompts have in common, at least one token of each left over; 0 for too few."""
    return common_beginning_of_rows([prompt.token_ids for prompt in prompts])


def _cut(rest: Sequence[Sequence[int]], live: Runtime) -> list[list[int]]:
    """Places of prompts that are read together, the longest first."""
    if live.behaviours.pads("right"):
        return cut_evenly(list(map(len, rest)), live.batch_tokens)
    by_length: dict[int, list[int]] = {}
    for place in sorted(range(len(rest)), key=lambda place: (-len(rest[place]), place)):
        by_length.setdefault(len(rest[place]), []).append(place)
    return [
        [places[at] for at in piece]
        for length, places in by_length.items()
        for piece in cut_evenly([length] * len(places), live.batch_tokens)
    ]


def first_layer(placements: Sequence[Placement], live: Runtime) -> int:
    """The lowest layer that an edit touches: the layers below are as they are without it. 0 where there is none."""
    sites = [site for placement in placements for site in placement.sites_on(live.layout)]
    return min((0 if site.stream == EMBED else site.layer for site in sites), default=0)


# Caches


def _shared_by(cache: Cache, rows: int, copies: int) -> Cache:
    """A cache of a row for each copy as one of so many rows for each, to be written on."""
    return cache_for_rows([cache], [copy for copy in range(copies) for _ in range(rows)])


def _cache_for_candidate(unsteered: Cache | None, steered: Cache, layer: int, copies: int = 1) -> Cache:
    """A cache whose layers below one are those of another, which has one row: what a pass that began there has left
    out."""
    if layer == 0 or unsteered is None:
        return steered
    found = new_cache()
    for place, (below, above) in enumerate(zip(unsteered.layers, steered.layers, strict=True)):
        if place < layer:
            keys, values = keys_and_values(below)
            found.update(for_rows([keys], [0] * copies), for_rows([values], [0] * copies), place)
        else:
            found.update(*keys_and_values(above), place)
    return found


# Whether a model takes them


_FOUND: WeakKeyDictionary[nn.Module, dict[tuple[bool, bool], Shortcuts]] = WeakKeyDictionary()


def shortcuts_for(live: Runtime, prompts: Sequence[Rendered]) -> Shortcuts:
    """The shortcuts that a model takes on some prompts.

    They are tried once per model, on fixed tokens, so that they follow from the model alone. Where what a pass gives
    depends on its length (``longest_shareable``), they are tried on the two longest of the prompts.
    """
    longest = longest_shareable(live)
    if longest is not None and any(len(prompt.token_ids) > longest for prompt in prompts):
        return found_shortcuts(live, sorted(prompts, key=lambda prompt: len(prompt.token_ids))[-2:])
    declared = live.layout.shares_beginning and not unshared(live), live.layout.begins_at_block
    found = _FOUND.setdefault(live.model, {})
    if declared not in found:
        found[declared] = found_shortcuts(live, fixed_rows(live)[:2])
    return found[declared]


def found_shortcuts(live: Runtime, prompts: Sequence[Rendered]) -> Shortcuts:
    """The shortcuts that an adapter doesn't rule out and that give what whole passes give, tried on some prompts.

    They are read with the common beginning shared, and from the middle layer and the last one on.
    """
    whole = Shortcuts(prefix=False, layers=False, rows=False)
    literal = AlikePrompts(live, prompts, whole).all_logits(())
    no_prefix, no_layers = "", ""
    if not live.layout.shares_beginning:
        no_prefix = "the adapter says that its cache can't be shared"
    elif unshared(live):
        no_prefix = unshared(live)
    elif common_beginning(prompts):
        no_prefix = _fault(live, prompts, Shortcuts(layers=False), literal)
    if not live.layout.begins_at_block:
        no_layers = "the adapter says that blocks need more than what the one before them gives"
    else:
        # In the middle, and at the last layer, which may use keys and values of others that would then be missing.
        layers = dict.fromkeys((live.layout.n_layers // 2, live.layout.n_layers - 1))
        taken = Shortcuts(prefix=not no_prefix, layers=True)
        faults = (_fault(live, prompts, taken, literal, layer=layer) for layer in layers)
        no_layers = next(filter(None, faults), "")
    no_rows = "" if live.device.type == "cpu" else rows_fault(live, prompts)
    return Shortcuts(
        not no_prefix,
        not no_layers,
        not no_rows,
        no_prefix and f"a common beginning is read with every prompt: {no_prefix}",
        no_layers and f"passes begin at the first layer: {no_layers}",
        no_rows and f"candidates are read one after the other: {no_rows}",
    )


def _fault(
    live: Runtime, prompts: Sequence[Rendered], shortcuts: Shortcuts, literal: Tensor, layer: int | None = None
) -> str:
    """Why shortcuts don't hold on some prompts; empty where they do."""
    return _compared(live, lambda: AlikePrompts(live, prompts, shortcuts).all_logits((), layer=layer), lambda: literal)


def rows_fault(live: Runtime, prompts: Sequence[Rendered]) -> str:
    """Why what some prompts give under conditions whose rows share passes isn't what they give under each alone; empty
    where it is."""
    alike = AlikePrompts(live, prompts, Shortcuts(prefix=False, layers=False))
    last = Site(RESID_PRE, live.layout.n_layers - 1)
    conditions = [(Placement(_Push(seed), (last,)),) for seed in range(3)]
    return _compared(
        live,
        lambda: torch.stack(alike.logits_of_each(conditions)),
        lambda: torch.stack([alike.all_logits(one) for one in conditions]),
    )


class _Push(Intervention[NoOptions]):
    """Adds a random vector."""

    def __init__(self, seed: int) -> None:
        super().__init__(NoOptions())
        self.seed = seed

    def default_sites(self, layout: Layout) -> Sequence[Site]:
        """Sites are given."""
        return ()

    def update(self, site: Site, layout: Layout) -> Affine:
        """A constant."""
        return Affine(bias=torch.randn(layout.width(site), generator=torch.Generator().manual_seed(self.seed)))


def _compared(live: Runtime, shared: Callable[[], Tensor], literal: Callable[[], Tensor]) -> str:
    """How far logits are apart, or what ended the pass that gives the first; empty where they are the same."""
    try:
        logits, whole = shared(), literal()
    except (MemoryError, torch.OutOfMemoryError):
        raise  # of the machine at this moment, and not of the model: what is found is kept
    except Exception as error:  # whatever a model of somebody else's raises where it can't do it
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    far = float((logits - whole).norm() / whole.norm().clamp(min=1e-9))
    return "" if far <= most_apart(live.model.dtype) else f"logits differ by {far:.1e} of their norm"
