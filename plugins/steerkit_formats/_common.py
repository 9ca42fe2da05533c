"""What formats of others have in common: directions of what their files hold, and sentences on what they don't keep."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steerkit.api.format import Contents, Given, Places
from steerkit.errors import ArtifactError, SteerkitError, counted, listed
from steerkit.types import Positions, Site

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.api.direction import Direction

ASSUMED: Final = "It isn't said at which tokens the vectors were read; the last one of a prompt is taken, '-1'."
NAMES, MEANS, POSITIONS, PROVENANCE, SITES = "name", "mean of the reference class", "positions", "provenance", "site"

Vectors = Mapping[Site, Any]
"""What lies at each site: numbers of shape ``[width]`` or ``[rank, width]``."""


class Reading:
    """Directions as they are found in a file, each checked against what the reader says of them.

    Args:
        path: the file.
        given: what the reader says.
        format: name of the format, for provenance.
    """

    def __init__(self, path: Path, given: Given, format: str) -> None:
        self.path, self.given, self.format = path, given, format
        self.found: dict[str, Direction] = {}
        self.lost: list[str] = []

    def add(
        self,
        name: str,
        vectors: Vectors,
        positions: Positions | None,
        *,
        sites_are_given: bool = False,
        mean: Any = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        """Put a direction to the others.

        Args:
            name: what it is called.
            vectors: its numbers by site.
            positions: at which tokens it was read; None where the file doesn't say.
            sites_are_given: whether the reader, not the file, says where.
            mean: of the reference class at its one site; None where there is none.
            provenance: what else the file says of it, JSON values.

        Raises:
            ArtifactError: for what is no direction, or one that is elsewhere than the reader says.
        """
        from steerkit.api.direction import LAST, Direction

        fault = self.given.fault(name, () if sites_are_given and len(vectors) == 1 else tuple(vectors), positions)
        if fault is not None:
            raise ArtifactError(f"{self.path}: {fault}")
        chosen = positions or self.given.positions
        if chosen is None and ASSUMED not in self.lost:
            self.lost.append(ASSUMED)
        numbers = {site: as_numbers(value, f"{self.path}: {name!r}") for site, value in vectors.items()}
        made = {"made": "read", "format": self.format, "file": self.path.name, **(provenance or {})}
        try:
            reference = None if mean is None else as_numbers(mean, f"{self.path}: the mean of {name!r}")
            at = None if reference is None else {next(iter(numbers)): reference}
            self.found[name] = Direction(numbers, None, chosen or LAST, name, at, made)
        except SteerkitError as error:
            raise ArtifactError(f"{self.path}: {error}") from None

    def contents(self) -> Contents:
        """What was found.

        Raises:
            ArtifactError: where nothing was.
        """
        if not self.found:
            raise ArtifactError(f"{self.path} holds no vectors. Name another file.")
        return Contents(self.found, tuple(self.lost))


def as_numbers(value: Any, what: str) -> Tensor:
    """Vectors as a direction keeps them: in float32, or in float64 where a file has them so. Nothing is rounded.

    Raises:
        ArtifactError: for what isn't a tensor of real, finite numbers, or has no number in it.
    """
    import torch

    if not isinstance(value, torch.Tensor):
        raise ArtifactError(f"{what}: vectors are a tensor, not {type(value).__name__}. Write them again.")
    if value.is_complex() or value.dtype == torch.bool or value.layout != torch.strided or value.is_quantized:
        raise ArtifactError(f"{what}: vectors are plain real numbers, not {value.dtype} ({value.layout}).")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ArtifactError(f"{what}: its shape {list(value.shape)} repeats fewer numbers. Write them out again.")
    numbers = value.detach().to(torch.float64 if value.dtype == torch.float64 else torch.float32, copy=True)
    if numbers.ndim not in (1, 2) or not numbers.numel():
        raise ArtifactError(
            f"{what}: vectors at one site are of shape [width] or [rank, width], not {list(value.shape)}."
        )
    if not bool(numbers.isfinite().all()):
        raise ArtifactError(f"{what} holds NaN or infinite values, which are no direction. Estimate it again.")
    return numbers.contiguous()


def places_at(sites: Sequence[Site], shapes: Iterable[Sequence[int]], positions: Positions | None) -> Places:
    """Where a direction lies, with the widths and ranks of vectors of these shapes."""
    shapes = [tuple(shape) for shape in shapes]
    if any(len(shape) not in (1, 2) or 0 in shape for shape in shapes):
        return Places(tuple(sites), positions)
    ranks = tuple(1 if len(shape) == 1 else shape[0] for shape in shapes)
    return Places(tuple(sites), positions, tuple(shape[-1] for shape in shapes), ranks)


def content_of(path: Path) -> bytes:
    """A file's bytes. Raises ``ArtifactError`` where there are none to be had."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} can't be read ({error.strerror}). Check the path.") from None


# Writing


def not_kept(contents: Contents, keeps: Collection[str] = ()) -> list[str]:
    """Sentences on what a format that keeps vectors and ``keeps`` loses of directions, and of a condition.

    Raises:
        ArtifactError: where nothing would be left.
    """
    told = []
    if contents.condition is not None:
        told.append(f"Condition {contents.condition.name!r} isn't kept, for which the format has no place.")
    if not contents.directions:
        raise ArtifactError(f"{' '.join(told) or 'There is no direction.'} Save it in the format steerkit.")
    for name, direction in contents.directions.items():
        has = {
            NAMES: True,
            SITES: True,
            POSITIONS: True,
            MEANS: bool(direction.reference_means),
            PROVENANCE: bool(direction.provenance),
        }
        lost = [part for part, there in has.items() if there and part not in keeps]
        if lost:
            told.append(f"Not kept of {name!r}: {listed(lost)}.")
    return told


def the_one(contents: Contents, what: str) -> Direction:
    """The one direction of contents, at one site and of one vector.

    Raises:
        ArtifactError: where there are several, or several sites or vectors.
    """
    directions = list(contents.directions.values())
    if len(directions) != 1:
        raise ArtifactError(
            f"{what} holds one direction, and there are {listed([repr(name) for name in contents.directions])}. "
            "Write each to a place of its own."
        )
    (direction,) = directions
    if not direction.is_single:
        raise ArtifactError(
            f"{what} holds a vector at one site, and {direction.name!r} has some at {direction.describe()}. Choose "
            "one: --at SITE, or direction.at(site)."
        )
    return direction


def one_vector(direction: Direction, site: Site, what: str) -> Tensor:
    """The one vector at a site, ``[width]``, a copy of its own.

    Raises:
        ArtifactError: where there are several, or numbers that aren't finite.
    """
    vectors = direction.by_site[site]
    if len(vectors) != 1:
        raise ArtifactError(f"{what} holds one vector at a site, and {direction.name!r} has {len(vectors)} at {site}.")
    return finite(vectors[0], direction.name)


def finite(vectors: Tensor, name: str) -> Tensor:
    """Vectors as they are, in memory of their own. Raises ``ArtifactError`` for numbers that aren't finite."""
    if not bool(vectors.isfinite().all()):
        raise ArtifactError(f"{name!r} holds NaN or infinite values, which are no direction. Estimate it again.")
    return vectors.detach().cpu().clone().contiguous()


def of_blocks(direction: Direction, blocks: Mapping[Site, int | None], what: str) -> dict[int, Site]:
    """Sites by the block that a file counts them by.

    Args:
        direction: whose sites they are.
        blocks: the block of each; None where a site is at none.
        what: the format, and where its vectors act.

    Raises:
        ArtifactError: for a site that is at none, or two at one.
    """
    wrong = [str(site) for site, block in blocks.items() if block is None]
    if wrong:
        raise ArtifactError(
            f"{what}, and {direction.name!r} has vectors at {listed(wrong)}. Estimate it there, or bake the condition."
        )
    found = {block: site for site, block in blocks.items() if block is not None}
    if len(found) < len(blocks):
        raise ArtifactError(f"{direction.name!r} has {counted(len(blocks), 'site')} at {counted(len(found), 'block')}.")
    return dict(sorted(found.items()))
