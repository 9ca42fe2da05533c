"""The requests of a pass: which tokens of which request it holds, what each weighs, and what is read of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isnan, nan
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from steerkit.api.program_tokens import TokenWeights
from steerkit.errors import AttachError
from steerkit.types import Schedule
from steerkit_vllm.asking import Asked

if TYPE_CHECKING:
    from steerkit_vllm.bank import Bank, Loaded


@dataclass(frozen=True)
class Chunk:
    """The tokens of one request in a pass.

    Args:
        request: its id.
        first: the place of the first one in the request's sequence.
        number: how many there are.
    """

    request: str
    first: int
    number: int


@dataclass(eq=False)
class Steered:
    """A request that is steered.

    Args:
        asked: what it asked for.
        loaded: its program.
        weights: of every token, for each of the program's slots.
        read: of every token, whether each monitor reads it.
        readings: of each monitor, by place in the sequence.
    """

    asked: Asked
    loaded: Loaded
    weights: tuple[TokenWeights, ...]
    read: dict[str, TokenWeights] = field(default_factory=dict)
    readings: dict[str, dict[int, float]] = field(default_factory=dict)

    @cached_property
    def settled(self) -> tuple[int, NDArray[np.float64]] | None:
        """From which token on each has the same weights, and which: most tokens are generated, one at a time."""
        known = [found for one in self.weights if (found := one.settled) is not None]
        if len(known) < len(self.weights):
            return None
        return max((since for since, _ in known), default=0), np.array([weight for _, weight in known])

    def weights_of(self, chunk: Chunk) -> NDArray[np.float64]:
        """``[tokens, slots]``, or ``[slots]`` where all tokens of a chunk have the same."""
        if self.settled is not None and chunk.first >= self.settled[0]:
            return self.settled[1]
        stop = chunk.first + chunk.number
        return np.stack([one.of(chunk.first, stop) for one in self.weights], 1)


class Requests:
    """The steered requests of a worker, from their first pass to their last.

    Args:
        bank: places and programs.
        kept: finished requests whose readings are kept.
    """

    def __init__(self, bank: Bank, kept: int) -> None:
        self.bank, self.kept = bank, kept
        self.steered: dict[str, Steered] = {}
        self.finished: OrderedDict[str, dict[str, dict[int, float]]] = OrderedDict()

    def add(self, request: str, asked: Asked | None, prompt_length: int) -> None:
        """A request that comes in, or comes again with another prompt.

        Raises:
            AttachError: where its program isn't loaded: it would be served unsteered.
            PositionError: where its prompt hasn't the tokens that its program acts at.
        """
        self.drop(request)
        if asked is None:
            return
        loaded = self.bank.loaded.get(asked.program)
        if loaded is None:
            raise AttachError(
                f"Request {request} asks for program {asked.program}, which isn't loaded here. Whoever takes requests "
                "in must refuse it before it is scheduled."
            )
        weights = tuple(TokenWeights(term.weight, prompt_length, asked.turns) for term in loaded.terms)
        found = Steered(asked, loaded, weights)
        if asked.read:
            # One that was put aside and comes again goes on from what it has read.
            one = self.finished.pop(asked.read, {})
            for monitor in loaded.program.monitors:
                when = ((monitor.positions, Schedule()),)
                found.read[monitor.name] = TokenWeights(when, prompt_length, asked.turns)
                found.readings[monitor.name] = one.get(monitor.name, {})
        self.steered[request] = found
        loaded.users.add(request)

    def drop(self, request: str) -> None:
        """A request that is over; its readings are kept for a while."""
        found = self.steered.pop(request, None)
        if found is None:
            return
        found.loaded.users.discard(request)
        if found.readings and self.kept:
            self.finished[found.asked.read] = found.readings
            self.finished.move_to_end(found.asked.read)
            while len(self.finished) > self.kept:
                self.finished.popitem(last=False)

    def begin(self, chunks: Sequence[Chunk]) -> None:
        """Fill the bank's weights for a pass over these tokens, side by side in this order."""
        present = [(chunk, self.steered.get(chunk.request)) for chunk in chunks]
        digests = {one.asked.program for _, one in present if one is not None}
        total = sum(chunk.number for chunk in chunks) if digests else 0
        weights = np.zeros((total, self.bank.settings.slots))
        at = 0
        for chunk, one in present:
            if one is not None:
                weights[at : at + chunk.number, list(one.loaded.slots)] = one.weights_of(chunk)
            at += chunk.number
        self.bank.begin(torch.from_numpy(weights), digests)

    def rest(self) -> None:
        """Between passes nothing is steered: what an engine runs by itself, to warm up, has no requests."""
        for place in self.bank.places.values():
            place.is_active = False

    def end(self, chunks: Sequence[Chunk]) -> None:
        """Keep what monitors read in the pass that has just been made."""
        at = 0
        for chunk in chunks:
            one = self.steered.get(chunk.request)
            if one is not None and one.read:
                self._keep(one, chunk, slice(at, at + chunk.number))
            at += chunk.number

    def _keep(self, one: Steered, chunk: Chunk, rows: slice) -> None:
        for monitor in one.loaded.program.monitors:
            columns = []
            for site in monitor.vectors:
                place = self.bank.places[site]
                column = list(place.vectors).index((one.asked.program, monitor.name))
                columns.append(place.readings[rows, column].cpu().numpy())
            furthest = np.max(columns, 0) if monitor.side == "above" else np.min(columns, 0)
            read = one.read[monitor.name].of(chunk.first, chunk.first + chunk.number)
            for place_in_row, (value, weight) in enumerate(zip(furthest, read, strict=True)):
                if weight:
                    one.readings[monitor.name][chunk.first + place_in_row] = float(value)

    def take_readings(self, tag: str) -> dict[str, Any]:
        """Readings of the request that asked for them under a tag, once, as ``steerkit_readings`` tells them.

        Raises:
            AttachError: where there are none: nobody asked, or they were taken or dropped.
        """
        found = self.finished.pop(tag, None)
        for one in self.steered.values():
            if found is None and one.read and one.asked.read == tag:
                found, one.readings, one.read = one.readings, {}, {}
        if found is None:
            raise AttachError(f"No readings of {tag!r} are kept: nobody asked for them, or they are gone.")
        return {name: _told(values) for name, values in found.items()}


def _told(values: dict[int, float]) -> dict[str, Any]:
    if not values:
        return {"first": 0, "values": []}
    first, last = min(values), max(values)
    listed = [values.get(place, nan) for place in range(first, last + 1)]
    return {"first": first, "values": [None if isnan(value) else value for value in listed]}
