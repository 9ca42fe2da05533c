"""Arithmetic with directions: what is done with their sites, ranks and numbers, and what has no meaning.

Vectors are computed, and kept, in float32, or in float64 where one of the two is; gradients flow through. A result lies
where the left direction lies, has its positions, and says in its provenance what it was made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from numbers import Real
from typing import TYPE_CHECKING, Any, Final

from steerkit.api.direction_origin import combination_of, made_of, name_of_multiple, name_of_sum, shortened
from steerkit.api.showing import a_kind
from steerkit.errors import DirectionError, counted
from steerkit.types import HEAD_OUT, Site

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.api.direction import Direction

_DEPENDENT: Final = 1e-6
"""Of unit rows: below this singular value (a sine) they are one row less."""
_ONE_BY_ONE: Final = (
    "Make a direction of one of them: steerkit.Direction.from_vector(direction.vectors[0], site=direction.site)."
)
_NOTHING_LEFT: Final = 1e-6
"""A share of a vector's norm: what is left below it is what float32 rounds."""


def multiplied(direction: Direction, factor: object) -> Direction:
    """``factor`` times every vector. Reference means stay: they are where the stream was, not how far to go.

    Raises:
        DirectionError: for what is not one finite number, and for one so small that nothing would be left.
    """
    number = _number(factor)
    plain = float(number.detach()) if hasattr(number, "detach") else number
    vectors = {site: _wide(value) * _like(number, _wide(value)) for site, value in direction.items()}
    for site, value in direction.items():
        gone = (value.detach() != 0).any(1) & (vectors[site].detach() == 0).all(1)
        if plain and bool(gone.any()):
            dtype = str(vectors[site].dtype).removeprefix("torch.")
            raise DirectionError(
                f"{plain:g} times direction {direction.name!r} is less than {dtype} can hold at {site}."
            )
    name, origin = name_of_multiple(plain, direction.name), combination_of([(plain, direction)])
    return _made(direction, vectors, name, origin, direction.reference_means)


def divided(direction: Direction, divisor: object) -> Direction:
    """Every vector over one finite number that isn't 0. Raises ``DirectionError`` for anything else."""
    number = _number(divisor)
    plain = float(number.detach()) if hasattr(number, "detach") else float(number)
    if plain == 0 or not isfinite(1 / plain):
        raise DirectionError("A direction is divided by one finite number that isn't 0, nor next to it.")
    return multiplied(direction, 1 / number)


def summed(first: Direction, second: object, sign: int = 1) -> Direction:
    """``first + sign * second``, vector by vector at each site.

    Raises:
        DirectionError: where the two have other sites, ranks or widths.
    """
    other = _direction(second, "added to")
    if set(first.sites) != set(other.sites):
        raise DirectionError(_other_sites(first, other))
    vectors = {}
    for site, mine in first.items():
        theirs = _matching(first, other, site, other.by_site[site])
        if len(mine) != len(theirs):
            raise DirectionError(
                f"Direction {first.name!r} has {counted(len(mine), 'vector')} at {site} and {other.name!r} has "
                f"{len(theirs)}, and they are added vector by vector. {_ONE_BY_ONE}"
            )
        vectors[site] = _wide(mine) + sign * _wide(theirs)
    means = {
        site: mean
        for site, mean in first.reference_means.items()
        if site in other.reference_means and _equal(mean, other.reference_means[site])
    }
    name = name_of_sum(first.name, other.name, "+" if sign > 0 else "-")
    return _made(first, vectors, name, combination_of([(1.0, first), (float(sign), other)]), means)


def unit(direction: Direction) -> Direction:
    """Every vector with norm 1, each by itself: several at a site are not made orthogonal.

    Raises:
        DirectionError: for a vector without length.
    """
    vectors = {}
    for site, value in direction.items():
        lengths = _wide(value).norm(dim=1, keepdim=True)
        _require_length(direction, site, lengths)
        vectors[site] = _wide(value) / lengths
    name = shortened(f"unit({direction.name})")
    return _made(direction, vectors, name, made_of("unit", direction), direction.reference_means)


def without(direction: Direction, other: object) -> Direction:
    """What is left of every vector when the span of another direction's vectors is projected out of it.

    At each site the span of the other's vectors at that site; of an other at a single site of the residual stream,
    whose basis all its sites share, that span at every site. Projected in float64.

    Raises:
        DirectionError: where the other has no vectors for a site, another width, no length, or where nothing is left.
    """
    removed = _direction(other, "projected out of")
    vectors = {}
    for site, value in direction.items():
        basis = _basis(removed, site, _matching(direction, removed, site, _partner(direction, removed, site)))
        wide = value.double()
        left = wide - (wide @ basis.T) @ basis
        gone = left.norm(dim=1) <= _NOTHING_LEFT * wide.norm(dim=1)
        if bool(gone.any()):
            which = "" if len(gone) == 1 else f"vector {int(gone.nonzero()[0])} of "
            raise DirectionError(
                f"Nothing is left at {site}: {which}direction {direction.name!r} lies in the span of {removed.name!r}."
            )
        vectors[site] = left.to(_wide(value).dtype)
    name = shortened(f"{direction.name} without {removed.name}")
    return _made(direction, vectors, name, made_of("without", direction, removed=removed), direction.reference_means)


def cosines(direction: Direction, other: object) -> dict[Site, float]:
    """The cosine with another direction at each site where both have a vector, in float64.

    One at a single site of the residual stream is compared with every vector of the other.

    Raises:
        DirectionError: for several vectors at a site, another width, no length, or no site to compare at.
    """
    second = _direction(other, "compared with")
    along, across = (second, direction) if direction.is_single and not second.is_single else (direction, second)
    shared = [site for site in along.sites if _has_partner(across, site)]
    if not shared:
        raise DirectionError(_other_sites(direction, second))
    return {site: _cosine(along, across, site) for site in shared}


def cosine(direction: Direction, other: object) -> float:
    """The cosine with another direction, both at one site.

    Raises:
        DirectionError: where one of the two has vectors at several sites, and as ``cosines``.
    """
    second = _direction(other, "compared with")
    for one in (direction, second):
        if not one.is_single:
            raise DirectionError(
                f"Direction {one.name!r} has vectors at several sites, {one.describe()}, and one cosine is of one "
                "site. Use direction.cosines(other), or direction.at(site)."
            )
    (found,) = cosines(direction, second).values()
    return found


def norms(direction: Direction) -> dict[Site, tuple[float, ...]]:
    """The norm of every vector, in float64."""
    return {
        site: tuple(float(norm) for norm in value.detach().double().norm(dim=1)) for site, value in direction.items()
    }


def norm(direction: Direction) -> float:
    """The norm of the one vector at the one site.

    Raises:
        DirectionError: where there are several vectors.
    """
    found = norms(direction)[direction.site]
    if len(found) != 1:
        raise DirectionError(
            f"Direction {direction.name!r} has {counted(len(found), 'vector')} at {direction.site}, each with a norm "
            "of its own: direction.norms has them."
        )
    return found[0]


def _made(
    of: Direction,
    vectors: Mapping[Site, Tensor],
    name: str,
    provenance: Mapping[str, Any],
    means: Mapping[Site, Tensor],
) -> Direction:
    return type(of)(vectors, None, of.positions, name, dict(means) or None, provenance)


def _direction(value: object, done: str) -> Direction:
    from steerkit.api.direction import Direction

    if isinstance(value, Direction):
        return value
    raise DirectionError(
        f"Only a direction is {done} a direction, not {a_kind(value)}. Numbers become one by "
        "steerkit.Direction.from_vector(numbers, site=...)."
    )


def _number(factor: object) -> Any:
    """One finite number: a float, or a tensor of one element, which stays in its graph."""
    from steerkit.api.direction import Direction

    if isinstance(factor, Direction):
        raise DirectionError(
            "A direction is multiplied by a number, not by another direction. How alike two are is "
            "first.cosine(second)."
        )
    if hasattr(factor, "requires_grad"):
        return _number_of_tensor(factor)
    number: Any = factor.item() if getattr(factor, "shape", None) == () and hasattr(factor, "item") else factor
    if isinstance(number, bool) or not isinstance(number, Real):
        raise DirectionError(_no_number(a_kind(factor)))
    if not _is_finite(number):
        raise DirectionError(_no_number(shortened(repr(factor))))
    return float(number)


def _number_of_tensor(factor: Any) -> Any:
    import torch

    if factor.numel() != 1 or factor.is_complex() or factor.dtype == torch.bool:
        raise DirectionError(_no_number(f"a tensor of shape {list(factor.shape)}, {factor.dtype}"))
    if not _is_finite(factor.detach()):
        raise DirectionError(_no_number(repr(float(factor.detach()))))
    return factor.reshape(()) if factor.is_floating_point() else float(factor)


def _is_finite(number: Any) -> bool:
    try:
        return isfinite(number)
    except OverflowError:  # a whole number beyond every float
        return False


def _no_number(found: str) -> str:
    return f"A direction is multiplied by one finite number, not by {found}."


def _like(number: Any, value: Tensor) -> Any:
    return number.to(value) if hasattr(number, "requires_grad") else number


def _wide(value: Tensor) -> Tensor:
    import torch

    return value if value.dtype == torch.float64 else value.float()


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and bool((first.detach().double() == second.detach().to(first.device)).all())


def _matching(first: Direction, second: Direction, site: Site, value: Tensor) -> Tensor:
    """The second's vectors at a site, where the first's are, if both are of one width."""
    mine = first.by_site[site]
    if mine.shape[1] != value.shape[1]:
        raise DirectionError(
            f"Direction {first.name!r} has width {mine.shape[1]} at {site} and {second.name!r} has "
            f"{value.shape[1]}: they are of different models, or of different streams."
        )
    return value.to(mine.device)


def _has_partner(other: Direction, site: Site) -> bool:
    """Whether the other has vectors for a site: there, or at its only site, where both are in the residual stream."""
    if site in other.by_site:
        return True
    # What goes into the output projection, a head's values, is in a space of that layer's own.
    return other.is_single and HEAD_OUT not in (site.stream, other.sites[0].stream)


def _partner(first: Direction, other: Direction, site: Site) -> Tensor:
    if not _has_partner(other, site):
        raise DirectionError(_other_sites(first, other))
    return other.by_site[site if site in other.by_site else other.sites[0]]


def _other_sites(first: Direction, second: Direction) -> str:
    common = [site for site in first.sites if site in second.by_site]
    told = f"Direction {first.name!r} is at {first.describe()} and {second.name!r} at {second.describe()}"
    if common:
        listed = ", ".join(repr(str(site)) for site in common[:3]) + (", …" if len(common) > 3 else "")
        return f"{told}. Take both where they both are: direction.at({listed})."
    return (
        f"{told}: they have no site in common. If one is meant at the other's site, say so: "
        f"steerkit.Direction.from_vector(vectors, site={str(first.sites[0])!r})."
    )


def _require_length(direction: Direction, site: Site, lengths: Tensor) -> None:
    if not bool((lengths.detach() > 0).all()):
        raise DirectionError(
            f"Direction {direction.name!r} has a vector without length at {site}, which points nowhere."
        )


def _basis(direction: Direction, site: Site, vectors: Tensor) -> Tensor:
    """Orthonormal rows that span vectors, ``[rank or less, width]``, float64."""
    import torch

    wide = vectors.double()
    lengths = wide.norm(dim=1, keepdim=True)
    _require_length(direction, site if site in direction.by_site else direction.sites[0], lengths)
    rows: Tensor = wide / lengths
    if len(rows) == 1:
        return rows
    singular = torch.linalg.svdvals(rows.detach())
    if rows.shape[0] <= rows.shape[1] and float(singular[-1]) > _DEPENDENT:
        # Not the singular vectors, whose gradient is NaN where singular values are equal.
        basis: Tensor = torch.linalg.qr(rows.T).Q.T
        return basis
    _, values, span = torch.linalg.svd(rows, full_matrices=False)
    kept: Tensor = span[values > _DEPENDENT]
    return kept


def _cosine(first: Direction, second: Direction, site: Site) -> float:
    mine, theirs = first.by_site[site], _matching(first, second, site, _partner(first, second, site))
    for one, value in ((first, mine), (second, theirs)):
        if len(value) != 1:
            raise DirectionError(
                f"Direction {one.name!r} has {counted(len(value), 'vector')} at {site}, and a cosine is of one with "
                f"one. {_ONE_BY_ONE}"
            )
        _require_length(one, site, value.double().norm(dim=1))
    a, b = mine[0].detach().double(), theirs[0].detach().double()
    return max(-1.0, min(1.0, float((a @ b) / (a.norm() * b.norm()))))
