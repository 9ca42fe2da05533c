"""Next-token logits of the same prompts under one condition after another, with what can be shared computed once.

Three shortcuts, each exact but for float noise, and each tested on the live model before it is used:

- prompts of one template begin alike: keys and values of the common beginning are computed once per condition, and
  shared by all prompts;
- an edit at layer l leaves the layers below as they were: their output is kept from the unsteered pass, and a pass
  begins at layer l;
- only the last token of each prompt goes through the head, and rows are cut so that little is padded.

What a model can't do (a cache that can't be shared, a block that can't be left out) is done by whole passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerkit.api.intervention import Placement
from steerkit.engine.prompts.batches import common_beginning as common_beginning_of_rows
from steerkit.engine.prompts.batches import cut_evenly
from steerkit.engine.reading.passes import logits_of
from steerkit.engine.runtime.caches import cache_for_rows, keys_and_values, new_cache
from steerkit.engine.runtime.shareable import most_apart
from steerkit.engine.searching.partial import Below, beginning_at, kept_below
from steerkit.engine.sites.evaluating import evaluating
from steerkit.engine.sites.taps import submodule
from steerkit.types import EMBED

if TYPE_CHECKING:
    from transformers import Cache

    from steerkit.engine.prompts.chat import Rendered
    from steerkit.engine.runtime.runtime import Runtime


@dataclass(frozen=True)
class Shortcuts:
    """Which shortcuts a model takes.

    Args:
        prefix: whether a common beginning is shared.
        layers: whether a pass may begin at a layer.
        refused: why not, in words.
    """

    prefix: bool = True
    layers: bool = True
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Piece:
    """Prompts that are read together, without their common beginning.

    Args:
        order: their places.
        ids: ``[rows, pos]``, padded on the right, where a causal model's tokens don't look.
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
        shortcuts: which may be taken; None for those that the model is found to take.

    Attributes:
        unsteered: logits after the last token of each prompt without any intervention, ``[n, vocab]``, on the CPU.
    """

    def __init__(self, live: Runtime, prompts: Sequence[Rendered], shortcuts: Shortcuts | None = None) -> None:
        self.live = live
        self.prompts = tuple(prompts)
        for prompt in self.prompts:
            prompt.require_open()
        live.require_fitting(self.prompts)
        self.shortcuts = found_shortcuts(live, self.prompts) if shortcuts is None else shortcuts
        shared = common_beginning(self.prompts) if self.shortcuts.prefix else 0
        self.beginning = _Beginning(self._tensor([self.prompts[0].token_ids[:shared]])) if shared else None
        rest = [prompt.token_ids[shared:] for prompt in self.prompts]
        cut = cut_evenly(list(map(len, rest)), live.batch_tokens)
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

    def _in_order(self, found: Iterable[tuple[tuple[int, ...], Tensor]]) -> Tensor:
        rows = {place: row for order, logits in found for place, row in zip(order, logits, strict=True)}
        return torch.stack([rows[place] for place in range(len(self.prompts))])

    # Passes

    def _running(self) -> Any:
        return self.live.steering.running(None)

    def _from(self, layer: int, below: Below) -> Any:
        return beginning_at(self.live.model, self.live.layout, layer, below)

    def _begin(self, ids: Tensor) -> Cache:
        """A pass over the common beginning; what it leaves in the cache."""
        output = submodule(self.live.model, self.live.layout.base)(input_ids=ids, use_cache=True)
        cache: Cache = output.past_key_values
        return cache

    def _hidden(self, ids: Tensor, beginning: Cache | None) -> Tensor:
        """What the model without its head gives for the rest of some prompts, ``[rows, pos, d_model]``."""
        base = submodule(self.live.model, self.live.layout.base)
        if beginning is None:
            output = base(input_ids=ids, use_cache=False)
        else:
            output = base(input_ids=ids, past_key_values=_shared_by(beginning, ids.shape[0]), use_cache=True)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _last_logits(self, piece: Piece, hidden: Tensor) -> Tensor:
        """Logits behind each prompt's last token, ``[rows, vocab]``."""
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        return logits_of(self.live.model, self.live.layout, hidden[rows, piece.last.to(hidden.device)])


# Where prompts are cut


def common_beginning(prompts: Sequence[Rendered]) -> int:
    """How many first tokens all prompts have in common, at least one token of each left over; 0 for too few."""
    return common_beginning_of_rows([prompt.token_ids for prompt in prompts])


def first_layer(placements: Sequence[Placement], live: Runtime) -> int:
    """The lowest layer that an edit touches: the layers below are as they are without it. 0 where there is none."""
    sites = [site for placement in placements for site in placement.sites_on(live.layout)]
    return min((0 if site.stream == EMBED else site.layer for site in sites), default=0)


# Caches


def _shared_by(cache: Cache, rows: int) -> Cache:
    """A cache of one row as one of several, to be written on."""
    return cache_for_rows([cache], [0] * rows)


def _cache_for_candidate(unsteered: Cache | None, steered: Cache, layer: int) -> Cache:
    """A cache whose layers below one are those of another: what a pass that began there has left out."""
    if layer == 0 or unsteered is None:
        return steered
    found = new_cache()
    for place, (below, above) in enumerate(zip(unsteered.layers, steered.layers, strict=True)):
        found.update(*keys_and_values(below if place < layer else above), place)
    return found


# Whether a model takes them


def found_shortcuts(live: Runtime, prompts: Sequence[Rendered]) -> Shortcuts:
    """The shortcuts that give what whole passes give on this model, tried on some of the prompts.

    Two prompts are read with the common beginning shared, and from the middle layer and the last one on.
    """
    some = tuple(prompts[:2])
    whole = Shortcuts(prefix=False, layers=False)
    literal = AlikePrompts(live, some, whole).all_logits(())
    refused = []
    prefix = common_beginning(prompts) > 0
    if prefix and not live.layout.shares_beginning:
        prefix = False
        refused.append("a common beginning is read with every prompt: the adapter says that its cache can't be shared")
    if prefix and (fault := _fault(live, some, Shortcuts(prefix=True, layers=False), literal)):
        prefix = False
        refused.append(f"a common beginning is read with every prompt: {fault}")
    # In the middle, and at the last layer, which may use keys and values of others that would then be missing.
    layers = dict.fromkeys((live.layout.n_layers // 2, live.layout.n_layers - 1))
    taken = Shortcuts(prefix=prefix, layers=True)
    fault = next((fault for layer in layers if (fault := _fault(live, some, taken, literal, layer=layer))), "")
    if fault:
        refused.append(f"passes begin at the first layer: {fault}")
    return Shortcuts(prefix, not fault, tuple(refused))


def _fault(
    live: Runtime, prompts: Sequence[Rendered], shortcuts: Shortcuts, literal: Tensor, layer: int | None = None
) -> str:
    """Why shortcuts don't hold on some prompts; empty where they do."""
    try:
        tried = AlikePrompts(live, prompts, shortcuts)
        logits = tried.all_logits((), layer=layer)
    except Exception as error:  # whatever a model of somebody else's raises where it can't do it
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    far = float((logits - literal).norm() / literal.norm().clamp(min=1e-9))
    return "" if far <= most_apart(live.model.dtype) else f"logits differ by {far:.1e} of their norm"
