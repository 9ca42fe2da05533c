"""A condition lowered to a model: which updates happen at which tap, in which order.

A site is where an update is defined; a slot is where it is carried out. Most sites are their own
slot. ``resid_mid`` is not: both the MLP and the residual branch must see the new value, so it is
carried out at the first writer, ``attn_out ← f(resid_pre + attn_out) − resid_pre``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steerkit.api.architecture import Layout, Tap
from steerkit.api.intervention import Affine, Intervention, Update
from steerkit.errors import AttachError
from steerkit.types import RESID_MID, Positions, Site


@dataclass(frozen=True, eq=False)
class Edit:
    """One update at one site.

    Args:
        site: where the update is defined.
        positions: at which tokens.
        update: what happens there.
    """

    site: Site
    positions: Positions
    update: Update


@dataclass(frozen=True, eq=False)
class Slot:
    """All that happens at one tap, in order.

    Args:
        tap: the value that is replaced.
        edits: in the order in which interventions were given.
        resid_pre: for ``resid_mid``, the tap whose value is added before the edits and subtracted after.
    """

    tap: Tap
    edits: tuple[Edit, ...]
    resid_pre: Tap | None = None


@dataclass(frozen=True, eq=False)
class Program:
    """A lowered condition. Empty when nothing would change: then nothing is attached."""

    slots: tuple[Slot, ...]

    @property
    def edits(self) -> tuple[Edit, ...]:
        """Every update, slot by slot."""
        return tuple(edit for slot in self.slots for edit in slot.edits)


def lower(interventions: Iterable[Intervention], layout: Layout) -> Program:
    """Lower interventions to a model's layout.

    Raises:
        SiteError: for a site that the model doesn't have.
        AttachError: for an update whose width isn't that of its site.
    """
    edits: list[Edit] = []
    for intervention in interventions:
        for site in intervention.sites(layout):
            update = intervention.update(site)
            if update is not None:
                _check(update, site, layout)
                edits.append(Edit(site, intervention.positions, update))
    return Program(tuple(_slots(edits, layout)))


def _slots(edits: Sequence[Edit], layout: Layout) -> list[Slot]:
    by_site: dict[Site, list[Edit]] = {}
    for edit in edits:
        by_site.setdefault(edit.site, []).append(edit)
    # In forward order, a writer's own edits come before those of resid_mid, which reads its result.
    ordered = sorted(by_site, key=layout.sites().index)
    slots = []
    for site in ordered:
        if site.stream == RESID_MID:
            block = layout.blocks[site.layer]
            slots.append(Slot(block.writers[0].tap, tuple(by_site[site]), Tap(block.module, "input")))
        else:
            slots.append(Slot(layout.tap(site), tuple(by_site[site])))
    return slots


def _check(update: Update, site: Site, layout: Layout) -> None:
    if not isinstance(update, Affine):
        return
    width = layout.width(site)
    for name, value in (("reads", update.reads), ("writes", update.writes), ("bias", update.bias)):
        if value is None:
            continue
        if value.shape[-1] != width:
            raise AttachError(
                f"An update at {site} has {name} of width {value.shape[-1]}, and the model's is {width}. "
                "Was the direction estimated on another model?"
            )
        if not bool(torch.isfinite(value).all()):
            raise AttachError(f"An update at {site} has {name} with NaN or infinite values.")
    if (update.reads is None) != (update.writes is None):
        raise AttachError(f"An update at {site} has reads without writes, or writes without reads.")


def apply_update(update: Update, x: Tensor) -> Tensor:
    """Carry out an update literally on ``[*, d_model]``. Never writes into ``x``."""
    if not isinstance(update, Affine):
        return update.function(x)
    new = x
    if update.reads is not None and update.writes is not None:
        new = new + (x @ update.reads.T) @ update.writes
    return new if update.bias is None else new + update.bias
