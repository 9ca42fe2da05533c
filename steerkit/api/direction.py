"""Vectors in the residual stream at one site or at several, with where they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from steerkit.api import direction_algebra as algebra
from steerkit.api.direction_origin import MADE
from steerkit.errors import AttachError, DirectionError, counted, known_keywords
from steerkit.types import Positions, Site

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from steerkit.types import Vectors

LAST = Positions("", (-1,))


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Direction:
    """Vectors that were estimated at a site, or at several, kept raw: their norm is part of them.

    ``-d``, ``2 * d``, ``d / 2``, ``d + e`` and ``d - e`` are directions again, as are ``d.unit()`` and
    ``d.without(e)``; ``steerkit.api.direction_algebra`` says what they do with sites, ranks and dtypes.

    Args:
        vectors: ``[rank, width]`` at ``site``, float32 on the CPU; or ``{site: [rank, width]}``, one entry per site.
            The width is ``d_model``, or ``d_head`` at one head (``blocks.3.head_out[5]``).
        site: where they were estimated; None where ``vectors`` says so itself.
        positions: at which tokens.
        name: as the recipe calls it.
        reference_mean: ``[width]``, the mean of the reference (negative) class, ``{site: [width]}``, or None.
        provenance: JSON values: estimator, options, data, hashes.

    Attributes:
        by_site: ``{site: [rank, width]}``, in the order given.
        reference_means: ``{site: [width]}``, of the sites where one is known.

    Raises:
        DirectionError: for vectors of another shape or with NaN or infinite values, none at all, or a site given twice
            or not at all; for reference means that are no tensors.
    """

    by_site: Mapping[Site, Vectors]
    reference_means: Mapping[Site, Tensor]
    positions: Positions
    name: str
    provenance: Mapping[str, Any]
    __array_ufunc__: ClassVar[None] = None
    """NumPy's numbers leave it to a direction what ``number * direction`` is."""

    @known_keywords
    def __init__(
        self,
        vectors: Vectors | Mapping[Site, Vectors] | Mapping[str, Vectors],
        site: Site | str | None = None,
        positions: Positions | str | int = LAST,
        name: str = "direction",
        reference_mean: Tensor | Mapping[Site, Tensor] | Mapping[str, Tensor] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        _check_words(name, provenance)
        if isinstance(vectors, (str, Site)):
            raise DirectionError(f"The vectors come first, then their site: Direction(vectors, {str(vectors)!r}).")
        if isinstance(vectors, Mapping) != (site is None):
            raise DirectionError(
                "Direction takes vectors and their site, or vectors by site: Direction({site: vectors})."
            )
        given: Mapping[Any, Any] = vectors if isinstance(vectors, Mapping) else {site: vectors}
        by_site = {Site.parse(where): _shaped(value) for where, value in given.items()}
        if not by_site or len(by_site) < len(given):
            raise DirectionError("Direction needs vectors at one site at least, and at each site once.")
        means: Mapping[Any, Any] = {}
        if isinstance(reference_mean, Mapping):
            means = {Site.parse(where): value for where, value in reference_mean.items()}
        elif reference_mean is not None:
            means = {Site.parse(site): reference_mean for site in given}
        if (len(by_site) > 1 and means and not isinstance(reference_mean, Mapping)) or means.keys() - by_site.keys():
            raise DirectionError("Direction at several sites needs its reference means by site, at these sites.")
        for where, value in by_site.items():
            _check_finite(value, f"Direction {name!r} at {where}")
            if where in means:
                _check_mean(means[where], f"The reference mean of direction {name!r} at {where}")
        object.__setattr__(self, "by_site", MappingProxyType(by_site))
        object.__setattr__(self, "reference_means", MappingProxyType(dict(means)))
        object.__setattr__(self, "positions", Positions.parse(positions))
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "provenance", {} if provenance is None else provenance)

    # Of all sites

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where it has vectors."""
        return tuple(self.by_site)

    @property
    def is_single(self) -> bool:
        """Whether it has vectors at one site only."""
        return len(self.by_site) == 1

    def items(self) -> Iterator[tuple[Site, Vectors]]:
        """Each site with its vectors, ``[rank, width]``."""
        return iter(self.by_site.items())

    def at(self, site: Site | str, *more: Site | str) -> Direction:
        """The direction at one of its sites, or at several of them.

        Raises:
            AttachError: where it has no vectors there, with the sites that it has.
        """
        chosen = dict.fromkeys(map(Site.parse, (site, *more)))
        for where in chosen:
            if where not in self.by_site:
                raise AttachError(
                    f"Direction {self.name!r} has no vectors at {where}; it has them at {self.describe()}."
                )
        return self.replace(vectors={where: self.by_site[where] for where in chosen})

    def describe(self) -> str:
        """Its sites in a few words: ``blocks.0.resid_pre … blocks.11.resid_pre (12 sites)``."""
        sites = self.sites
        return str(sites[0]) if len(sites) == 1 else f"{sites[0]} … {sites[-1]} ({counted(len(sites), 'site')})"

    # Of the one site

    @property
    def site(self) -> Site:
        """The one site. Raises ``AttachError`` where there are several."""
        if not self.is_single:
            raise AttachError(
                f"Direction {self.name!r} has vectors at several sites, {self.describe()}, and one is needed here. "
                f'Choose one: direction.at("{self.sites[0]}"), or the option `at: {self.sites[0]}` of an intervention '
                "that has it."
            )
        return self.sites[0]

    @property
    def vectors(self) -> Vectors:
        """Vectors at the one site, ``[rank, width]``. Raises ``AttachError`` where there are several."""
        return self.by_site[self.site]

    @property
    def reference_mean(self) -> Tensor | None:
        """The reference class's mean at the one site, ``[width]``, or None. Raises as ``site``."""
        return self.reference_means.get(self.site)

    @property
    def rank(self) -> int:
        """Number of vectors at the one site. Raises as ``site``."""
        return int(self.vectors.shape[0])

    # The same with something else

    def with_vectors(
        self, vectors: Vectors | Mapping[Site, Vectors] | Mapping[str, Vectors], name: str | None = None
    ) -> Direction:
        """The same direction with other vectors, ``[rank, width]``, or by site where it has several."""
        return self.replace(vectors=vectors, name=name or self.name)

    @known_keywords
    def replace(
        self,
        *,
        vectors: Vectors | Mapping[Site, Vectors] | Mapping[str, Vectors] | None = None,
        positions: Positions | str | int | None = None,
        name: str | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Direction:
        """The same direction with some of it replaced."""
        changed: Mapping[Any, Any] = self.by_site
        if vectors is not None:
            changed = vectors if isinstance(vectors, Mapping) else {self.site: vectors}
        means = {site: mean for site, mean in self.reference_means.items() if site in {*map(Site.parse, changed)}}
        return Direction(
            changed,
            None,
            self.positions if positions is None else positions,
            self.name if name is None else name,
            means or None,
            self.provenance if provenance is None else provenance,
        )

    # Computed from it, and from others

    @property
    def norm(self) -> float:
        """The norm of the one vector. Raises as ``site``, and ``DirectionError`` where there are several vectors."""
        return algebra.norm(self)

    @property
    def norms(self) -> dict[Site, tuple[float, ...]]:
        """The norm of every vector at every site."""
        return algebra.norms(self)

    def unit(self) -> Direction:
        """The same with every vector of norm 1, each by itself. Raises ``DirectionError`` for one without length."""
        return algebra.unit(self)

    def cosine(self, other: Direction) -> float:
        """The cosine of the one vector with another direction's.

        The two may be of different sites of the residual stream, which share a basis.

        Raises:
            DirectionError: for several sites (see ``cosines``), several vectors, another width, or no length.
        """
        return algebra.cosine(self, other)

    def cosines(self, other: Direction) -> dict[Site, float]:
        """The cosine with another direction at each site that both have; one at a single site goes with every site."""
        return algebra.cosines(self, other)

    def without(self, other: Direction) -> Direction:
        """What is left when the span of another direction is projected out of every vector.

        Each site goes with the other's vectors there, or with those of its only site.

        Raises:
            DirectionError: where the other has no vectors for a site or no length, or where nothing is left.
        """
        return algebra.without(self, other)

    def __neg__(self) -> Direction:
        return algebra.multiplied(self, -1.0)

    def __mul__(self, factor: float | Tensor) -> Direction:
        return algebra.multiplied(self, factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float | Tensor) -> Direction:
        return algebra.divided(self, divisor)

    def __add__(self, other: Direction) -> Direction:
        return algebra.summed(self, other)

    def __radd__(self, other: Direction | int) -> Direction:
        return self if type(other) is int and other == 0 else algebra.summed(self, other)  # sum() begins with 0

    def __sub__(self, other: Direction) -> Direction:
        return algebra.summed(self, other, -1)

    # From numbers and files, and to a file

    @classmethod
    @known_keywords
    def from_vector(
        cls,
        vector: Any,
        site: Site | str | None = None,
        *,
        positions: Positions | str | int = LAST,
        name: str = "direction",
        reference_mean: Any = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Direction:
        """A direction from numbers: a list, an array or a tensor, ``[width]`` or ``[rank, width]``, or those by site.

        They are copied as float32 to the CPU, out of any graph (``Direction(tensor, site)`` takes a tensor as it is).

        Args:
            vector: the numbers.
            site: where they are meant; None where ``vector`` is ``{site: numbers}``.
            positions: at which tokens they were read.
            name: what to call it.
            reference_mean: ``[width]``, of the same kinds, or by site; None where it isn't known.
            provenance: JSON values: where the numbers come from. What they were is said beside it.

        Raises:
            DirectionError: for what are no finite real numbers of such a shape.
            SiteError: for what is no site.
        """
        from steerkit.api.direction_numbers import as_vectors, kind_of

        made = {MADE: "from_vector", "given": kind_of(vector)}
        _check_words(name, provenance)
        means = None if reference_mean is None else as_vectors(reference_mean, "A reference mean")
        return cls(as_vectors(vector, "A direction"), site, positions, name, means, {**made, **(provenance or {})})

    def save(self, path: str | Path) -> None:
        """Write it to a file of its own, ``<name>.safetensors``. ``steerkit.save_directions`` writes several, and
        other formats.

        Raises:
            ArtifactError: for NaN or infinite values, provenance that isn't JSON, another suffix, or a folder that
                can't be written to.
        """
        from steerkit.api.direction_files import save

        save(self, path)

    @classmethod
    def load(cls, path: str | Path, name: str | None = None) -> Direction:
        """Read a direction from a file of steerkit's. ``steerkit.load_directions`` reads all of a file, and other
        formats.

        Args:
            path: the file.
            name: which one; None where the file holds one only.

        Raises:
            ArtifactError: where the file is missing, damaged or of another format; where it holds several and none is
                named.
            UnknownNameError: where it holds none of that name.
        """
        from steerkit.api.direction_files import load

        return load(path, name)

    def __repr__(self) -> str:
        from steerkit.api.direction_shown import in_words

        return in_words(self)

    def _repr_html_(self) -> str:
        from steerkit.api.direction_shown import as_html

        return as_html(self)


def _shaped(vectors: Vectors) -> Vectors:
    if not hasattr(vectors, "is_floating_point"):  # what plans a run knows directions, and no torch
        raise DirectionError(
            f"Direction needs vectors as a tensor of shape [rank, d_model], not a {type(vectors).__name__}."
        )
    if vectors.is_complex():
        raise DirectionError("Direction needs vectors of real numbers, not of complex ones.")
    if not vectors.is_floating_point() or vectors.element_size() < 2:
        # Whole numbers would cut coefficients to whole numbers too, and with numbers of 8 bits torch computes nothing.
        vectors = vectors.float()
    if vectors.ndim == 1:
        vectors = vectors[None]
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise DirectionError(f"Direction needs vectors of shape [rank, d_model], not {list(vectors.shape)}.")
    return vectors


def _check_words(name: object, provenance: object) -> None:
    if not isinstance(name, str) or not name:
        raise DirectionError(f"A direction's name is a text that it goes by, not {name!r}.")
    if provenance is not None and not isinstance(provenance, Mapping):
        raise DirectionError(f"Provenance is a mapping from names to JSON values, not a {type(provenance).__name__}.")


def _check_finite(values: Tensor, what: str) -> None:
    # Of a tensor on the meta device there are no values to look at.
    if not values.is_meta and not bool(values.detach().isfinite().all()):
        raise DirectionError(f"{what} holds NaN or infinite values, which are no direction. Look where they come from.")


def _check_mean(mean: object, what: str) -> None:
    # Its width and its values are for those to judge who use it.
    if not hasattr(mean, "is_floating_point"):
        raise DirectionError(f"{what} is a tensor of shape [width], not a {type(mean).__name__}.")
    if getattr(mean, "is_complex", lambda: False)():
        raise DirectionError(f"{what} is of real numbers, not of complex ones.")
