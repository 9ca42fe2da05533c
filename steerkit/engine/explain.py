"""What a lowered program made of each update, and why, for a reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from steerkit.engine.program import Fate, Program

if TYPE_CHECKING:
    from torch import nn

    from steerkit.api.intervention import Gate


@dataclass(frozen=True)
class Became:
    """What became of one intervention's updates at like sites.

    Args:
        intervention: its name and direction.
        sites: where it is defined, as ranges of layers.
        when: at which tokens.
        became: ``folded``, ``dropped``, or which hook.
        where: modules, as ranges of layers.
        why: the reason, where there is one to tell.
        count: number of updates.
        flops_per_token: of all of them together, None where nobody knows (functions).
        bytes_per_token: that they read and write, likewise.
    """

    intervention: str
    sites: str
    when: str
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

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "hooks": self.hooks,
            "parameters": self.parameters,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        if not self.rows:
            return "Nothing is attached: no update changes anything."
        header = ("intervention", "at", "tokens", "became", "where", "FLOP/token", "bytes/token", "why")
        lines = [header, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        text.append(f"{self.hooks} modules hooked, {self.parameters} modules with swapped parameters.")
        return "\n".join([*text, *self.notes])


def _cells(row: Became) -> tuple[str, ...]:
    flops, moved = ("?" if n is None else f"{n:,}" for n in (row.flops_per_token, row.bytes_per_token))
    return row.intervention, row.sites, row.when, row.became, row.where, flops, moved, row.why


def explain(program: Program, model: nn.Module) -> Explanation:
    """Tell a program. Updates with the same fate share a row."""
    itemsize = next((p.element_size() for p in model.parameters() if p.is_floating_point()), 4)
    groups: dict[tuple[str, ...], list[Fate]] = {}
    for fate in program.fates:
        edit = fate.edit
        key = (edit.name, str(edit.when), edit.site.stream, fate.became, _pattern(fate.where), fate.why)
        groups.setdefault(key, []).append(fate)
    rows = tuple(_row(fates, itemsize) for fates in groups.values())
    hooked = len({(slot.tap.module, slot.tap.side) for slot in program.slots})
    return Explanation(rows, hooked, len({fold.path for fold in program.folds}), _notes(program.gates))


def _row(fates: Sequence[Fate], itemsize: int) -> Became:
    first = fates[0]
    known = all(
        fate.flops or fate.moved or not fate.became.startswith(("hook", "interp")) or fate.why for fate in fates
    )
    layers = [fate.edit.site.layer for fate in fates]
    site = str(first.edit.site) if len(fates) == 1 else f"blocks.{_ranges(layers)}.{first.edit.site.stream}"
    where = first.where if len(fates) == 1 else _pattern(first.where).replace("*", _ranges(_numbers(fates)), 1)
    return Became(
        first.edit.name,
        site,
        str(first.edit.when),
        first.became,
        where,
        first.why,
        len(fates),
        sum(fate.flops for fate in fates) if known else None,
        # A value is moved in the model's dtype; costs are noted for four bytes.
        sum(fate.moved for fate in fates) * itemsize // 4 if known else None,
    )


def _pattern(path: str) -> str:
    """A path with its first number left open, so that layers compare equal."""
    return ".".join("*" if part.isdigit() else part for part in path.split("."))


def _numbers(fates: Sequence[Fate]) -> list[int]:
    return [int(number) for fate in fates for number in [part for part in fate.where.split(".") if part.isdigit()][:1]]


def _ranges(numbers: Sequence[int]) -> str:
    """``0-3,7`` for 0, 1, 2, 3, 7."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def _notes(gates: Sequence[Gate]) -> tuple[str, ...]:
    return tuple(
        f"One extra pass over the prompts, with nothing attached, decides the gate '{gate}'."
        for gate in gates
        if gate.prepass
    )
