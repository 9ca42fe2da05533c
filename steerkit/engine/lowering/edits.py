"""What interventions mean on a model, before any lowering: one update at one site, and when it acts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import torch

from steerkit.api.architecture import Layout
from steerkit.api.intervention import Affine, Intervention, Placement, Update
from steerkit.engine.lowering.algebra import embedded, times
from steerkit.engine.sequence.when import When
from steerkit.errors import AttachError, PositionError, nearest
from steerkit.types import FROM_TOKEN, Site

if TYPE_CHECKING:
    from torch import Tensor

Mode: TypeAlias = Literal["auto", "fold", "hook", "interpret"]
MODES: tuple[Mode, ...] = ("auto", "fold", "hook", "interpret")

Steer: TypeAlias = Placement | Intervention | Sequence[Placement | Intervention] | None
"""What a row is steered by: nothing, an intervention, or several in this order. One that isn't placed acts at its own
sites and at all tokens."""


@dataclass(frozen=True, eq=False)
class Edit:
    """One update at one site.

    Args:
        site: where the update is defined; of one head, the site of all heads, of whose width the update is then.
        when: at which tokens, how much, under what condition.
        update: what happens there.
        name: of the intervention, for a reader.
        sources: places in the list of all edits of what it is made of.
        mode: how its interventions ask to be lowered.
        head: the head that was meant, for a reader; -1 for none in particular.
    """

    site: Site
    when: When
    update: Update
    name: str
    sources: tuple[int, ...] = ()
    mode: Mode = "auto"
    head: int = -1

    @property
    def stream(self) -> str:
        """The stream, with the head that was meant: ``head_out[5]``."""
        return self.site.stream if self.head < 0 else f"{self.site.stream}[{self.head}]"


def placements_to_lower(steer: Steer, placed: dict[int, Placement] | None = None) -> tuple[Placement, ...]:
    """What a row is steered by as a tuple of placements.

    Args:
        steer: what a user gave.
        placed: bare interventions that were placed before, by identity, so that rows with one of them share it.

    Raises:
        AttachError: for anything that isn't one.
    """
    if steer is None:
        return ()
    placed = {} if placed is None else placed
    listed = (steer,) if isinstance(steer, (Placement, Intervention)) else steer
    kinds = (Placement, Intervention)
    if not isinstance(listed, Sequence) or not all(isinstance(item, kinds) for item in listed):
        odd = listed if not isinstance(listed, Sequence) else next(i for i in listed if not isinstance(i, kinds))
        raise AttachError(
            f"steer takes interventions, one after the other, not {type(odd).__name__}. Build one with steerkit.add, "
            "steerkit.ablate or steerkit.intervention; unpack a list with *. In a list of conditions each is one of "
            "them, a list of them, or None."
        )
    return tuple(
        item if isinstance(item, Placement) else placed.setdefault(id(item), Placement(item)) for item in listed
    )


def edits_of(placements: Iterable[Placement], layout: Layout, modes: Sequence[Mode] = ()) -> list[Edit]:
    """Every update of interventions, in forward order of their sites, and at a site in the order given.

    Args:
        placements: interventions that act together.
        layout: the model's.
        modes: how each one asks to be lowered; ``auto`` if not given.

    Raises:
        SiteError: for a site that the model doesn't have.
        AttachError: for an update whose width isn't that of its site, or a gate behind what it decides.
        PositionError: for positions that a gate leaves nothing of.
    """
    found: list[tuple[int, Site, When, Update, str, Mode]] = []
    finite = Finite()
    # Equal circumstances are one object, so that what is worked out for them is worked out once.
    whens: dict[When, When] = {}
    order = layout.order
    for place, one in enumerate(placements):
        when = When(one.positions, one.schedule, one.gate)
        when = whens.setdefault(when, when)
        sites = one.sites_on(layout)
        _require_gate_fits_edits(when, sites, layout, order)
        name = str(one)
        mode = modes[place] if modes else "auto"
        if one.factor is not None and not (isinstance(one.factor, torch.Tensor) and one.factor.numel() == 1):
            raise AttachError(f"{name}: factor is a tensor of one element, or None.")
        scaled: dict[int, tuple[Update, Update]] = {}
        for site in sites:
            update = one.intervention.update(site, layout)
            require_update_fits(update, site, layout, finite)
            if update is None or (isinstance(update, Affine) and update.bias is None and update.reads is None):
                continue
            if one.factor is not None:
                # One object for all sites stays one object, so that what is worked out for it is worked out once.
                if id(update) not in scaled:
                    scaled[id(update)] = (update, times(update, one.factor))
                update = scaled[id(update)][1]
                require_update_fits(update, site, layout, finite)
            if site.head >= 0:
                update = embedded(update, layout.columns(site), layout.width(site.whole))
            found.append((order[site], site, when, update, name, mode))
    # Stable, so that interventions at one site keep their order.
    found.sort(key=lambda item: item[0])
    return [
        Edit(site.whole, when, update, name, (number,), mode, site.head)
        for number, (_, site, when, update, name, mode) in enumerate(found)
    ]


def _require_gate_fits_edits(when: When, sites: Sequence[Site], layout: Layout, order: dict[Site, int]) -> None:
    gate = when.gate
    if gate is None:
        return
    assert gate.site is not None  # a gate's constructor fills it in
    layout.require(gate.site)
    width = layout.width(gate.site)
    if gate.direction.vectors.shape[1] != width:
        raise AttachError(
            f"A gate at {gate.site} has a direction of width {gate.direction.vectors.shape[1]}, and the model's is "
            f"{width}. Was the direction estimated on another model?"
        )
    if not gate.prepass:
        early = [site for site in sites if order[site] < order[gate.site]]
        if early:
            raise AttachError(
                f"A gate at {gate.site} is decided behind {early[0]}, where it should decide already. Put the gate at "
                "an earlier site, or let it be decided on the prompt by an extra pass (at='prompt', prepass=True)."
            )
    if when.generated_only and when.positions.role not in ("all", "generated", "completion", FROM_TOKEN):
        raise PositionError(
            f"Positions '{when.positions}' lie in the prompt, and a gate that the prompt decides edits generated "
            "tokens only. Use 'all' or 'generated', or allow an extra pass over the prompt (prepass=True)."
        )


_OR_AT_A_HEAD: Final = ", or at a head? What is a head's acts at its own site: name it as sites."


class Finite:
    """Whether tensors are finite; each is looked at once, however many sites it stands at."""

    def __init__(self) -> None:
        # The tensor is kept beside the answer, since another one could get its identity.
        self._known: dict[int, tuple[Tensor, bool]] = {}

    def holds(self, value: Tensor) -> bool:
        """Whether every element is finite."""
        if id(value) not in self._known:
            # A sum that is finite has no other terms; one that isn't may just be large.
            finite = math.isfinite(float(value.detach().sum())) or bool(torch.isfinite(value).all())
            self._known[id(value)] = value, finite
        return self._known[id(value)][1]


def require_update_fits(update: Update | None, site: Site, layout: Layout, finite: Finite) -> None:
    """Raise ``AttachError`` where an update doesn't fit its site."""
    if not isinstance(update, Affine):
        return
    width = layout.width(site)
    values: dict[str, Tensor | None] = {"reads": update.reads, "writes": update.writes, "bias": update.bias}
    for name, value in values.items():
        if value is None:
            continue
        if value.shape[-1] != width:
            raise AttachError(
                f"An update at {site} has {name} of width {value.shape[-1]}, and the model's is {width}. "
                f"Was the direction estimated on another model{_OR_AT_A_HEAD if value.shape[-1] < width else '?'}"
            )
        if value.is_complex():
            raise AttachError(f"An update at {site} has {name} of complex numbers, and the stream is of real ones.")
        if not finite.holds(value):
            raise AttachError(f"An update at {site} has {name} with NaN or infinite values.")
    if (update.reads is None) != (update.writes is None):
        raise AttachError(f"An update at {site} has reads without writes, or writes without reads.")


def require_mode(mode: str) -> None:
    """Raise ``AttachError`` for a mode that isn't there."""
    if mode not in MODES:
        raise AttachError(f"Unknown mode {mode!r}. {nearest(str(mode), MODES, 'mode')}")
