"""A lowered condition: what is hooked, in forward order, and what goes into parameters."""

from __future__ import annotations

from dataclasses import dataclass

from steerkit.api.architecture import Tap
from steerkit.api.intervention import Gate
from steerkit.engine.lowering.edits import Edit
from steerkit.engine.lowering.fold import Fold
from steerkit.engine.lowering.places import Fate, Probe
from steerkit.types import Site


@dataclass(frozen=True, eq=False)
class Step:
    """One update of a value.

    Args:
        parts: the update, for all rows; or one for each row, None where the row has none.
    """

    parts: tuple[Edit | None, ...]

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The updates that are there."""
        return tuple(part for part in self.parts if part is not None)


@dataclass(frozen=True, eq=False)
class Slot:
    """All that happens at one tap, in order.

    Args:
        site: the first site that is edited there.
        tap: the value that is replaced.
        items: what happens to it.
        carried: what then happens to the sum of it, times ``factor``, and ``resid_pre``'s value, times ``keep``; by
            how much the sum changes, the value does.
        resid_pre: that tap, where anything is carried.
        factor: on the value in that sum.
        keep: on ``resid_pre``'s value in that sum.
        literal: carry out as defined, one token at a time.
    """

    site: Site
    tap: Tap
    items: tuple[Step | Probe, ...]
    carried: tuple[Step | Probe, ...] = ()
    resid_pre: Tap | None = None
    literal: bool = False
    factor: float = 1.0
    keep: float = 1.0

    @property
    def edits(self) -> tuple[Edit, ...]:
        """Every update."""
        return tuple(edit for item in (*self.items, *self.carried) if isinstance(item, Step) for edit in item.edits)


@dataclass(frozen=True, eq=False)
class Program:
    """A lowered condition, or one for each row. Empty when nothing would change: then nothing is attached.

    Args:
        slots: what is hooked, in forward order.
        folds: what goes into parameters.
        fates: what became of each update, for ``explain``; none for rows.
        n_rows: rows that the steps are for, or None where all are alike.
    """

    slots: tuple[Slot, ...] = ()
    folds: tuple[Fold, ...] = ()
    fates: tuple[Fate, ...] = ()
    n_rows: int | None = None

    @property
    def edits(self) -> tuple[Edit, ...]:
        """Every update that is hooked."""
        return tuple(edit for slot in self.slots for edit in slot.edits)

    @property
    def gates(self) -> tuple[Gate, ...]:
        """Every gate."""
        found = (edit.when.gate for edit in self.edits if edit.when.gate is not None)
        return tuple({id(gate): gate for gate in found}.values())

    @property
    def empty(self) -> bool:
        """Whether nothing is put on the model."""
        return not self.slots and not self.folds
