"""What a direction that was computed from others, or given as numbers, says of how it was made.

Provenance holds ``made``, a word, and what it was made ``of``: for each part its name, sites, positions, a hash of its
vectors and its own provenance. A sum says ``combination``, with how many ``times`` each part is in it, so that sums of
sums stay one list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from steerkit.api.direction import Direction

MADE: Final = "made"
COMBINATION: Final = "combination"
MOST_PARTS: Final = 32
"""Parts that are told in full; a loop that adds to a direction a thousand times must not grow its file with it."""
_LONGEST_NAME: Final = 60


def combination_of(parts: Sequence[tuple[float, Direction]]) -> dict[str, Any]:
    """Provenance of a sum of directions, each so many times."""
    terms: list[dict[str, Any]] = []
    more = 0
    for times, direction in parts:
        inner = direction.provenance
        if _is_combination(inner):
            told = [{**one, "times": times * one["times"]} for one in inner["of"]]
            more += int(inner.get("more", 0))
        else:
            told = [{"times": times, **_part(direction)}]
        for term in told:
            _add_term(terms, term)
    kept, more = terms[:MOST_PARTS], more + max(0, len(terms) - MOST_PARTS)
    return {MADE: COMBINATION, "of": _within_bounds(kept), **({"more": more} if more else {})}


def made_of(how: str, of: Direction, **others: Direction) -> dict[str, Any]:
    """Provenance of what was made of a direction, with others beside it under words such as ``removed``."""
    made = {MADE: how, "of": [_part(of)], **{word: [_part(other)] for word, other in others.items()}}
    return {key: _within_bounds(value) if isinstance(value, list) else value for key, value in made.items()}


def name_of_sum(first: str, second: str, sign: str) -> str:
    """What a sum is called, until it is called otherwise."""
    return shortened(f"{first} {sign} {_bracketed(second) if sign == '-' else second}")


def name_of_multiple(factor: float, name: str) -> str:
    """What so many times a direction is called."""
    if factor == 1:
        return name
    return shortened(f"-{_bracketed(name)}" if factor == -1 else f"{factor:g}*{_bracketed(name)}")


def shortened(name: str) -> str:
    """A name that can be read, whatever it was made of."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def hash_of(direction: Direction) -> str | None:
    """sha256 of a direction's vectors as a file has them, site by site; None where they have no fixed values."""
    import torch

    digest = sha256()
    for site, vectors in direction.items():
        if vectors.is_meta or vectors.requires_grad:
            return None
        plain = vectors.detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{site} {list(plain.shape)} ".encode())
        digest.update(plain.numpy().tobytes())
    return digest.hexdigest()


def _part(direction: Direction) -> dict[str, Any]:
    return {
        "name": direction.name,
        "sites": direction.describe(),
        "positions": str(direction.positions),
        "vectors": hash_of(direction),
        "provenance": dict(direction.provenance),
    }


def _is_combination(provenance: Mapping[str, Any]) -> bool:
    """Whether provenance is that of a sum as it is written here: that of a file may be anybody's."""
    of, more = provenance.get("of"), provenance.get("more", 0)
    if provenance.get(MADE) != COMBINATION or not isinstance(of, list) or not isinstance(more, int):
        return False
    keys = {"times", "name", "sites", "vectors"}
    return all(isinstance(one, dict) and keys <= one.keys() and isinstance(one["times"], float) for one in of)


def _add_term(terms: list[dict[str, Any]], term: dict[str, Any]) -> None:
    """Put a part into a sum; the very same vectors are in it once, so many times."""
    for place, one in enumerate(terms):
        same = term["vectors"] is not None and all(one[key] == term[key] for key in ("name", "sites", "vectors"))
        if same:
            terms[place] = {**one, "times": one["times"] + term["times"]}
            return
    terms.append(term)


def _within_bounds(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parts, without their own provenance where that tells of too many others."""
    if sum(map(_count, parts)) <= MOST_PARTS:
        return parts
    return [{**part, "provenance": {"left_out": "made of many others"}} if _count(part) > 1 else part for part in parts]


def _count(part: Mapping[str, Any], depth: int = 0) -> int:
    """How many parts are told of, this one and those within it."""
    inner = part.get("provenance")
    if depth > MOST_PARTS:
        return depth
    if not isinstance(inner, Mapping) or MADE not in inner:
        return 1
    listed = [one for value in inner.values() if isinstance(value, list) for one in value if isinstance(one, Mapping)]
    return 1 + sum(_count(one, depth + 1) for one in listed)


def _bracketed(name: str) -> str:
    return f"({name})" if " " in name or name.startswith("-") else name
