"""The self-test's check of names: a writer that is called attention mixes tokens, one that is called MLP doesn't.

A block's sum holds whichever of its writers is which, so it can't tell them apart where both read the block's input.
Here the stream of the first token alone is another one, in every block, while all that later tokens are made of stays
as it was: their stream where each block begins, and what each writer adds to it. Who adds something else at a later
token then has looked at the first.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from steerkit.engine.loading.placed import facts_of_placement
from steerkit.engine.sites.checks import Check
from steerkit.engine.sites.selftest_passes import Bench
from steerkit.engine.sites.taps import Handler
from steerkit.types import ATTN_OUT, MLP_OUT, RESID_PRE, Site
from steerkit.types.placement import rounds_activations

NOISE: Final = 16
"""How many roundings of a token's largest entry tokens beside it may cause, as where experts take other batches."""
EIGHT_BITS: Final = 1 / 127
"""What a quantiser that rounds activations may change, as a share of a token's largest entry: one of its steps. Which
columns it rounds may depend on all tokens of a pass."""
LEAST: Final = 2
"""How many are more than that of a writer in which nothing mixes tokens."""


def check_mixing(on: Bench) -> Check:
    """Whether the writers that are named ``attn_out`` mix tokens, and those that are named ``mlp_out`` don't."""
    meaning = f"with another first token, what {ATTN_OUT} adds to later tokens changes, and what {MLP_OUT} adds doesn't"
    sites = [Site(writer.stream, layer) for layer, block in enumerate(on.layout.blocks) for writer in block.writers]
    named = [site for site in sites if site.stream in (ATTN_OUT, MLP_OUT)]
    if not named:
        return Check("mixing", meaning, True, detail="No writer is called either.")
    changes = _changes_behind_the_first(on, sites)
    worst = Check("mixing", meaning, True, 0.0, 0.0, str(named[0]))
    for site in named:
        change, allowed = changes[site]
        module = repr(on.taps[site].module)
        if site.stream == ATTN_OUT:
            if change <= allowed * LEAST / NOISE:
                return Check("mixing", meaning, False, site=str(site), detail=f"{module} mixes no tokens.")
        elif not change <= allowed:
            return Check("mixing", meaning, False, change, allowed, str(site), f"{module} mixes tokens.")
        elif change > (worst.max_abs_error or 0.0):
            worst = Check("mixing", meaning, True, change, allowed, str(site))
    return worst


def _changes_behind_the_first(on: Bench, sites: list[Site]) -> dict[Site, tuple[float, float]]:
    """By writer, how far what it adds behind the first token changes with that token, and what rounding may do."""
    begins = [Site(RESID_PRE, layer) for layer in range(on.layout.n_layers)]
    usual: dict[Site, Tensor] = {}
    found: dict[Site, Tensor] = {}

    def record(site: Site) -> Handler:
        def handler(value: Tensor) -> None:
            usual[site] = value.detach().clone()

        return handler

    def put_back(site: Site) -> Handler:
        def handler(value: Tensor) -> Tensor:
            found[site] = value.detach().clone()
            new = usual[site].to(value.device).clone()
            # A block's first token becomes that of the row beside it, which was the last one there.
            new[:, 0] = new.roll(1, 0)[:, -1] if site.stream == RESID_PRE else value[:, 0]
            return new

        return handler

    on.run([(on.taps[site], record(site)) for site in (*begins, *sites)])
    on.run([(on.taps[site], put_back(site)) for site in (*begins, *sites)])
    quantization = facts_of_placement(on.model).quantization
    rounding = EIGHT_BITS if quantization is not None and rounds_activations(quantization) else 0.0
    return {site: _furthest(found[site][:, 1:], usual[site][:, 1:], rounding) for site in sites}


def _furthest(found: Tensor, usual: Tensor, rounding: float) -> tuple[float, float]:
    """The change that exceeds its allowance most, as a share of it, and that allowance."""
    change = (found.double() - usual.double()).abs().amax(-1)
    allowed = max(NOISE * torch.finfo(usual.dtype).eps, rounding) * usual.double().abs().amax(-1)
    at = int((change / allowed.clamp(min=torch.finfo(torch.float64).tiny)).argmax())
    return float(change.flatten()[at]), float(allowed.flatten()[at])
