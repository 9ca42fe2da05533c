"""A condition lowered to a model: the cheapest program that equals its definition.

1. Updates that earlier ones leave nothing to do are dropped (``redundancy``).
2. What acts at one place under the same circumstances becomes one update (``algebra.compose``). Two sites can
   be one place: a block's output is the next one's input.
3. What acts at every token alike goes into weights and biases, where that is exact and pays (``fold``).
4. What is left becomes one hook per module, a list of items in order.

A site is where an update is defined; a slot is where it is carried out. ``resid_mid`` is carried out at the
first writer, since both the MLP and the residual branch must see the new value:
``attn_out ← f(resid_pre + attn_out) − resid_pre``; a constant there is a constant at the writer.

Each row of a batch may have a program of its own. Rows are lowered one by one, then their items are laid side
by side, so that a slot carries out one item for all rows at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import nn

from steerkit.api.architecture import Layout
from steerkit.api.intervention import Affine, Gate, Intervention, Placement
from steerkit.engine.lowering.algebra import before_factor, compose, is_constant
from steerkit.engine.lowering.edits import Edit, Mode, edits_of, placements_to_lower
from steerkit.engine.lowering.fold import Fold, fold_places
from steerkit.engine.lowering.places import Fate, Item, Places, Probe, Record
from steerkit.engine.lowering.program import Program, Slot, Step
from steerkit.engine.lowering.redundancy import redundant
from steerkit.types import EMBED, RESID_MID, RESID_POST, RESID_PRE, Site


def lower(
    edits: Sequence[Edit],
    layout: Layout,
    model: nn.Module | None = None,
    *,
    expected_tokens: int = 0,
    by_site: bool = False,
    at_taps: bool = False,
    fates: bool = False,
) -> Program:
    """Lower a condition to a program.

    Args:
        edits: of ``edits_of``.
        layout: the model's.
        model: the live model; without it nothing is folded.
        expected_tokens: how many tokens will pass; decides in mode ``auto`` what is worth folding.
        by_site: keep every update at its own site, so that values read beside it are as defined.
        at_taps: and at the very value that its adapter names for the site.
        fates: write down what became of each update.
    """
    if not edits:
        return Program()
    if any(edit.mode == "interpret" for edit in edits):
        return _literal_program(edits, layout)
    record = Record(edits, fates)
    places = places_of_edits(edits, layout, record, by_site=by_site)
    folds: tuple[Fold, ...] = ()
    if model is not None and not by_site:
        folds = fold_places(places, layout, model, record, expected_tokens)
    slots = _slots_of_places([places], layout, by_site, at_taps)
    if fates:
        for slot in slots:
            _note_fate_of_hook(slot, record, layout)
    return Program(tuple(slots), folds, tuple(record.fates[place] for place in sorted(record.fates)))


def at_sites(placements: Iterable[Placement | Intervention], layout: Layout) -> Program:
    """A condition with every update hooked at its own site: what holds adapters and plugins to their word."""
    return lower(edits_of(placements_to_lower(tuple(placements)), layout), layout, by_site=True, at_taps=True)


def lower_rows(rows: Sequence[Sequence[Edit]], layout: Layout, *, by_site: bool = False) -> Program:
    """Lower one condition per row to one program of hooks. Rows with equal edits share their lowering.

    Args:
        rows: for each row the edits of its condition; the same list where rows share one.
        layout: the model's.
        by_site: as in ``lower``.
    """
    literal: tuple[Mode, ...] = ("interpret",)
    if any(edit.mode in literal for edits in rows for edit in edits):
        return _literal_program_of_rows(rows, layout)
    known: dict[int, Places] = {}
    for edits in rows:
        if id(edits) not in known:
            known[id(edits)] = places_of_edits(edits, layout, Record(edits, wanted=False), by_site=by_site)
    return Program(tuple(_slots_of_places([known[id(edits)] for edits in rows], layout, by_site)), n_rows=len(rows))


def place_of(site: Site, layout: Layout) -> Site:
    """The place at which a site is edited: a block's input is its predecessor's output."""
    if site.stream == RESID_PRE and site.layer > 0:
        return Site(RESID_POST, site.layer - 1)
    if site.stream == RESID_PRE and layout.embed_is_first_resid_pre:
        return Site(EMBED)
    return site


def places_of_edits(edits: Sequence[Edit], layout: Layout, record: Record, *, by_site: bool = False) -> Places:
    """Steps 1 and 2: what is left of a condition, place by place, composed."""
    dropped = redundant(edits, layout)
    for number in dropped:
        record.note(edits[number], "dropped", why="the stream holds nothing of it there")
    at: dict[Site, list[Item]] = {}
    for gate in _lowered_gates_by_site(edits):
        at.setdefault(gate.read_at.whole, []).append(Probe(gate))
    for number, edit in enumerate(edits):
        if number not in dropped:
            at.setdefault(edit.site, []).append(edit)
    places: Places = {}
    for site in sorted(at, key=layout.order.__getitem__):
        items, place = at[site], site if by_site else place_of(site, layout)
        constant = all(isinstance(item, Edit) and is_constant(item.update) for item in items)
        if site.stream == RESID_MID and constant and not by_site:
            place = Site(layout.blocks[site.layer].writers[0].stream, site.layer)
        places.setdefault(place, []).extend(items)
    return {place: found for place, items in places.items() if (found := _composed_edits(items, record))}


def _lowered_gates_by_site(edits: Sequence[Edit]) -> list[Gate]:
    """The gates that are read while a pass runs; an extra pass decides the others."""
    return [gate for gate in dict.fromkeys(edit.when.gate for edit in edits) if gate is not None and not gate.prepass]


def _composed_edits(items: Sequence[Item], record: Record) -> list[Item]:
    """Neighbours that act under the same circumstances become one."""
    found: list[Item] = []
    for item in items:
        last = found[-1] if found else None
        if not isinstance(item, Edit) or not isinstance(last, Edit) or not _edits_compose(last, item):
            found.append(item)
            continue
        assert isinstance(last.update, Affine) and isinstance(item.update, Affine)
        update = compose(last.update, item.update)
        sources = (*last.sources, *item.sources)
        found.pop()
        if update is None:
            record.note(replace(item, sources=sources), "dropped", why="it cancels with the others there")
        else:
            found.append(replace(item, update=update, sources=sources, mode=_common_mode(last.mode, item.mode)))
    return found


def _edits_compose(first: Edit, second: Edit) -> bool:
    if first.when != second.when or not isinstance(first.update, Affine) or not isinstance(second.update, Affine):
        return False
    # A factor between 0 and 1 on each of two updates isn't that factor on both in a row, unless they are constants.
    constants = is_constant(first.update) and is_constant(second.update)
    return first.when.schedule.is_constant or constants


def _common_mode(one: Mode, other: Mode) -> Mode:
    return one if one == other else "hook" if "hook" in (one, other) else "auto"


def _slots_of_places(
    rows: Sequence[Places], layout: Layout, by_site: bool, at_taps: bool = False, literal: bool = False
) -> list[Slot]:
    """One slot per tap, in forward order of the first site that meets there.

    However a condition is lowered, what goes into a block is edited as what comes out of the one before: whoever
    observes the stream in between sees the same then.
    """
    slots: dict[object, Slot] = {}
    met = {site for places in rows for site in places}
    for place in sorted(met, key=layout.order.__getitem__):
        items = _steps_of_rows([places.get(place, []) for places in rows])
        if place.stream == RESID_MID:
            now = _slot_of_middle(place, items, layout)
        else:
            now = Slot(place, layout.tap(place if at_taps else place_of(place, layout)), items)
        key = (now.tap, place) if by_site else now.tap
        before = slots.get(key)
        if before is None:
            slots[key] = now
        elif before.carried:
            slots[(now.tap, place)] = now
        else:
            slots[key] = replace(now, site=before.site, items=(*before.items, *now.items))
    return [replace(slot, literal=True) if literal else _before_factor(slot) for slot in slots.values()]


def _slot_of_middle(place: Site, items: tuple[Step | Probe, ...], layout: Layout) -> Slot:
    block = layout.blocks[place.layer]
    first = block.writers[0].tap
    return Slot(place, first, (), items, block.resid_pre, factor=first.factor, keep=block.keep(0))


def _before_factor(slot: Slot) -> Slot:
    """A slot whose value is multiplied afterwards, as one of the module's own value.

    A linear part is the same there, and a constant is divided once, so that nothing is multiplied at any token.
    """
    factor = slot.tap.factor
    if factor == 1.0:
        return slot
    if any(isinstance(item, Probe) for item in slot.items):
        return slot  # what a gate compares is the product
    steps = tuple(
        Step(tuple(part and replace(part, update=before_factor(part.update, factor)) for part in item.parts))
        for item in slot.items
        if isinstance(item, Step)
    )
    return replace(slot, tap=slot.tap.raw, items=steps)


def _steps_of_rows(rows: Sequence[Sequence[Item]]) -> tuple[Step | Probe, ...]:
    """Items of all rows as steps: every row's first update, then the second ones, each behind the probes it needs."""
    if len(rows) == 1:
        return tuple(item if isinstance(item, Probe) else Step((item,)) for item in rows[0])
    waiting = [list(items) for items in rows]
    found: list[Step | Probe] = []
    while any(waiting):
        probes: dict[Gate, list[int]] = {}
        for row, items in enumerate(waiting):
            while items and isinstance(items[0], Probe):
                probe = items.pop(0)
                assert isinstance(probe, Probe)
                probes.setdefault(probe.gate, []).append(row)
        found += [Probe(gate, tuple(places)) for gate, places in probes.items()]
        parts = tuple(items.pop(0) if items else None for items in waiting)
        edits = tuple(part for part in parts if isinstance(part, Edit))
        if edits:
            found.append(Step(tuple(part if isinstance(part, Edit) else None for part in parts)))
    return tuple(found)


def _literal_program(edits: Sequence[Edit], layout: Layout) -> Program:
    """Every update at its own site, one after the other."""
    program = _literal_program_of_rows([edits], layout)
    fates = tuple(Fate(edit, "interpreted", layout.tap(edit.site).module) for edit in edits)
    return replace(program, fates=fates, n_rows=None)


def _literal_program_of_rows(rows: Sequence[Sequence[Edit]], layout: Layout) -> Program:
    places: list[Places] = []
    for edits in rows:
        at: Places = {}
        for gate in _lowered_gates_by_site(edits):
            at.setdefault(gate.read_at.whole, []).append(Probe(gate))
        for edit in edits:
            at.setdefault(edit.site, []).append(edit)
        places.append(at)
    return Program(tuple(_slots_of_places(places, layout, by_site=True, literal=True)), n_rows=len(rows))


def _note_fate_of_hook(slot: Slot, record: Record, layout: Layout) -> None:
    for step in (item for item in (*slot.items, *slot.carried) if isinstance(item, Step)):
        for edit in step.edits:
            known = record.fates.get(edit.sources[0])
            why = known.why if known is not None and known.became == "kept" else ""
            flops, moved = cost_of_edit(edit, layout.width(edit.site))
            record.note(edit, "hook", slot.tap.module, why, flops, moved, slot.tap.side)


def cost_of_edit(edit: Edit, width: int, itemsize: int = 4) -> tuple[int, int]:
    """Operations and bytes per token of an update that is hooked; of a function nobody knows, so (0, 0)."""
    if not isinstance(edit.update, Affine):
        return 0, 0
    rank = 0 if edit.update.reads is None else int(edit.update.reads.shape[0])
    constant = edit.update.bias is not None
    # Each row is a scalar product and a multiple that is added; the value is read for each and written once.
    flops = (4 * rank + int(constant)) * width
    return flops, (2 + int(rank > 0)) * width * itemsize
