"""Passes over batches: the one place that all of them go through, and where what rows have in common is read once.

The prompts of a chat template begin alike. Where the rows of a batch do, that beginning is read by itself, once for all
rows that are edited alike there, and its keys and values are handed to every row; then the rest of each row is read
behind it. Who reads streams is shown them whole, as if nothing had been shared. Whether it is shared follows from the
model, the batch's tokens and what steers, never from what was computed before; a row that nothing edits in its
beginning gets the same bits beside steered rows and beside others. Only beside a row whose whole text decides what is
edited in it, for which the batch is read whole, it differs by what float products round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from steerkit.engine.lowering.edits import Steer
from steerkit.engine.prompts.batches import Batch, arguments_behind, forward_arguments
from steerkit.engine.runtime.blocks import Group
from steerkit.engine.runtime.caches import cache_for_rows, for_rows, new_cache
from steerkit.engine.runtime.ending import Listener, Written
from steerkit.engine.runtime.generation import generate_batch
from steerkit.engine.runtime.leaving import complete_leaving, may_leave
from steerkit.engine.runtime.sampling import KeyedSampling
from steerkit.engine.runtime.shareable import hidden_of, longest_shareable, shareable
from steerkit.engine.sequence.positions import Frame, edit_mask, position_intervals
from steerkit.engine.sequence.tally import begin_batch, counting_for
from steerkit.engine.sequence.when import When
from steerkit.engine.sites.evaluating import evaluating
from steerkit.engine.sites.taps import submodule
from steerkit.errors import PositionError
from steerkit.types import FROM_TOKEN

if TYPE_CHECKING:
    from transformers import Cache

    from steerkit.api.intervention import Placement
    from steerkit.engine.runtime.runtime import Runtime
    from steerkit.engine.sites.taps import Handler
    from steerkit.types import Site

Readers: TypeAlias = Mapping["Site", "Handler"]
Edited: TypeAlias = tuple[tuple[int, bytes], ...]
"""What acts in the beginning of a row, and on which of its tokens."""

_OURS: Final = ("steerkit.", "transformers.")


class _Stop(Exception):
    """Leaves a pass once everything that is asked for was read."""


def read_batch(
    live: Runtime,
    batch: Batch,
    *,
    steer: Sequence[Steer] | None = None,
    readers: Readers | None = None,
    stops: bool = False,
) -> Tensor | None:
    """Read a batch with the model without its head.

    Args:
        live: the model.
        batch: the batch.
        steer: a condition for each text that was batched.
        readers: handlers of values at sites, which are shown ``[rows, columns, width]`` once.
        stops: leave the pass as soon as every reader has seen its value.

    Returns:
        ``[rows, columns, d_model]``, behind the final norm; None where the pass was left before.
    """
    begun = _begin(live, batch, steer, readers, stops=stops)
    base = submodule(live.model, live.layout.base)
    if begun is None:
        pending = _Pending(readers, stops)
        with live.running(batch, steer=steer, readers=pending.readers), evaluating(live.model), suppress(_Stop):
            return hidden_of(base(**forward_arguments(batch, live.takes_positions)))
        return None
    pending = _Pending(begun.joining(readers), stops)
    with live.running(begun.apart, steer=steer, readers=pending.readers), evaluating(live.model), suppress(_Stop):
        arguments = arguments_behind(begun.apart, live.takes_positions)
        return begun.joined(begun.hidden, hidden_of(base(**arguments, past_key_values=begun.cache)))
    return None


def complete_batch(
    live: Runtime,
    batch: Batch,
    *,
    max_new_tokens: int,
    settings: Mapping[str, Any],
    steer: Sequence[Steer] | None = None,
    readers: Readers | None = None,
    listener: Listener | None = None,
) -> list[Written]:
    """New tokens of every returned sequence, and why each ends. See ``generate_batch``.

    Args:
        live: the model.
        batch: prompts, padded on the left.
        max_new_tokens: most new tokens.
        settings: of transformers' ``generate``. A model that a cache changes generates without one.
        steer: a condition for each text that was batched.
        readers: handlers of values at sites, which are shown those of the prompts and then those of every token.
        listener: is told of every token as it is written.
    """
    plain = _keeps_rows(live, settings)
    begun = _begin(live, batch, steer, readers, new_tokens=max_new_tokens) if plain else None
    if begun is not None:
        if not readers and not settings and may_leave(live):
            apart, cache = begun.apart, begun.cache
            return complete_leaving(live, apart, cache, max_new_tokens=max_new_tokens, steer=steer, listener=listener)
        batch, readers = begun.apart, begun.joining(readers)
        settings = {**settings, "past_key_values": begun.cache}
    if not live.behaviours.cached:
        settings = {**settings, "use_cache": False}
    with live.running(batch, steer=steer, readers=readers):
        return generate_batch(
            live.model,
            batch,
            max_new_tokens=max_new_tokens,
            pad_id=live.pad_id,
            settings=settings,
            tokenizer=live.tokenizer,
            listener=listener,
        )


class _Pending:
    """Readers of a pass that may be left once each has seen its value."""

    def __init__(self, readers: Readers | None, stops: bool) -> None:
        self._left = set(readers or ())
        self.readers = readers
        if stops and readers:
            self.readers = {site: self._reader(site, handler) for site, handler in readers.items()}

    def _reader(self, site: Site, handler: Handler) -> Handler:
        def read(x: Tensor) -> None:
            handler(x)
            self._left.discard(site)
            if not self._left:
                raise _Stop

        return read


# What is read once


@dataclass(eq=False)
class _Begun:
    """A batch whose beginning was read.

    Args:
        apart: the batch with its beginning in the first columns.
        row_of: for each row, the place of its beginning among those that were read.
        cache: keys and values of the beginnings, for every row.
        hidden: what the model gave for the beginnings, ``[n, shared, d_model]``, some at a time; empty where passes
            were left before.
        seen: values at sites, in the same way.
    """

    apart: Batch
    row_of: Sequence[int]
    cache: Cache
    hidden: list[Tensor]
    seen: Mapping[Site, list[Tensor]]

    def joining(self, readers: Readers | None) -> Readers | None:
        """Readers that are shown whole rows: what the beginning gave, and what the first pass behind it gives."""
        return None if readers is None else {site: self._joiner(site, reader) for site, reader in readers.items()}

    def _joiner(self, site: Site, handler: Handler) -> Handler:
        begins = True

        def read(x: Tensor) -> None:
            nonlocal begins
            # A layer that sees only the last columns of a pass has nothing that it could be joined with.
            if begins and x.shape[1] == self.apart.input_ids.shape[1] - self.apart.shared:
                x = self.joined(self.seen[site], x)
            begins = False
            handler(x)

        return read

    def joined(self, beginnings: Sequence[Tensor], behind: Tensor) -> Tensor:
        """Values of whole rows, ``[rows, columns, width]``, every token in the column of the batch as it was cut."""
        whole = torch.cat([for_rows([one.to(behind.device) for one in beginnings], self.row_of), behind], 1)
        first = self.apart.frame.first[:, None]
        if not bool((first > 0).any()):
            return whole
        columns = torch.arange(whole.shape[1])[None]
        found = torch.where(columns < first + self.apart.shared, (columns - first).clamp(min=0), columns)
        rows = torch.arange(whole.shape[0], device=whole.device)[:, None]
        return whole[rows, found.to(whole.device)]


@dataclass(eq=False)
class _Once:
    """Beginnings that are read in one pass: of one row for each of some that are edited alike there.

    Args:
        rows: a row of the batch for each.
        alike: all rows that each stands for.
    """

    rows: list[int] = field(default_factory=list)
    alike: list[list[int]] = field(default_factory=list)


def _begin(
    live: Runtime,
    batch: Batch,
    steer: Sequence[Steer] | None,
    readers: Readers | None,
    *,
    stops: bool = False,
    new_tokens: int = 0,
) -> _Begun | None:
    """Read the common beginning of a batch; None where it is read with every row."""
    if not batch.shared or not _may_share(live, batch, new_tokens):
        return None
    group = Group.of_rows(None if steer is None else [steer[index] for index in batch.order])
    edited = _edited_in_beginning(live, batch, group)
    if edited is None or shareable(live, generating=new_tokens > 0).refused:
        return None
    # What nothing edits is read by itself, so that its bits don't depend on what is steered beside it.
    passes = (_Once(), _Once())
    for key in dict.fromkeys(edited):
        one = passes[bool(key)]
        alike = [row for row, other in enumerate(edited) if other == key]
        one.rows.append(alike[0])
        one.alike.append(alike)
    hidden: list[Tensor] = []
    seen: dict[Site, list[Tensor]] = {site: [] for site in readers or ()}
    plain, own = passes
    conditions: list[Steer] | None = None if steer is None else [None] * len(plain.rows)
    caches = [_read_once(live, batch, conditions, plain, hidden, seen, stops)] if plain.rows else []
    if own.rows:
        conditions = None if group.rows is None else [group.rows[row] for row in own.rows]
        caches.append(_read_once(live, batch, conditions, own, hidden, seen, stops))
    places = {row: place for place, rows in enumerate(alike for one in passes for alike in one.alike) for row in rows}
    row_of = [places[row] for row in range(len(batch.order))]
    columns = batch.input_ids.shape[1] + new_tokens if new_tokens else 0
    return _Begun(batch.apart(), row_of, cache_for_rows(caches, row_of, columns), hidden, seen)


def _read_once(
    live: Runtime,
    batch: Batch,
    steer: Sequence[Steer] | None,
    once: _Once,
    hidden: list[Tensor],
    seen: Mapping[Site, list[Tensor]],
    stops: bool,
) -> Cache:
    """Read the beginnings of some rows, and keep what they give."""
    frame = batch.frame.select(tuple(once.rows)).from_start()
    keepers: Readers | None = {site: _keeper(into) for site, into in seen.items()} or None
    cache = new_cache()
    base = submodule(live.model, live.layout.base)
    texts = [[batch.order[row] for row in rows] for rows in once.alike]
    pending = _Pending(keepers, stops)
    with (
        counting_for(texts),
        live.steering.running(frame, steer=steer, readers=pending.readers),
        evaluating(live.model),
        suppress(_Stop),
    ):
        begin_batch(range(len(once.rows)))
        ids = batch.beginning.expand(len(once.rows), -1)
        hidden.append(hidden_of(base(input_ids=ids, past_key_values=cache, use_cache=True)))
    return cache


def _keeper(into: list[Tensor]) -> Callable[[Tensor], None]:
    def keep(x: Tensor) -> None:
        into.append(x.detach())

    return keep


# Where it is exact


def edits_always(live: Runtime, steer: Sequence[Steer] | None) -> bool:
    """Whether what acts edits all tokens, so that nobody asks which."""
    groups = [*(block.group for block in live.steering.shared.here()), Group.of_rows(steer)]
    placements = [one for group in groups for row in (group.interventions, *(group.rows or ())) for one in row]
    return all(When(one.positions, one.schedule, one.gate).always for one in placements)


def _may_share(live: Runtime, batch: Batch, new_tokens: int) -> bool:
    """Whether a pass may be cut at all: not where somebody else's hook or a compiled graph would see another one."""
    steering = live.steering
    if not live.share_beginnings or steering.prepared is not None or steering.shared.nest.innermost() is not None:
        return False
    longest = longest_shareable(live)
    if longest is not None and batch.input_ids.shape[1] + new_tokens > longest:
        return False
    found: Any = nn.modules.module
    if found._global_forward_hooks or found._global_forward_pre_hooks:
        return False
    return not any(_is_looked_at(module) for module in live.model.modules())


def _keeps_rows(live: Runtime, settings: Mapping[str, Any]) -> bool:
    """Whether ``generate`` keeps rows rows and its cache one of ours, and looks at no token that isn't its row's."""
    own = live.model.generation_config
    if own is not None and (own.cache_implementation is not None or own.use_cache is False or own.stop_strings):
        return False
    processors = settings.get("logits_processor", ())
    return set(settings) <= {"logits_processor"} and all(isinstance(one, KeyedSampling) for one in processors)


def _is_looked_at(module: nn.Module) -> bool:
    """Whether a module is compiled, or has a hook that isn't ours."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return getattr(module, "_compiled_call_impl", None) is not None or any(
        not str(getattr(hook, "__module__", "")).startswith(_OURS) for hook in hooks
    )


def _edited_in_beginning(live: Runtime, batch: Batch, group: Group) -> list[Edited] | None:
    """What is edited in the beginning of each row; None where that can't be told without the whole row."""
    here = [block.group for block in live.steering.shared.here()]
    if any(one.mode == "interpret" for one in here) or any(one.rows is not None for one in here):
        return None
    common = [placement for one in here for placement in one.interventions]
    frame, masks = batch.frame.from_start(), {}
    rows: list[Edited] = []
    for row in range(frame.rows):
        found: list[tuple[int, bytes]] = []
        for placement in (*common, *(group.rows[row] if group.rows is not None else ())):
            if id(placement) not in masks:
                masks[id(placement)] = _beginning_mask(placement, frame, batch.shared)
            mask = masks[id(placement)]
            if mask is None:
                return None
            if bool(mask[row].any()):
                found.append((id(placement), mask[row].numpy().tobytes()))
        rows.append(tuple(found))
    return rows


def _beginning_mask(placement: Placement, frame: Frame, shared: int) -> Tensor | None:
    """Which tokens of the beginning an intervention may edit, ``[rows, shared]``; None where more than their places
    decides it: what stands behind them, or a text that is looked for."""
    when = When(placement.positions, placement.schedule, placement.gate)
    if when.positions.role == FROM_TOKEN or (when.gate is not None and when.gate.at == "prompt"):
        return None
    if when.only_behind:
        return torch.zeros(frame.rows, shared, dtype=torch.bool)
    try:
        return edit_mask(position_intervals(when.positions, frame), 0, shared)
    except PositionError:
        return None  # the whole pass says what is wrong
