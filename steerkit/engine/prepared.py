"""Places for steering that torch.compile sees once: a hook at each, whose vectors lie in buffers of fixed address.

What steers is copied into the buffers, so that vectors and coefficients change with no recompilation, no graph break
and no new recording of a CUDA graph. Where nothing steers the buffers hold zeros, which change no value: the bias is
−0, the one number that changes nothing when it is added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import torch
from torch import Tensor, nn

from steerkit.api.architecture import Layout, Tap
from steerkit.api.intervention import Affine, Intervention
from steerkit.engine.algebra import compose, is_constant, wants_gradient
from steerkit.engine.attach import like_of
from steerkit.engine.compiled import Hook, Hooks
from steerkit.engine.cursor import Cursor
from steerkit.engine.edits import Edit, edits_of
from steerkit.engine.program import Item, Probe, Program, Record, Slot, Step, arrange, place_of
from steerkit.engine.taps import Handler, input_hook, output_hook, submodule
from steerkit.errors import AttachError
from steerkit.types import HEAD_OUT, RESID_MID, Site

if TYPE_CHECKING:
    from steerkit.engine.steps import Like

Where: TypeAlias = Site | str | Intervention
"""A site, or whatever sites an intervention needs."""

LEAVE: Final = "Or leave `prepare` first: outside of it everything is possible, and the compiled model is traced anew."


@dataclass(frozen=True, eq=False)
class Buffers:
    """What an affine update at one place is made of; zeros where there is none.

    Args:
        reads: ``[rows, rank, width]``.
        writes: ``[rows, rank, width]``.
        bias: ``[rows, 1, width]``.
    """

    reads: Tensor
    writes: Tensor
    bias: Tensor

    @classmethod
    def zeros(cls, rows: int, rank: int, width: int, like: Like) -> Buffers:
        """Buffers that change nothing."""
        dtype, device = like
        # Outside of inference mode, where nobody could write into them later.
        with torch.inference_mode(False):
            shapes = ((rows, rank, width), (rows, rank, width), (rows, 1, width))
            found = cls(*(torch.zeros(shape, dtype=dtype, device=device) for shape in shapes))
        found.clear()
        return found

    def clear(self) -> None:
        """Change nothing."""
        self.reads.zero_()
        self.writes.zero_()
        self.bias.fill_(-0.0)

    @torch.no_grad()
    def fill(self, updates: Sequence[Affine | None]) -> None:
        """Take over an update for all rows, or one for each; None where a row has none."""
        self.clear()
        if len(updates) == 1 and updates[0] is not None:
            updates = [*updates] * len(self.bias)
        for row, update in enumerate(updates):
            if update is None:
                continue
            if update.reads is not None and update.writes is not None:
                self.reads[row, : len(update.reads)].copy_(update.reads)
                self.writes[row, : len(update.writes)].copy_(update.writes)
            if update.bias is not None:
                self.bias[row, 0].copy_(update.bias)


@dataclass(frozen=True, eq=False)
class Place:
    """A value that can be edited.

    Args:
        site: a site that is edited there.
        tap: the value.
        buffers: what edits it.
        resid_pre: where ``resid_mid`` is meant: what its sum with the value is made of. The sum is edited then, by
            way of the value.
    """

    site: Site
    tap: Tap
    buffers: Buffers
    resid_pre: Tap | None = None


class Prepared:
    """Places of a model that are ready to be edited.

    Args:
        model: the model.
        layout: its streams.
        sites: where; None: wherever a block or the embedding writes, and at every block's output.
        rank: most directions of an update that reads the stream; 0: only constants are added.
        rows: rows of a batch that are told apart; 1: all rows are edited alike.

    Raises:
        AttachError: for a rank or rows that make no sense.
        SiteError: for a site that the model doesn't have.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        sites: Where | Sequence[Where] | None,
        rank: int,
        rows: int,
    ) -> None:
        if rank < 0 or rows < 1:
            raise AttachError(f"prepare takes a rank of 0 or more and 1 row or more, not rank={rank} and rows={rows}.")
        chosen, needed = _chosen(sites, layout)
        self.layout, self.rank, self.rows = layout, max(rank, needed), rows
        self.attached = False
        self.places: dict[tuple[Tap, bool], Place] = {}
        for site in sorted(chosen, key=layout.order.__getitem__):
            self._add(model, site)
        self._hooks = Hooks(self._registered(model))

    def _add(self, model: nn.Module, site: Site) -> None:
        tap, resid_pre = self.layout.tap(site), None
        if site.stream == RESID_MID:
            block = self.layout.blocks[site.layer]
            tap, resid_pre = block.writers[0].tap, Tap(block.module, "input")
        like = like_of(submodule(model, tap.module), model)
        buffers = Buffers.zeros(self.rows, self.rank, self.layout.width(site), like)
        self.places.setdefault((tap, resid_pre is not None), Place(site, tap, buffers, resid_pre))

    def _registered(self, model: nn.Module) -> list[Hook]:
        """One hook per value, in forward order."""
        found: list[tuple[Tap, Handler]] = []
        for tap in dict.fromkeys(tap for tap, _ in self.places):
            plain, mid = self.places.get((tap, False)), self.places.get((tap, True))
            found += _handlers(plain, mid, self.rows)
        return [
            (
                submodule(model, tap.module),
                tap.side,
                input_hook(handler, tap.keyword) if tap.side == "input" else output_hook(handler),
            )
            for tap, handler in found
        ]

    def attach(self) -> None:
        """Put the hooks on; they change nothing yet."""
        self.clear()
        self._hooks.attach()
        self.attached = True

    def detach(self) -> None:
        """Take them off."""
        self.attached = False
        self._hooks.detach()

    def clear(self) -> None:
        """Edit nothing."""
        for place in self.places.values():
            place.buffers.clear()

    # What steers, as updates at places

    def filled(self, program: Program) -> Filled:
        """A program, ready to be copied into the buffers.

        Raises:
            AttachError: for anything that they can't hold; nothing is copied then.
        """
        if program.n_rows not in (None, self.rows):
            raise AttachError(
                f"{program.n_rows} rows are steered apart, and the model was prepared for {self.rows}. "
                f"Use prepare(rows={program.n_rows}). {LEAVE}"
            )
        values: dict[Place, list[Affine | None]] = {}
        for slot in program.slots:
            for place, items in self._split(slot):
                values[place] = [self._one(items, row, place.site) for row in range(program.n_rows or 1)]
        return Filled(self, values)

    def _split(self, slot: Slot) -> list[tuple[Place, list[Step]]]:
        """What of a slot is carried out at which place."""
        items, carried = _steps(slot.items, slot), _steps(slot.carried, slot)
        plain, mid = self.places.get((slot.tap, False)), self.places.get((slot.tap, True))
        if items and plain is None and all(is_constant(edit.update) for step in items for edit in step.edits):
            # A constant that the writer adds is one of the sum, where only that was prepared.
            items, carried = [], [*items, *carried]
        found = [(place, steps) for place, steps in ((plain, items), (mid, carried)) if steps]
        missing = next((steps for place, steps in found if place is None), None)
        if missing is not None:
            site = missing[0].edits[0].site
            raise AttachError(f"{site} is edited, and it wasn't prepared. Name it in prepare(sites=...). {LEAVE}")
        return [(place, steps) for place, steps in found if place is not None]

    def _one(self, steps: Sequence[Step], row: int, site: Site) -> Affine | None:
        """What a row's updates at a place are together."""
        found: Affine | None = None
        for step in steps:
            edit = step.parts[row]
            if edit is not None and isinstance(edit.update, Affine):
                found = edit.update if found is None else compose(found, edit.update)
        rank = 0 if found is None or found.reads is None else len(found.reads)
        if rank > self.rank:
            raise AttachError(
                f"What is done at {site} has rank {rank}, and the model was prepared for rank {self.rank}. "
                f"Use prepare(rank={rank}). {LEAVE}"
            )
        return found


class Filled:
    """A program that stands in prepared buffers, or is ready to. Used as an ``Attachment`` is.

    Args:
        prepared: the places.
        values: for each that is edited, an update for all rows, or one for each.
    """

    def __init__(self, prepared: Prepared, values: dict[Place, list[Affine | None]]) -> None:
        self.prepared, self.values = prepared, values
        self.cursor = Cursor()

    def attach(self) -> None:
        """Copy it in."""
        if not self.prepared.attached:
            raise AttachError("The model is no longer prepared: `prepare` was left before a `steer` inside of it.")
        for place, updates in self.values.items():
            place.buffers.fill(updates)

    def detach(self) -> None:
        """Put the zeros back."""
        self.prepared.clear()


def _chosen(sites: Where | Sequence[Where] | None, layout: Layout) -> tuple[set[Site], int]:
    """Where updates are carried out, and the highest rank that given interventions have there."""
    if sites is None:
        return {place_of(site, layout) for site in layout.sites() if site.stream not in (HEAD_OUT, RESID_MID)}, 0
    listed = [sites] if isinstance(sites, (Site, str, Intervention)) else list(sites)
    chosen: set[Site] = set()
    interventions: list[Intervention] = []
    for one in listed:
        if isinstance(one, Intervention):
            interventions.append(one)
            # An update that is nothing at all for now, since its coefficient is 0, may be something later.
            chosen |= {place_of(site, layout) for site in one.sites(layout) if one.update(site) is None}
        else:
            site = Site.parse(one)
            layout.require(site)
            chosen.add(place_of(site, layout))
    edits = edits_of(interventions, layout)
    places = arrange(edits, layout, Record(edits, wanted=False))
    return chosen | set(places), max((_rank(item) for items in places.values() for item in items), default=0)


def _rank(item: Item) -> int:
    update = item.update if isinstance(item, Edit) else None
    return len(update.reads) if isinstance(update, Affine) and update.reads is not None else 0


def _steps(items: Sequence[Step | Probe], slot: Slot) -> list[Step]:
    """The steps among some items, if buffers can hold them all."""
    found = [item for item in items if isinstance(item, Step)]
    for edit in (edit for step in found for edit in step.edits):
        why = ""
        if slot.literal or edit.mode in ("interpret", "fold"):
            mode = "interpret" if slot.literal else edit.mode
            why = f"in mode {mode!r}. In a prepared model all is copied into buffers: use mode 'auto' or 'hook'."
        elif not isinstance(edit.update, Affine):
            why = "by a function, and buffers hold vectors."
        elif not edit.when.always:
            why = (
                f"at {edit.when}, and a prepared place edits every token of a pass. To spare the prompt, enter `steer` "
                "after the prefill."
            )
        elif wants_gradient(edit.update):
            why = "with vectors that want a gradient, and buffers hold copies. Detach them."
        if why:
            raise AttachError(f"{edit.name} edits {edit.site} {why} {LEAVE}")
    return found


# What is traced


def _handlers(plain: Place | None, mid: Place | None, rows: int) -> list[tuple[Tap, Handler]]:
    """What to register for a tap: an edit of its value, and one of the sum that it completes."""
    own = None if plain is None else _change(plain.buffers, rows)
    if mid is None or mid.resid_pre is None:
        assert plain is not None and own is not None  # there is no tap without a place
        return [(plain.tap, lambda x: own(x, x))]
    carried = _change(mid.buffers, rows)
    held: list[Tensor] = []

    def keep(x: Tensor) -> None:
        held[:] = [x]

    def between(attn_out: Tensor) -> Tensor:
        attn_out = attn_out if own is None else own(attn_out, attn_out)
        return carried(attn_out, held.pop() + attn_out)

    return [(mid.resid_pre, keep), (mid.tap, between)]


def _change(buffers: Buffers, rows: int) -> Callable[[Tensor, Tensor], Tensor]:
    """From a value and what is read, ``[batch, pos, width]``, to ``value + ((read readsᵀ) writes + bias)``."""
    tensors = buffers.reads, buffers.writes, buffers.bias
    if rows == 1:
        tensors = buffers.reads[0], buffers.writes[0], buffers.bias[0]
    reads, writes, bias = tensors
    rank = reads.shape[-2]
    for tensor in tensors:
        # An address that stays, so that a CUDA graph reads it in place.
        torch._dynamo.mark_static_address(tensor)

    def change(x: Tensor, seen: Tensor) -> Tensor:
        if x.dtype != bias.dtype or x.device != bias.device:
            a, q, b = reads.to(x.device, x.dtype), writes.to(x.device, x.dtype), bias.to(x.device, x.dtype)
        else:
            a, q, b = reads, writes, bias
        if rank == 0:
            return x + b
        if rank > 1:
            return x + b + (seen @ a.transpose(-2, -1)) @ q
        # A sum and a product, which a compiler puts into the kernels around them; a product of matrices it can't.
        along = (seen * a).sum(-1, keepdim=True) if torch.compiler.is_compiling() else seen @ a.transpose(-2, -1)
        return torch.addcmul(x + b, along, q)

    if rows == 1:
        return change

    def by_row(x: Tensor, seen: Tensor) -> Tensor:
        if x.shape[0] == rows:
            return change(x, seen)
        if x.shape[0] % rows:
            raise AttachError(f"A pass over {x.shape[0]} rows, and the model was prepared for rows={rows}. {LEAVE}")
        # Copies of a row lie side by side, so a row's copies are one long row.
        wide = change(x.reshape(rows, -1, x.shape[-1]), seen.reshape(rows, -1, x.shape[-1]))
        return wide.reshape(x.shape)

    return by_row
