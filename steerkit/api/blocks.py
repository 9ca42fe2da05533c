"""A place between two blocks by its number, as files of others count: the output of a block, or the input of the next.

What is written at ``blocks.7.resid_post`` is what block 8 reads, ``blocks.8.resid_pre``, so one number tells both.
"""

from __future__ import annotations

from steerkit.types import Site
from steerkit.types.sites import RESID_POST, RESID_PRE


def output_of(site: Site) -> int | None:
    """The block at whose output a site lies; None where it lies at none: block 0 reads what no block puts out."""
    if site.stream == RESID_POST:
        return site.layer
    return site.layer - 1 if site.stream == RESID_PRE and site.layer > 0 else None


def input_of(site: Site) -> int | None:
    """The block that reads at a site, which for the output of a model's last block is one that it doesn't have; None
    where it lies at none."""
    if site.stream == RESID_PRE:
        return site.layer
    return site.layer + 1 if site.stream == RESID_POST else None
