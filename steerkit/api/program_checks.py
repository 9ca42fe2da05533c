"""What a program must be, so that nobody who carries it out needs to ask."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from steerkit.errors import ArtifactError, counted
from steerkit.types import HEAD_OUT, RESID_PRE, Site

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.api.program import Program, ProgramModel, ProgramMonitor, ProgramUpdate

UNIT: float = 1e-5
"""How far a monitor's vector may be from norm 1."""


def check_program(program: Program) -> None:
    """Raise ``ArtifactError`` where a program isn't one, naming what is wrong with it."""
    _check_words(program)
    seen: set[int] = set()
    for what, value in program.tensors():
        if id(value) not in seen:
            _check_tensor(what, value)
            seen.add(id(value))
    for update in program.updates:
        _check_update(update, program.model)
    names = [one.name for one in program.monitors]
    for monitor in program.monitors:
        if names.count(monitor.name) > 1:
            raise ArtifactError(f"Two monitors of a program are called {monitor.name!r}. Give each a name of its own.")
        _check_monitor(monitor, program.model)


def _check_words(program: Program) -> None:
    model = program.model
    if not isinstance(program.name, str) or not program.name:
        raise ArtifactError(f"A program's name is a text that it goes by, not {program.name!r}.")
    if not isinstance(model.model_type, str) or not model.model_type:
        raise ArtifactError("A program says for which type of model it was made, as in 'llama'.")
    for what, number in (("blocks", model.n_layers), ("width", model.d_model)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ArtifactError(f"A program says how many {what} its model has, from 1 up, not {number!r}.")


def _check_tensor(what: str, value: Tensor) -> None:
    import torch

    if not isinstance(value, torch.Tensor) or value.dtype is not torch.float32 or value.device.type != "cpu":
        raise ArtifactError(f"A program's tensors are float32 on the CPU; {what} is none.")
    if not bool(torch.isfinite(value).all()):
        raise ArtifactError(f"A program's {what} has NaN or infinite values.")


def _check_update(update: ProgramUpdate, model: ProgramModel) -> None:
    site = update.site
    _check_site(site, model)
    if (update.reads is None) != (update.writes is None):
        raise ArtifactError(f"A program's update at {site} has reads without writes, or writes without reads.")
    if update.reads is None and update.bias is None:
        raise ArtifactError(f"A program's update at {site} does nothing. Leave it out.")
    width = None if site.stream == HEAD_OUT else model.d_model
    for part, axes in (("reads", 2), ("writes", 2), ("bias", 1)):
        value = getattr(update, part)
        if value is None:
            continue
        width = value.shape[-1] if width is None else width
        if value.dim() != axes or value.shape[-1] != width or 0 in value.shape:
            wanted = f"[rank, {width}]" if axes == 2 else f"[{width}]"
            raise ArtifactError(f"A program's {part} at {site} has shape {list(value.shape)}, not {wanted}.")
    if update.reads is not None and update.writes is not None and update.reads.shape != update.writes.shape:
        raise ArtifactError(
            f"A program's update at {site} reads {counted(len(update.reads), 'direction')} and writes "
            f"{len(update.writes)}; they are as many."
        )


def _check_site(site: Site, model: ProgramModel) -> None:
    if site.head >= 0:
        raise ArtifactError(f"A program edits all heads side by side, so it has no site {site}. Export it again.")
    if site.layer >= model.n_layers:
        raise ArtifactError(f"A program's model has {counted(model.n_layers, 'block')}, so {site} isn't there.")
    if site.stream == RESID_PRE and site.layer > 0:
        after = Site("resid_post", site.layer - 1)
        raise ArtifactError(f"A program edits {site} where it comes from, at {after}. Export it again.")


def _check_monitor(monitor: ProgramMonitor, model: ProgramModel) -> None:
    called = f"A program's monitor {monitor.name!r}"
    if not isinstance(monitor.name, str) or not monitor.name:
        raise ArtifactError("A program's monitor has a name that readings go by.")
    if monitor.side not in ("above", "below") or not isfinite(monitor.threshold):
        raise ArtifactError(f"{called} is above or below a finite threshold.")
    if not monitor.vectors:
        raise ArtifactError(f"{called} reads nowhere. Name its sites.")
    for site, vector in monitor.vectors.items():
        _check_site(site, model)
        if vector.dim() != 1 or (site.stream != HEAD_OUT and vector.shape[0] != model.d_model):
            raise ArtifactError(f"{called} at {site} has shape {list(vector.shape)}, not [{model.d_model}].")
        if abs(float(vector.norm()) - 1) > UNIT:
            raise ArtifactError(f"{called} at {site} reads along a vector of norm {float(vector.norm()):g}, not 1.")
