"""Programs that tests make by hand."""

from __future__ import annotations

from typing import Any

import torch

from steerkit.api.program import Program, ProgramModel, ProgramMonitor, ProgramUpdate
from steerkit.types import Positions, Schedule, Site

WIDTH, LAYERS = 8, 3
MODEL = ProgramModel("llama", LAYERS, WIDTH, "somewhere", "ab" * 32)


def vector(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape or (WIDTH,), generator=torch.Generator().manual_seed(seed))


def unit(seed: int) -> torch.Tensor:
    found = vector(seed)
    return found / found.norm()


def update(site: str, seed: int = 0, rank: int = 1, positions: str = "all", schedule: Any = None) -> ProgramUpdate:
    reads = vector(seed, rank, WIDTH) if rank else None
    writes = vector(seed + 100, rank, WIDTH) if rank else None
    return ProgramUpdate(
        Site.parse(site), reads, writes, vector(seed + 200), Positions.parse(positions), Schedule.parse(schedule)
    )


def program(**changes: Any) -> Program:
    shared = vector(1, 2, WIDTH)
    updates = (
        ProgramUpdate(Site.parse("embed"), shared, -shared),
        ProgramUpdate(Site.parse("blocks.0.mlp_out"), shared, -shared),
        update("blocks.1.resid_post", 2, positions="generated[:3]", schedule="linear(1, 0, 4)"),
    )
    monitors = (ProgramMonitor("watch", {Site.parse("blocks.1.resid_post"): unit(5)}, 0.5, "below"),)
    return Program(**{"name": "warm", "model": MODEL, "updates": updates, "monitors": monitors} | changes)
