"""The nouns that every room shares: sites, positions, schedules, examples. Imports no torch.

A site says where in the network, positions say at which tokens, a schedule how much at each; an example is a row of
data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from steerkit.types.examples import Example, ExampleLike, Label, Message, Role, as_examples, same_value
from steerkit.types.positions import FROM_TOKEN, PREFIX, ROLES, TURNS, Positions
from steerkit.types.schedules import Schedule
from steerkit.types.sites import (
    ATTN_OUT,
    EMBED,
    HEAD_OUT,
    MLP_OUT,
    RESID_MID,
    RESID_POST,
    RESID_PRE,
    STREAMS,
    Site,
    SitePattern,
    as_sites,
    list_sites,
    parse_sites,
    resolve_sites,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    ResidualStream: TypeAlias = Float[Tensor, "batch pos d_model"]
    Vectors: TypeAlias = Float[Tensor, "rank d_model"]
    TokenIds: TypeAlias = Int[Tensor, "batch pos"]
    TokenMask: TypeAlias = Bool[Tensor, "batch pos"]

__all__ = [
    "ATTN_OUT",
    "EMBED",
    "FROM_TOKEN",
    "HEAD_OUT",
    "MLP_OUT",
    "PREFIX",
    "RESID_MID",
    "RESID_POST",
    "RESID_PRE",
    "ROLES",
    "STREAMS",
    "TURNS",
    "Example",
    "ExampleLike",
    "Label",
    "Message",
    "Positions",
    "Role",
    "Schedule",
    "Site",
    "SitePattern",
    "as_examples",
    "as_sites",
    "list_sites",
    "parse_sites",
    "resolve_sites",
    "same_value",
]
