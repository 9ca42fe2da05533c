"""The matrices of all loaded programs at a place, and one weight per token and slot: plain torch, no vLLM.

A place holds ``reads`` and ``writes`` ``[rows, d_model]``, ``bias`` ``[slots, d_model]``, and for each row the slot
whose weight it has. Addresses stay, so a graph that was recorded once reads what is loaded later. A slot is one term of
one program (see ``terms``); tokens of other programs and of none have weight 0 there, which changes no value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steerkit.api.program_tokens import require_served
from steerkit.errors import AttachError, agreeing, counted, listed
from steerkit.types import HEAD_OUT, Positions, Site
from steerkit_vllm.terms import Part, Term, terms_of

if TYPE_CHECKING:
    from steerkit.api.program import Program
    from steerkit_vllm.settings import Settings


class Place:
    """A value of the stream that can be edited and read, and what all programs do there.

    Args:
        site: a site that is edited there.
        width: of the stream.
        settings: how much there is room for.
        max_tokens: most tokens of a pass.
        like: its dtype and device.
    """

    def __init__(self, site: Site, width: int, settings: Settings, max_tokens: int, like: Tensor) -> None:
        self.site = site
        self.key = like.new_zeros(1)
        """What the operation is handed in place of everything: where it lies is what it is known by."""
        self.reads = like.new_zeros(settings.rows, width)
        self.writes = like.new_zeros(settings.rows, width)
        self.bias = like.new_zeros(settings.slots, width)
        self.slot_of_row = torch.zeros(settings.rows, dtype=torch.long, device=like.device)
        self.monitors = like.new_zeros(settings.monitors, width)
        self.readings = torch.zeros(max_tokens, settings.monitors, dtype=torch.float32, device=like.device)
        self.parts: dict[int, Part] = {}
        """What each slot does here."""
        self.vectors: dict[tuple[str, str], Tensor] = {}
        """What each program's monitors read along here, in the order of their columns."""
        self.rows_used = 0
        self.has_bias = False
        self.is_active = False
        """Whether any token of this pass is edited or read here."""
        self.runs = 0

    @property
    def free_rows(self) -> int:
        """How many more directions can be read."""
        return len(self.reads) - sum(_rank(part) for part in self.parts.values())

    def set_up(self) -> None:
        """Write what is loaded into the matrices, rows side by side from the first on."""
        self.reads.zero_()
        self.writes.zero_()
        self.bias.zero_()
        self.slot_of_row.zero_()
        row = 0
        for slot, part in sorted(self.parts.items()):
            if part.reads is not None and part.writes is not None:
                rows = slice(row, row + len(part.reads))
                self.reads[rows].copy_(part.reads)
                self.writes[rows].copy_(part.writes)
                self.slot_of_row[rows] = slot
                row = rows.stop
            if part.bias is not None:
                self.bias[slot].copy_(part.bias)
        self.rows_used = row
        self.has_bias = any(part.bias is not None for part in self.parts.values())
        self.monitors.zero_()
        for column, vector in enumerate(self.vectors.values()):
            self.monitors[column].copy_(vector)

    def edit_(self, x: Tensor, base: Tensor | None, weights: Tensor) -> None:
        """``x ← x + ((s Aᵀ) ∘ W) Q + W b`` in place, with ``s`` the stream: ``x``, or ``x + base``; then read it.

        Args:
            x: ``[tokens, width]``, the stream, or what is about to be added to it.
            base: what it is added to, or None.
            weights: ``[tokens, slots]``.
        """
        # A graph replays what was recorded, so there everything is computed, whatever is loaded.
        skips = x.device.type == "cpu"
        rows = self.rows_used if skips else len(self.reads)
        if rows:
            stream = x if base is None else x + base
            change = stream @ self.reads[:rows].T
            by_row = weights[:, self.slot_of_row[:rows]]
            # What overflows in somebody else's product is no number of this token's.
            change = torch.where(by_row == 0, 0, change * by_row)
            x.addmm_(change, self.writes[:rows])
        if self.has_bias or not skips:
            x.addmm_(weights, self.bias)
        if len(self.monitors) and (self.vectors or not skips):
            stream = x if base is None else x + base
            self.readings[: len(x)] = stream @ self.monitors.T


@dataclass(eq=False)
class Loaded:
    """A program in a bank.

    Args:
        program: the program.
        terms: what it is.
        slots: one for each term.
        users: requests that have it.
    """

    program: Program
    terms: tuple[Term, ...]
    slots: tuple[int, ...]
    users: set[str] = field(default_factory=set)


class Bank:
    """All places, all loaded programs, and the weights of the present pass.

    Args:
        sites: the places that there are, in forward order.
        width: of the stream.
        n_layers: number of blocks.
        settings: how much there is room for.
        max_tokens: most tokens of a pass.
        like: a tensor of the model's dtype and device.
    """

    def __init__(
        self,
        sites: Iterable[Site],
        width: int,
        n_layers: int,
        settings: Settings,
        max_tokens: int,
        like: Tensor,
    ) -> None:
        self.width, self.n_layers, self.settings = width, n_layers, settings
        self.places = {site: Place(site, width, settings, max_tokens, like) for site in sites}
        self.weights = like.new_zeros(max_tokens, settings.slots)
        self.loaded: dict[str, Loaded] = {}
        self._weighed = False

    @property
    def on_cpu(self) -> bool:
        """Whether the operation's code runs in every pass, and not a graph that was recorded of it."""
        return self.weights.device.type == "cpu"

    @property
    def free_slots(self) -> tuple[int, ...]:
        """Those that no program has."""
        taken = {slot for one in self.loaded.values() for slot in one.slots}
        return tuple(slot for slot in range(self.settings.slots) if slot not in taken)

    def load(self, program: Program) -> Loaded:
        """Take in a program; one with the same content is there once.

        Raises:
            AttachError, PositionError: for what can't be served, or where there is no room, in words; nothing is
                changed then.
        """
        if program.digest in self.loaded:
            return self.loaded[program.digest]
        self._require_fits(program)
        terms = terms_of(program)
        self._require_held(program, terms)
        free = self.free_slots
        if len(terms) > len(free):
            raise AttachError(
                f"Program {program.name!r} takes {counted(len(terms), 'slot')}, and {len(free)} of "
                f"{self.settings.slots} {agreeing(len(free))} free. Free a program, or start the engine with more "
                "slots."
            )
        found = Loaded(program, terms, free[: len(terms)])
        self._require_rows(found)
        for slot, term in zip(found.slots, terms, strict=True):
            for site, part in term.at.items():
                self.places[site].parts[slot] = part
        for monitor in program.monitors:
            for site, vector in monitor.vectors.items():
                self.places[site].vectors[program.digest, monitor.name] = vector
        self._set_up(program)
        self.loaded[program.digest] = found
        return found

    def free(self, digest: str) -> bool:
        """Give a program's room back; whether it was there.

        Raises:
            AttachError: while a request has it.
        """
        found = self.loaded.get(digest)
        if found is None:
            return False
        if found.users:
            raise AttachError(
                f"Program {found.program.name!r} is in use by {counted(len(found.users), 'request')}. Free it when "
                "nobody has it."
            )
        del self.loaded[digest]
        for site in _places_of(found.program):
            place = self.places[site]
            place.parts = {slot: part for slot, part in place.parts.items() if slot not in found.slots}
            place.vectors = {key: vector for key, vector in place.vectors.items() if key[0] != digest}
        self._set_up(found.program)
        return True

    def begin(self, weights: Tensor, digests: Iterable[str]) -> None:
        """What the coming pass does.

        Args:
            weights: ``[tokens, slots]`` on the CPU; tokens behind them have none.
            digests: programs of its requests.
        """
        active = {site for digest in digests for site in _places_of(self.loaded[digest].program)}
        for site, place in self.places.items():
            place.is_active = site in active
        if active or self._weighed:
            self.weights.zero_()
            self.weights[: len(weights)].copy_(weights)
        self._weighed = bool(active)

    def _set_up(self, program: Program) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for site in _places_of(program):
                self.places[site].set_up()

    def _require_fits(self, program: Program) -> None:
        model = program.model
        if (model.d_model, model.n_layers) != (self.width, self.n_layers):
            raise AttachError(
                f"Program {program.name!r} was made for a model of {counted(model.n_layers, 'block')} and width "
                f"{model.d_model} ({model.source or model.model_type}), and this one has {self.n_layers} and "
                f"{self.width}. Export it from a run on this model."
            )
        for site in _places_of(program):
            if site not in self.places:
                raise AttachError(f"Program {program.name!r} can't be served: {self._why(site)}")
        for positions in _positions(program):
            require_served(positions)

    def _require_held(self, program: Program, terms: Iterable[Term]) -> None:
        """Raise ``AttachError`` for numbers that the model's dtype doesn't hold: times a weight of 0 infinity is no
        number, and would be added to the tokens of everybody."""
        parts = {id(part): part for term in terms for part in term.at.values()}
        for part in parts.values():
            for value in (part.reads, part.writes, part.bias):
                if value is not None and not bool(value.to(self.weights.dtype).isfinite().all()):
                    dtype = str(self.weights.dtype).removeprefix("torch.")
                    raise AttachError(
                        f"Program {program.name!r} holds numbers as large as {float(value.abs().max()):g}, and this "
                        f"engine computes in {dtype}, which ends at {torch.finfo(self.weights.dtype).max:g}. Start the "
                        "engine with --dtype float32."
                    )

    def _why(self, site: Site) -> str:
        if site.stream == HEAD_OUT:
            instead = Site("attn_out", site.layer)
            return f"{site} is within attention, which the engine computes as a whole. Edit {instead}."
        known = listed(sorted({one.stream for one in self.places}))
        return f"{site} wasn't prepared; {known} are. Start the engine with that stream among its streams."

    def _require_rows(self, found: Loaded) -> None:
        """Raise ``AttachError`` where a place has too few rows or columns left."""
        for site in _places_of(found.program):
            place = self.places[site]
            rank = sum(_rank(term.at.get(site)) for term in found.terms)
            if rank > place.free_rows:
                raise AttachError(
                    f"Program {found.program.name!r} reads {counted(rank, 'direction')} at {site}, and "
                    f"{place.free_rows} of {self.settings.rows} rows are left. Free a program, or start the engine "
                    "with more rows."
                )
            reading = sum(site in monitor.vectors for monitor in found.program.monitors)
            left = self.settings.monitors - len(place.vectors)
            if reading > left:
                raise AttachError(
                    f"{counted(reading, 'monitor')} of program {found.program.name!r} would read {site}, and there is "
                    f"room for {left} more. Free a program, or start the engine with more monitors."
                )


def _rank(part: Part | None) -> int:
    return 0 if part is None or part.reads is None else len(part.reads)


def _places_of(program: Program) -> Sequence[Site]:
    return tuple(dict.fromkeys((*program.sites, *program.read_at)))


def _positions(program: Program) -> Iterable[Positions]:
    return dict.fromkeys([*(one.positions for one in program.updates), *(one.positions for one in program.monitors)])
