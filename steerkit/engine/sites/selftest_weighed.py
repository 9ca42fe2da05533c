"""Whether experts are all that a contribution is made of, and it linear in each: folding takes that for granted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from steerkit.engine.sites.selftest_passes import Bench, Trace, copy_into
from steerkit.engine.sites.taps import Handler, submodule
from steerkit.types import RESID_PRE, Site

if TYPE_CHECKING:
    from steerkit.api.architecture import Writer


def rolled(value: Tensor, axis: int = -1) -> Tensor:
    """Twice the value, with each entry one place further along an axis.

    A product with a matrix, which neither passes a norm nor changes places with a factor for each entry.
    """
    return 2 * value.roll(1, axis)


def weighed_contributions(on: Bench, trace: Trace) -> Iterator[tuple[Site, Tensor, Tensor]]:
    """For each writer that names what is weighed: its site, what it adds with all of that rolled, and what it should.

    A layer at a time, with what goes into the block as it was. Where a parameter is no plain tensor in memory nothing
    is folded, and nothing is tried.
    """
    for layer, block in enumerate(on.layout.blocks):
        for writer in block.writers:
            parts = _parts(on.model, writer)
            if not parts:
                continue
            site, first, seen = Site(writer.stream, layer), Site(RESID_PRE, layer), list[Tensor]()
            with _swapped(parts):
                on.run([(on.taps[first], _giving(trace[first])), (on.taps[site], copy_into(seen))])
            yield site, seen[0], rolled(trace[site])


def _giving(value: Tensor) -> Handler:
    return lambda _: value


def _parts(model: nn.Module, writer: Writer) -> list[tuple[nn.Module, str, int]]:
    """Owner, name and output axis of every parameter; none where one of them can't be swapped."""
    found: list[tuple[nn.Module, str, int]] = []
    for path in (*writer.weighed, *writer.weighed_rows):
        try:
            module = model.get_submodule(path)
        except AttributeError:
            parent, _, name = path.rpartition(".")
            found.append((submodule(model, parent), name, -2 if path in writer.weighed else -1))
            continue
        found.append((module, "weight", -2))
        if getattr(module, "bias", None) is not None:
            found.append((module, "bias", -1))
    plain = all(_is_plain(owner._parameters.get(name)) and not hasattr(owner, "_hf_hook") for owner, name, _ in found)
    return found if plain else []


def _is_plain(value: Tensor | None) -> bool:
    if type(value) is not nn.Parameter or type(value.data) is not Tensor:
        return False
    return value.is_floating_point() and not value.is_meta


@contextmanager
def _swapped(parts: list[tuple[nn.Module, str, int]]) -> Iterator[None]:
    """Run the body with the parameters rolled; the old ones, which nobody writes into, come back."""
    kept = [(owner, name, owner._parameters[name]) for owner, name, _ in parts]
    try:
        for owner, name, axis in parts:
            value = owner._parameters[name]
            assert value is not None  # as seen above
            owner._parameters[name] = nn.Parameter(rolled(value.detach(), axis), requires_grad=False)
        with torch.no_grad():
            yield
    finally:
        for owner, name, value in kept:
            owner._parameters[name] = value
