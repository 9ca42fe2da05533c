"""What a lowered program made of each update, and why, for a reader."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from steerkit.api import showing
from steerkit.api.intervention import Affine, Gate
from steerkit.columns import table_text
from steerkit.engine.lowering.algebra import is_constant
from steerkit.engine.lowering.fold import Fold
from steerkit.engine.lowering.places import Fate, Probe
from steerkit.engine.lowering.program import Program
from steerkit.engine.sequence.when import When
from steerkit.engine.sites.taps import submodule
from steerkit.errors import agreeing, counted

if TYPE_CHECKING:
    from torch import nn

    from steerkit.api.architecture import Layout

WIDTH: Final = 118
"""Columns of a printed table, at most."""

HEADER: Final = ("intervention", "at", "tokens", "became", "in", "FLOP", "bytes", "note")
_NUMBERS: Final = (5, 6)
"""Columns of numbers."""
_HANGING: Final = "    "
"""Before the further lines of a note."""
_MOST_ROWS: Final = 16
"""More rows than these, and directions of one kind of intervention share them."""

_NUMBER: Final = re.compile(r"(?<=[A-Za-z_]\.)\d+(?![\w-])")


@dataclass(frozen=True)
class Became:
    """What became of like updates at like sites.

    Args:
        intervention: names and directions; several where they became one update, or where a table would be too long.
        sites: where they are defined, as ranges of layers.
        when: at which tokens, with the schedule.
        gate: what must hold of the stream besides; empty where nothing must.
        became: ``folded``, ``hook``, ``dropped``, ``interpreted``; ``hook, reads`` for what a gate compares.
        where: modules, with what is replaced there, as ranges of layers.
        why: the reason, where there is one to tell.
        count: number of updates.
        flops_per_token: of all of them together, None where nobody knows (functions).
        bytes_per_token: that they read and write, likewise.
    """

    intervention: str
    sites: str
    when: str
    gate: str
    became: str
    where: str
    why: str
    count: int
    flops_per_token: int | None
    bytes_per_token: int | None


@dataclass(frozen=True)
class Explanation:
    """A program, told update by update. As text it is a table.

    Args:
        rows: what became of what.
        hooks: number of modules with a hook.
        parameters: number of modules whose parameters are swapped.
        notes: what else happens, as sentences.
    """

    rows: tuple[Became, ...]
    hooks: int
    parameters: int
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return str(self)  # it is looked at more often than anything is done with it

    def _repr_html_(self) -> str:
        cells, below = self.table()
        whole = showing.table(HEADER, cells, plain=len(HEADER))
        return showing.card("What becomes of it", whole, *map(showing.line, below))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "hooks": self.hooks,
            "parameters": self.parameters,
            "notes": list(self.notes),
        }

    def table(self) -> tuple[list[tuple[str, ...]], list[str]]:
        """Cells of each row under ``HEADER``, and the lines below them: numbered notes, then sentences."""
        numbered: dict[str, int] = {}

        def number(text: str) -> str:
            return f"({numbered.setdefault(text, len(numbered) + 1)})"

        cells = [_cells(row, number) for row in self.rows]
        below = [f"({n}) {text}" for text, n in numbered.items()]
        return cells, [*below, *([self.summary] if self.rows else ["Nothing is attached."]), *self.notes]

    @property
    def summary(self) -> str:
        """What the whole costs, in a sentence."""
        told = [row for row in self.rows if row.flops_per_token is not None]
        flops, moved = (sum(getattr(row, key) or 0 for row in told) for key in ("flops_per_token", "bytes_per_token"))
        least = "at least " if len(told) < len(self.rows) else ""
        cost = (
            f"{least}{flops:,} FLOP and {counted(moved, 'byte')} per token" if told else "what that costs nobody knows"
        )
        hooked = f"{counted(self.hooks, 'module')} hooked"
        return f"{hooked}, {self.parameters} with other parameters; {cost}."

    def __str__(self) -> str:
        if not self.rows:
            return "Nothing is attached: no update changes anything."
        cells, below = self.table()
        below = [line for one in below for line in textwrap.wrap(one, WIDTH, subsequent_indent=_HANGING)]
        return "\n".join([table_text(HEADER, cells, width=WIDTH, right=_NUMBERS), *below])


def _cells(row: Became, number: Callable[[str], str]) -> tuple[str, ...]:
    flops, moved = ("?" if n is None else f"{n:,}" for n in (row.flops_per_token, row.bytes_per_token))
    when = f"{row.when} if {number(row.gate)}" if row.gate else row.when
    why = number(row.why) if row.why else ""
    return row.intervention, row.sites, when, row.became, row.where, flops, moved, why


# From a program to rows


def explain(program: Program, model: nn.Module, layout: Layout) -> Explanation:
    """Tell a program. Updates with the same fate share a row."""
    itemsize = next((p.element_size() for p in model.parameters() if p.is_floating_point()), 4)
    tried = bool(program.folds) or any(fate.why and not fate.follows for fate in program.fates)
    units = _units(program.fates)
    rows = _rows(units, itemsize, tried, coarse=False)
    if len(rows) > _MOST_ROWS:
        rows = _rows(units, itemsize, tried, coarse=True)
    slots = [(slot.tap.module, slot.tap.side) for slot in program.slots]
    slots += [(slot.resid_pre.module, slot.resid_pre.side) for slot in program.slots if slot.resid_pre is not None]
    swapped = len({fold.path for fold in program.folds})
    return Explanation(
        (*_gate_rows(program, layout, itemsize), *rows), len(set(slots)), swapped, _notes(program, model, layout)
    )


def _units(fates: Iterable[Fate]) -> list[list[Fate]]:
    """Fates of what became one update are one unit, the one that bears its cost first."""
    found: list[list[Fate]] = []
    for fate in fates:
        head = next((unit for unit in reversed(found) if _same(unit[0], fate)), None)
        if fate.follows and head is not None:
            head.append(fate)
        else:
            found.append([fate])
    return found


def _same(one: Fate, other: Fate) -> bool:
    return (one.became, one.where, one.side, one.edit.when) == (other.became, other.where, other.side, other.edit.when)


def _rows(units: Sequence[Sequence[Fate]], itemsize: int, tried: bool, *, coarse: bool) -> tuple[Became, ...]:
    groups: dict[tuple[object, ...], list[Sequence[Fate]]] = {}
    for unit in units:
        first = unit[0]
        names = tuple(dict.fromkeys(fate.edit.name.partition(" ")[0] if coarse else fate.edit.name for fate in unit))
        why = _NUMBER.sub("*", _why(first, tried))
        place = (first.became, first.side, _NUMBER.sub("*", first.where))
        groups.setdefault((names, first.edit.when, first.edit.stream, *place, why), []).append(unit)
    return tuple(_row(found, itemsize, tried) for found in groups.values())


def _row(units: Sequence[Sequence[Fate]], itemsize: int, tried: bool) -> Became:
    fates, heads = [fate for unit in units for fate in unit], [unit[0] for unit in units]
    first = heads[0]
    known = all(fate.became in ("folded", "dropped") or _counted(fate) for fate in heads)
    return Became(
        _names(fate.edit.name for fate in fates),
        _sites(fates),
        _when(first.edit.when),
        "" if first.edit.when.gate is None else str(first.edit.when.gate),
        first.became,
        _spanned([fate.where for fate in heads]) + (f" ({first.side})" if first.side else ""),
        _spanned([_why(fate, tried) for fate in heads]),
        len(fates),
        sum(fate.flops for fate in fates) if known else None,
        # A value is moved in the model's dtype; costs are noted for four bytes.
        sum(fate.moved for fate in fates) * itemsize // 4 if known else None,
    )


def _counted(fate: Fate) -> bool:
    """Whether a hook's cost is known: a function's isn't, nor what the literal interpreter takes."""
    return isinstance(fate.edit.update, Affine) and fate.became != "interpreted"


def _why(fate: Fate, tried: bool) -> str:
    """The reason, in words that a table can hold once for many updates."""
    hooked, always = fate.became == "hook", fate.edit.when.always
    if hooked and not always and fate.edit.mode != "hook":
        return "only what acts at every token alike can be folded"
    if hooked and not fate.why and tried and fate.edit.mode != "hook":
        return "what comes before it at this place stays a hook"
    return fate.why


def _when(when: When) -> str:
    return str(when.positions) + ("" if when.schedule.is_constant else f" × {when.schedule}")


def _names(names: Iterable[str]) -> str:
    """``add a, b, c and 4 more; ablate r``."""
    kinds: dict[str, dict[str, None]] = {}
    for name in names:
        kind, _, direction = name.partition(" ")
        kinds.setdefault(kind, {})[direction] = None
    found = []
    for kind, directions in kinds.items():
        listed = list(directions)
        # "and 1 more" would be as long as the name.
        shown = listed if len(listed) <= 4 else listed[:3]
        more = f" and {len(listed) - 3} more" if len(shown) < len(listed) else ""
        found.append(f"{kind} {', '.join(shown)}{more}".strip())
    return "; ".join(found)


def _sites(fates: Sequence[Fate]) -> str:
    layers: dict[str, list[int]] = {}
    for fate in fates:
        layers.setdefault(fate.edit.stream, []).append(fate.edit.site.layer)
    return ", ".join(
        stream if min(numbers) < 0 else f"blocks.{showing.ranges(numbers)}.{stream}"
        for stream, numbers in layers.items()
    )


def _spanned(texts: Sequence[str]) -> str:
    """Texts that are alike but for the numbers in their paths as one: ``layers.0-2.mlp`` for three modules.

    A text may list several such paths itself: the experts of a layer.
    """
    parts = [part for text in texts for part in text.split(", ")] if "," in texts[0] else list(texts)
    found: dict[str, list[list[int]]] = {}
    for part in parts:
        columns = found.setdefault(_NUMBER.sub("*", part), [])
        for place, number in enumerate(_NUMBER.findall(part)):
            columns.extend([] for _ in range(place + 1 - len(columns)))
            columns[place].append(int(number))
    told = []
    for pattern, columns in found.items():
        for numbers in columns:
            pattern = pattern.replace("*", showing.ranges(numbers), 1)
        told.append(pattern)
    return ", ".join(told)


# Gates and notes


def _gate_rows(program: Program, layout: Layout, itemsize: int) -> list[Became]:
    """What gates read: a scalar product per token."""
    found = []
    for slot in program.slots:
        for item in (*slot.items, *slot.carried):
            if not isinstance(item, Probe):
                continue
            gate = item.gate
            assert gate.site is not None  # a gate's constructor fills it in
            width = layout.width(gate.site)
            tokens = "all" if gate.at == "token" else str(gate.positions)
            where = f"{slot.tap.module} ({slot.tap.side})"
            cost = 2 * width, width * itemsize
            found.append(Became(_gate_name(gate), str(gate.site), tokens, "", "hook, reads", where, "", 1, *cost))
    return found


def _gate_name(gate: Gate) -> str:
    return f"gate {gate.direction.name} {gate.side} {gate.threshold:g}"


def _notes(program: Program, model: nn.Module, layout: Layout) -> tuple[str, ...]:
    found = []
    probes = [item for slot in program.slots for item in (*slot.items, *slot.carried) if isinstance(item, Probe)]
    if probes or any(not edit.when.always for edit in program.edits):
        found.append(f"One more hook, on {layout.base}, tells which tokens of their rows a pass brings.")
    found += [
        f"One extra pass over the prompts, with nothing attached, decides the gate '{gate}'."
        for gate in program.gates
        if gate.prepass
    ]
    new = sum(_new_bias(fold, model) for fold in program.folds)
    if new:
        found.append(
            f"{counted(new, 'module')} {agreeing(new, 'has', 'have')} no bias of {agreeing(new, 'its', 'their')} own "
            f"and {agreeing(new, 'gets', 'get')} one: the product adds it as it goes."
        )
    return tuple(found)


def _new_bias(fold: Fold, model: nn.Module) -> bool:
    updates = [update for update in (fold.inner, fold.outer) if update is not None]
    if fold.kind != "linear" or not any(is_constant(one) or one.bias is not None for one in updates):
        return False
    return submodule(model, fold.path)._parameters.get("bias") is None
