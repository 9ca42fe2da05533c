"""Places for steering that torch.compile sees once: a hook at each, whose vectors lie in a buffer of fixed address.

What steers is copied into the buffers, so that vectors and coefficients change with no recompilation, no graph break
and no new recording of a CUDA graph. Where nothing steers the buffers hold zeros, which change no value: the bias is
−0, the one number that changes nothing when it is added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, cast

import torch
from torch import Tensor, nn

from steerkit.api.architecture import Layout, Tap
from steerkit.api.intervention import Affine, Intervention, Placement
from steerkit.engine.hooking.attach import Begins, like_of
from steerkit.engine.hooking.compiled import Hook, Hooks
from steerkit.engine.lowering.algebra import compose, is_constant, times, wants_gradient
from steerkit.engine.lowering.edits import Edit, Mode, edits_of, placements_to_lower
from steerkit.engine.lowering.lower import place_of, places_of_edits
from steerkit.engine.lowering.places import Probe, Record
from steerkit.engine.lowering.program import Program, Slot, Step
from steerkit.engine.parallel.shards import Input, sharded_input
from steerkit.engine.sequence.cursor import Cursor
from steerkit.engine.sites.taps import first_of, hooks_of_tap, submodule, with_first
from steerkit.errors import AttachError, agreeing, counted
from steerkit.types import HEAD_OUT, RESID_MID, Site

Where: TypeAlias = Site | str | Placement | Intervention
"""A site, or whatever sites an intervention needs."""

INPUT: Final = "_steerkit_input"
OUTPUT: Final = "_steerkit_output"
MID: Final = "_steerkit_mid"
LEAVE: Final = "Or leave `prepare` first: outside of it everything is possible, and the compiled model is traced anew."


@dataclass(frozen=True, eq=False)
class Place:
    """A value that can be edited, and the buffer that says how.

    Args:
        site: a site that is edited there.
        tap: the value.
        module: which the tap names.
        name: of the buffer that it gets.
        buffer: ``[rows, 2 · rank + 1, width]``: what is read, what is written, and the bias of an affine update.
        resid_pre: where ``resid_mid`` is meant: what its sum with the value is made of. The sum is edited then, by
            way of the value.
        sum_of: what the two are multiplied by in that sum: ``resid_pre`` and the value.
    """

    site: Site
    tap: Tap
    module: nn.Module
    name: str
    buffer: Tensor
    resid_pre: Tap | None = None
    sum_of: tuple[float, float] = (1.0, 1.0)

    def clear(self) -> None:
        """Change nothing."""
        self.buffer.zero_()
        self.buffer[:, -1] = -0.0


class Prepared:
    """Places of a model that are ready to be edited.

    Args:
        model: the model.
        layout: its streams.
        sites: where; None: wherever a block or the embedding writes, and at every block's output.
        rank: most directions that an update reads; 0: only constants are added.
        rows: rows of a batch that are told apart; 1: all rows are edited alike.

    Raises:
        AttachError: for a rank or rows that make no sense.
        SiteError: for a site that the model doesn't have.
    """

    def __init__(
        self, model: nn.Module, layout: Layout, sites: Where | Sequence[Where] | None, rank: int, rows: int
    ) -> None:
        if rank < 0 or rows < 1:
            raise AttachError(f"prepare takes a rank of 0 or more and 1 row or more, not rank={rank} and rows={rows}.")
        chosen, needed = _sites_to_prepare(sites, layout)
        self.layout, self.rank, self.rows = layout, max(rank, needed), rows
        self.attached = False
        self.places: dict[tuple[Tap, bool], Place] = {}
        for site in sorted(chosen, key=layout.order.__getitem__):
            self._add(model, site)
        self._hooks = Hooks(self._registered(model))

    def _add(self, model: nn.Module, site: Site) -> None:
        tap, resid_pre, name, sum_of = self.layout.tap(site), None, "", (1.0, 1.0)
        if site.stream == RESID_MID:
            block = self.layout.blocks[site.layer]
            tap, resid_pre, name = block.writers[0].tap, block.resid_pre, MID
            sum_of = (block.keep(0), tap.factor)
        tap = tap.raw
        module = submodule(model, tap.module)
        dtype, device = like_of(module, model)
        # Outside of inference mode, where nobody could write into it later.
        with torch.inference_mode(False):
            buffer = torch.zeros(self.rows, 2 * self.rank + 1, self.layout.width(site), dtype=dtype, device=device)
        # An address that stays, so that a CUDA graph reads it in place.
        torch._dynamo.mark_static_address(buffer)
        name = name or (INPUT if tap.side == "input" else OUTPUT)
        place = Place(site, tap, module, name, buffer, resid_pre, sum_of)
        self.places.setdefault((tap, resid_pre is not None), place)

    def _registered(self, model: nn.Module) -> list[Hook]:
        """One hook per value, in forward order."""
        found: list[Hook] = []
        for tap in dict.fromkeys(tap for tap, _ in self.places):
            mid = self.places.get((tap, True))
            if mid is not None and mid.resid_pre is not None:
                held: list[Tensor] = []
                found += _seen_hooks(model, mid.resid_pre, held)
                found.append((mid.module, tap.side, _hook_of_sum_buffer(mid, held)))
            else:
                found.append(
                    (self.places[tap, False].module, tap.side, _hook_of_buffer(tap, self.places[tap, False].module))
                )
        return found

    def attach(self) -> None:
        """Put hooks and buffers on; they change nothing yet."""
        for place in self.places.values():
            if place.name in place.module._buffers:
                raise AttachError("The model is prepared already, as another steerkit model. Leave that one first.")
        for place in self.places.values():
            place.clear()
            place.module.register_buffer(place.name, place.buffer, persistent=False)
        self._hooks.attach()
        self.attached = True

    def detach(self) -> None:
        """Take them off."""
        self.attached = False
        self._hooks.detach()
        for place in self.places.values():
            if place.module._buffers.get(place.name) is place.buffer:
                del place.module._buffers[place.name]
                place.module._non_persistent_buffers_set.discard(place.name)

    # What steers, as updates at places

    def filled(self, program: Program, modes: Iterable[Mode] = ()) -> Filled:
        """A program of hooks alone, ready to be copied into the buffers; ``modes`` are those that were asked for.

        Raises:
            AttachError: for anything that they can't hold; nothing is copied then.
        """
        for mode in modes:
            if mode in ("fold", "interpret"):
                raise AttachError(f"A prepared model isn't steered in mode {mode!r}. Use 'auto' or 'hook'. {LEAVE}")
        if program.n_rows not in (None, self.rows):
            raise AttachError(
                f"{counted(program.n_rows, 'row')} {agreeing(program.n_rows)} steered apart, and the model was "
                f"prepared for {self.rows}. "
                f"Use prepare(rows={program.n_rows}). {LEAVE}"
            )
        values: dict[Place, Tensor] = {}
        # One update usually stands at many places; it is laid out once.
        known: dict[object, Tensor] = {}
        for slot in program.slots:
            for place, steps in self._split(slot):
                updates = [self._one(steps, row, place) for row in range(program.n_rows or 1)]
                like = place.buffer
                key = (*map(id, updates), like.shape, like.dtype, like.device)
                if key not in known:
                    known[key] = _values_of_buffer(updates, like)
                values[place] = known[key]
        return Filled(self, values)

    def _split(self, slot: Slot) -> list[tuple[Place, list[Step]]]:
        """What of a slot is carried out at which place."""
        items, carried = _steps_that_buffers_hold(slot.items), _steps_that_buffers_hold(slot.carried)
        plain, mid = self.places.get((slot.tap, False)), self.places.get((slot.tap, True))
        if items and plain is None and all(is_constant(edit.update) for step in items for edit in step.edits):
            # A constant that the writer adds is one of the sum, where only that was prepared.
            factor = 1.0 if mid is None else mid.sum_of[1]
            items, carried = [], [*(_times_factor(step, factor) for step in items), *carried]
        found = [(place, steps) for place, steps in ((plain, items), (mid, carried)) if steps]
        for place, steps in found:
            if place is None:
                site = steps[0].edits[0].site
                raise AttachError(f"{site} is edited, and it wasn't prepared. Name it in prepare(sites=...). {LEAVE}")
        return [(place, steps) for place, steps in found if place is not None]

    def _one(self, steps: Sequence[Step], row: int, place: Place) -> Affine | None:
        """What a row's updates at a place are together, as they change the value there."""
        found: Affine | None = None
        for step in steps:
            edit = step.parts[row]
            if edit is not None and isinstance(edit.update, Affine):
                found = edit.update if found is None else compose(found, edit.update)
        rank = 0 if found is None or found.reads is None else len(found.reads)
        if rank > self.rank:
            raise AttachError(
                f"What is done at {place.site} has rank {rank}, and the model was prepared for rank {self.rank}. "
                f"Use prepare(rank={rank}). {LEAVE}"
            )
        factor = place.sum_of[1]
        if found is None or factor == 1.0:
            return found
        # The sum holds the value times the factor, and is to change by all of the update.
        return cast(Affine, times(found, torch.tensor(1 / factor, dtype=torch.float64)))


class Filled:
    """A program in prepared buffers, or ready to be put there. Used as an ``Attachment`` is.

    Args:
        prepared: the places.
        values: for each that is edited, what its buffer will hold.
    """

    def __init__(self, prepared: Prepared, values: dict[Place, Tensor]) -> None:
        self.prepared, self.values = prepared, values
        self.cursor = Cursor()
        self.begins: Begins | None = None
        self.intact = True

    def attach(self) -> None:
        """Copy it in."""
        if not self.prepared.attached:
            raise AttachError("The model is no longer prepared: `prepare` was left before a `steer` inside of it.")
        for place, value in self.values.items():
            place.buffer.copy_(value)

    def detach(self) -> None:
        """Put the zeros back."""
        for place in self.values:
            place.clear()

    def fits_still(self) -> bool:
        """Whether it can be put on as it is."""
        return True

    def close(self) -> None:
        """It will not be put on again."""


def _values_of_buffer(updates: Sequence[Affine | None], like: Tensor) -> Tensor:
    """Updates of all rows, or one for all of them, as a place's buffer holds them."""
    with torch.no_grad(), torch.inference_mode(False):
        found = torch.zeros_like(like)
        found[:, -1] = -0.0
        rank = like.shape[1] // 2
        for row, update in enumerate(updates):
            chosen = slice(None) if len(updates) == 1 else row
            if update is not None and update.reads is not None and update.writes is not None:
                found[chosen, : len(update.reads)] = update.reads.to(found)
                found[chosen, rank : rank + len(update.writes)] = update.writes.to(found)
            if update is not None and update.bias is not None:
                found[chosen, -1] = update.bias.to(found)
    return found


def _sites_to_prepare(sites: Where | Sequence[Where] | None, layout: Layout) -> tuple[set[Site], int]:
    """Where updates are carried out, and the highest rank that given interventions have there."""
    if sites is None:
        return {place_of(site, layout) for site in layout.sites() if site.stream not in (HEAD_OUT, RESID_MID)}, 0
    chosen: set[Site] = set()
    placements: list[Placement] = []
    for given in [sites] if isinstance(sites, (Site, str, Placement, Intervention)) else sites:
        if isinstance(given, (Site, str)):
            site = Site.parse(given)
            layout.require(site)
            chosen.add(place_of(site.whole, layout))
            continue
        (one,) = placements_to_lower(given)
        placements.append(one)
        # An update that is nothing at all for now, since its coefficient is 0, may be something later.
        idle = [site for site in one.sites_on(layout) if one.intervention.update(site, layout) is None]
        chosen |= {place_of(site.whole, layout) for site in idle}
    edits = edits_of(placements, layout)
    places = places_of_edits(edits, layout, Record(edits, wanted=False))
    updates = [item.update for items in places.values() for item in items if isinstance(item, Edit)]
    read = [update.reads for update in updates if isinstance(update, Affine) and update.reads is not None]
    return chosen | set(places), max(map(len, read), default=0)


def _steps_that_buffers_hold(items: Sequence[Step | Probe]) -> list[Step]:
    """The steps among some items, if buffers can hold them all."""
    found = [item for item in items if isinstance(item, Step)]
    for edit in (edit for step in found for edit in step.edits):
        why = ""
        if not isinstance(edit.update, Affine):
            why = "by a function, and buffers hold vectors."
        elif not edit.when.always:
            why = f"at {edit.when}, and a prepared place edits every token. To spare prompts, steer after the prefill."
        elif wants_gradient(edit.update):
            why = "with vectors that want a gradient, and buffers hold copies. Detach them."
        if why:
            raise AttachError(f"{edit.name} edits {edit.site} {why} {LEAVE}")
    return found


def _times_factor(step: Step, factor: float) -> Step:
    """Constants that are added to a value, as they are added to what it is times a factor."""
    if factor == 1.0:
        return step
    by = torch.tensor(factor, dtype=torch.float64)
    return Step(tuple(part and replace(part, update=times(part.update, by)) for part in step.parts))


def _seen_hooks(model: nn.Module, tap: Tap, held: list[Tensor]) -> list[Hook]:
    """Hooks that keep a value as it passes, behind whoever edits it."""

    def keep(x: Tensor) -> None:
        held[:] = [x]

    hooks = hooks_of_tap(model, tap, keep)
    return [(module, "output" if side == "output" else "seen", hook) for module, side, hook in hooks]


# What is traced: functions that find their vectors on the module, as it finds its weights. Vectors in closures would
# be looked up one by one before each call of a compiled model, and a function that all share would be compared.


def _hook_of_buffer(tap: Tap, module: nn.Module | None = None) -> Callable[..., Any]:
    """A hook on a tap's side that adds what its buffer holds; of a module, whose input processes may share."""
    name = INPUT if tap.side == "input" else OUTPUT

    def edit(module: nn.Module, value: Tensor) -> Tensor:
        return _changed_by_buffer(value, value, module._buffers[name])

    parts = sharded_input(module) if module is not None and tap.side == "input" else None
    return _hook_of(edit if parts is None else _of_whole_input(edit, parts), tap)


def _hook_of_sum_buffer(place: Place, held: list[Tensor]) -> Callable[..., Any]:
    """A hook of the writer that completes ``resid_mid``; ``held`` is what went into its block."""
    kept, factor = place.sum_of
    own = INPUT if place.tap.side == "input" else OUTPUT

    def edit(module: nn.Module, value: Tensor) -> Tensor:
        if own in module._buffers:
            value = _changed_by_buffer(value, value, module._buffers[own])
        resid_pre = held.pop().reshape(value.shape)
        resid_pre, added = resid_pre if kept == 1.0 else resid_pre * kept, value if factor == 1.0 else value * factor
        return _changed_by_buffer(value, resid_pre + added, module._buffers[MID])

    return _hook_of(edit, place.tap)


def _of_whole_input(edit: Callable[[nn.Module, Tensor], Tensor], parts: Input) -> Callable[[nn.Module, Tensor], Tensor]:
    """An edit of a value of which each process has a share."""

    def framed(module: nn.Module, value: Tensor) -> Tensor:
        return parts.share(edit(module, parts.gathered(value)), value)

    return framed


def _hook_of(edit: Callable[[nn.Module, Tensor], Tensor], tap: Tap) -> Callable[..., Any]:
    keyword = tap.keyword

    def of_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return with_first(output, edit(module, first_of(output)))

    def of_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        new = edit(module, args[0] if args else kwargs[keyword])
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, keyword: new})

    return of_input if tap.side == "input" else of_output


def _changed_by_buffer(x: Tensor, seen: Tensor, buffer: Tensor | None) -> Tensor:
    """``x + ((seen readsᵀ) writes + bias)``, with ``x`` and ``seen`` ``[batch, pos, width]``, and a place's buffer."""
    assert buffer is not None
    rows, rank = buffer.shape[0], buffer.shape[1] // 2
    if buffer.dtype != x.dtype or buffer.device != x.device:
        buffer = buffer.to(x.device, x.dtype)
    if rows == 1:
        return _sum_of_buffers(x, seen, buffer[0], rank)
    if x.shape[0] % rows:
        raise AttachError(
            f"A pass over {counted(x.shape[0], 'row')}, and the model was prepared for rows={rows}. {LEAVE}"
        )
    # Copies of a row lie side by side, so a row's copies are one long row.
    wide = x.reshape(rows, -1, x.shape[-1]), seen.reshape(rows, -1, x.shape[-1])
    return _sum_of_buffers(*wide, buffer, rank).reshape(x.shape)


def _sum_of_buffers(x: Tensor, seen: Tensor, buffer: Tensor, rank: int) -> Tensor:
    x = x + buffer[..., -1:, :]
    if rank == 0:
        return x
    reads, writes = buffer[..., :rank, :], buffer[..., rank : 2 * rank, :]
    if rank > 1:
        return x + (seen @ reads.transpose(-2, -1)) @ writes
    # A sum and a product, which a compiler puts into the kernels around them; a product of matrices it can't.
    along = (seen * reads).sum(-1, keepdim=True) if torch.compiler.is_compiling() else seen @ reads.transpose(-2, -1)
    return torch.addcmul(x, along, writes)
