"""A program as terms: sums of low-rank updates, each with one weight per token.

At a place updates act one after the other, and what the second one reads has been changed by the first. Multiplied out,

    x₂ = x + w₁ (x A₁ᵀ Q₁ + b₁) + w₂ (x A₂ᵀ Q₂ + b₂) + w₁ w₂ (x A₁ᵀ (Q₁A₂ᵀQ₂) + b₁A₂ᵀQ₂)

it is a sum whose terms all read the same ``x``, with products of weights where two updates meet. So tokens of any
number of programs, at any positions, are one product of matrices: ``x + ((x Aᵀ) ∘ W) Q + W b``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import torch
from torch import Tensor

from steerkit.api.program_tokens import BEHIND
from steerkit.errors import AttachError, counted
from steerkit.types import Positions, Schedule, Site

if TYPE_CHECKING:
    from steerkit.api.program import Program, ProgramUpdate

When: TypeAlias = tuple[Positions, Schedule]
Weight: TypeAlias = tuple[When, ...]
"""A product of the weights of several circumstances."""

MOST: Final = 8
"""Terms of one program: each costs a weight at every token."""
NEGLIGIBLE: Final = 1e-9
"""Relative to its factors a product this small is what rounding left of a zero."""


@dataclass(frozen=True, eq=False)
class Part:
    """What a term does at a place: reads and writes ``[rank, width]``, a bias ``[width]``, or either. Float64."""

    reads: Tensor | None
    writes: Tensor | None
    bias: Tensor | None


Sum: TypeAlias = dict[Weight, Part]


@dataclass(frozen=True, eq=False)
class Term:
    """What is done with one weight.

    Args:
        weight: of which circumstances it is the product.
        at: what is done, by place.
    """

    weight: Weight
    at: Mapping[Site, Part]


def terms_of(program: Program) -> tuple[Term, ...]:
    """A program as terms, in the order in which their weights first matter.

    Raises:
        AttachError: where it has more terms than ``MOST``.
    """
    known: dict[tuple[object, ...], Sum] = {}
    at: dict[Weight, dict[Site, Part]] = {}
    for site in program.sites:
        updates = program.at(site)
        # An ablation is one object at all of its places.
        key = tuple((id(one.reads), id(one.writes), id(one.bias), _when(one)) for one in updates)
        if key not in known:
            known[key] = _multiplied_out(updates)
        for weight, part in known[key].items():
            at.setdefault(weight, {})[site] = part
    if len(at) > MOST:
        raise AttachError(
            f"Program {program.name!r} needs {counted(len(at), 'weight')} per token, and {MOST} are the most: its "
            "updates at one place act at many kinds of positions. Give those that act together the same positions."
        )
    return tuple(Term(weight, parts) for weight, parts in at.items())


def _when(update: ProgramUpdate) -> When:
    return update.positions, update.schedule


def _multiplied_out(updates: tuple[ProgramUpdate, ...]) -> Sum:
    found: Sum = {}
    for update in updates:
        when = _when(update)
        own = Part(*(None if part is None else part.double() for part in (update.reads, update.writes, update.bias)))
        fresh: Sum = {(when,): own}
        if own.reads is not None and own.writes is not None:
            for weight, before in found.items():
                both = _product(weight, when)
                met = _met(before, own.reads, own.writes)
                if both is not None and met is not None:
                    fresh[both] = _plus(fresh.get(both), met)
        for weight, part in fresh.items():
            found[weight] = _plus(found.get(weight), part)
    return found


def _met(before: Part, reads: Tensor, writes: Tensor) -> Part | None:
    """What an update makes of what an earlier one added; None where it reads nothing of that."""
    size = float(reads.norm() * writes.norm())

    def carried(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        new = (value @ reads.T) @ writes
        return new if float(new.norm()) > NEGLIGIBLE * size * float(value.norm()) else None

    through, bias = carried(before.writes), carried(before.bias)
    if through is None and bias is None:
        return None
    return Part(None if through is None else before.reads, through, bias)


def _plus(one: Part | None, other: Part) -> Part:
    if one is None:
        return other

    def joined(first: Tensor | None, second: Tensor | None) -> Tensor | None:
        return second if first is None else first if second is None else torch.cat([first, second])

    bias = other.bias if one.bias is None else one.bias if other.bias is None else one.bias + other.bias
    return Part(joined(one.reads, other.reads), joined(one.writes, other.writes), bias)


def _product(weight: Weight, when: When) -> Weight | None:
    """The product of weights; None where it is 0 at every token."""
    if any(_apart(one[0], when[0]) for one in weight):
        return None
    if when in weight and when[1].is_constant:
        return weight  # of ones and zeros
    return tuple(sorted((*weight, when), key=str))


def _apart(one: Positions, other: Positions) -> bool:
    """Whether two positions have no token in common: one lies in the prompt, the other behind it."""
    behind = [positions.role in BEHIND for positions in (one, other)]
    return any(behind) and not all(behind) and "all" not in (one.role, other.role)
