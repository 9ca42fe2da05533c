"""Requests on a model of vLLM's shape, steered as the worker does it, and what the oracle says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steerkit.api.program import Program, ProgramModel
from steerkit.engine.lowering.edits import placements_to_lower
from steerkit.exporting.lowered import program_of
from steerkit.session.model import LiveModel
from steerkit.testing.oracle import oracle_logits
from steerkit_vllm.asking import Asked
from steerkit_vllm.bank import Bank
from steerkit_vllm.batch import Chunk, Requests
from steerkit_vllm.op import unregister
from steerkit_vllm.places import sites_of, spots_of
from steerkit_vllm.settings import Settings
from steerkit_vllm.wrapping import wrap
from tests.steerkit_vllm.shaped import Shaped


@dataclass
class Row:
    """A request: its tokens, how many of them are its prompt, and its condition."""

    ids: list[int]
    prompt: int
    condition: Any = None
    turns: tuple[tuple[str, int, int], ...] = ()

    def wanted(self, live: LiveModel) -> Tensor:
        user = next(((start, stop) for role, start, stop in reversed(self.turns) if role == "user"), None)
        return oracle_logits(live, self.ids, self.condition, prompt_length=self.prompt, instruction=user)


def program_for(live: LiveModel, condition: Any, name: str = "it", monitors: Any = ()) -> Program:
    layout = live.layout
    model = ProgramModel(live.facts.model_type, layout.n_layers, layout.d_model)
    return program_of(placements_to_lower(condition), layout, model, name, monitors)


class Served:
    """A model of vLLM's shape with everything prepared; ``close`` takes it all off."""

    def __init__(self, live: LiveModel, rows: int, settings: Settings | None = None, tokens: int = 512) -> None:
        self.live, self.settings = live, settings or Settings()
        self.model = Shaped(live, rows)
        spots = spots_of(self.model, self.settings.streams)
        layout = live.layout
        self.bank = Bank(sites_of(spots), layout.d_model, layout.n_layers, self.settings, tokens, torch.zeros(0))
        self.handles = wrap(self.model, spots, self.bank)
        self.requests = Requests(self.bank, self.settings.readings)
        self.forward: Any = self.model

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()
        unregister(self.bank)

    def add(self, rows: Sequence[Row], read: bool = False, monitors: Any = ()) -> None:
        known: dict[int, Program] = {}
        for number, row in enumerate(rows):
            if row.condition is None and not monitors:
                self.requests.add(str(number), None, row.prompt)
                continue
            if id(row.condition) not in known:
                known[id(row.condition)] = program_for(self.live, row.condition or (), monitors=monitors)
            program = known[id(row.condition)]
            self.bank.load(program)
            asked = Asked(program.digest, row.turns, f"tag-{number}" if read else "")
            self.requests.add(str(number), asked, row.prompt)

    def logits(self, rows: Sequence[Row]) -> list[Tensor]:
        """Of each row ``[len, vocabulary]``, in one pass; behind short rows is padding that nobody asked for."""
        width = max(len(row.ids) for row in rows)
        ids = torch.tensor([token for row in rows for token in [*row.ids, *[0] * (width - len(row.ids))]])
        chunks = [
            chunk
            for number, row in enumerate(rows)
            for chunk in (Chunk(str(number), 0, len(row.ids)), Chunk("nobody", 0, width - len(row.ids)))
        ]
        with torch.no_grad():
            self.requests.begin(chunks)
            found = self.forward(ids).reshape(len(rows), width, -1)
            self.requests.end(chunks)
            self.requests.rest()
        return [found[number, : len(row.ids)] for number, row in enumerate(rows)]
