"""Control vectors in GGUF files as directions: whose numbering a file follows, and which sites that makes.

What llama.cpp adds at the output of block k is a direction at ``blocks.<k>.resid_post``, which is the place that
``blocks.<k + 1>.resid_pre`` is too. A control vector has one vector at each of its blocks, so it is one direction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic

from typing_extensions import TypeVar

from steerkit.api.format import Contents, Format, Given, Places, Written
from steerkit.api.hookspecs import Options
from steerkit.errors import ArtifactError, SteerkitError, counted
from steerkit.types import RESID_POST, RESID_PRE, Positions, Site
from steerkit_formats._gguf_file import Held, easysteer_facts, is_control_vector, look, own_facts, to_bytes
from steerkit_formats.gguf import CvectorGeneratorOptions, EasysteerOptions, GgufOptions, RepengOptions

if TYPE_CHECKING:
    from numpy import ndarray

    from steerkit.api.direction import Direction

OptionsT = TypeVar("OptionsT", bound=Options, default=Any)
_HIDDEN: Final = "hidden_states"
"""What EasySteer calls the outputs of blocks."""


@dataclass(frozen=True)
class _Convention:
    """How a producer numbers.

    Args:
        behind: how many blocks ``direction.k`` lies behind block k.
        positions: at which tokens the producer reads, unless it is told otherwise.
        name: of the producer.
    """

    behind: int
    positions: Positions
    name: str


_REPENG: Final = _Convention(0, Positions.parse("-1"), "repeng")
_CVECTOR: Final = _Convention(1, Positions.parse("all"), "cvector-generator")
_EASYSTEER: Final = _Convention(0, Positions.parse("-1"), "EasySteer")
_BY_NAME: Final = {one.name: one for one in (_REPENG, _CVECTOR)}


@dataclass(frozen=True)
class _Layout:
    """A file, and where its vectors belong.

    Args:
        held: the file.
        name: of the direction.
        sites: by number.
        positions: at which tokens.
        provenance: what the file says of where they come from.
        lost: what it doesn't say.
    """

    held: Held
    name: str
    sites: Mapping[int, Site]
    positions: Positions
    provenance: Mapping[str, Any]
    lost: tuple[str, ...] = ()


class _ControlVectors(Format[OptionsT], Generic[OptionsT]):
    """What the four have in common."""

    convention: ClassVar[_Convention | None] = None
    """The one that the format stands for; None where an option or the file says it."""
    half: ClassVar[bool] = False
    from_zero: ClassVar[bool] = False

    def sniff(self, path: Path) -> bool:
        """Whether it is a control vector. Whose numbering it follows can't be seen."""
        return is_control_vector(path)

    def places(self, path: Path, given: Given = Given()) -> Mapping[str, Places]:
        """Sites, positions and widths, from the header."""
        try:
            layout = self._layout(path)
        except SteerkitError:
            return {}  # what is wrong is said where the file is read
        sites = tuple(layout.sites.values())
        count = len(sites)
        said = layout.positions if not layout.lost else None
        return {layout.name: Places(sites, said, (layout.held.width,) * count, (1,) * count)}

    def fault(self, path: Path) -> str | None:
        """What keeps it from being read: that nothing tells whose numbering it follows, or what llama.cpp refuses."""
        try:
            self._layout(path)
        except SteerkitError as error:
            return str(error)
        return None

    def read(self, path: Path, given: Given = Given()) -> Contents:
        """Read the vectors as one direction, with a site for each block.

        Raises:
            ArtifactError: where the file is missing, damaged or no control vector, or holds NaN or infinite values, a
                vector at block 0, or another type than F32; where nothing tells whose numbering it follows; where it
                says another site or other positions than are given.
        """
        import torch

        from steerkit.api.direction import Direction

        layout = self._layout(path)
        known = None if layout.lost else layout.positions
        if (fault := given.fault(layout.name, tuple(layout.sites.values()), known)) is not None:
            raise ArtifactError(f"{path}: {fault}")
        vectors = {site: torch.from_numpy(layout.held.row(number))[None] for number, site in layout.sites.items()}
        for site, one in vectors.items():
            if not bool(one.isfinite().all()):
                raise ArtifactError(f"{path} holds NaN or infinite values at {site}. Export it again.")
        positions = given.positions or layout.positions
        direction = Direction(vectors, None, positions, layout.name, None, layout.provenance)
        return Contents({layout.name: direction}, () if given.positions is not None else layout.lost)

    def write(self, contents: Contents) -> Written:
        """The bytes of one direction, of one vector at each of its sites, which are outputs of blocks from block 1 on.

        Raises:
            ArtifactError: for several directions, a vector at another site, several at one, or values that are not
                finite in float32.
        """
        direction = _one(contents)
        rows, sites = _numbered(direction)
        facts = {
            "name": direction.name,
            "positions": str(direction.positions),
            "sites": {str(number): str(site) for number, site in sites.items()},
            "provenance": dict(direction.provenance),
        }
        model_type = direction.provenance.get("model_type")
        data = to_bytes(rows, model_type if isinstance(model_type, str) and model_type else "unknown", facts)
        return Written(data, tuple(_lost(direction, contents)))

    def _layout(self, path: Path) -> _Layout:
        held = look(path, half=self.half, from_zero=self.from_zero)
        own = own_facts(held, path)
        if own is not None:
            self._require_ours(path)
            return _own_layout(held, own, path)
        convention = self._convention(held, path)
        if convention.behind and 0 in held.rows:
            raise ArtifactError(f"{path} holds direction.0, which a file of that numbering never has.")
        sites = {number: Site(RESID_POST, number - convention.behind) for number in held.rows}
        told = f"It doesn't say at which tokens it was read; taken as '{convention.positions}'."
        hint = held.texts.get("controlvector.model_hint")
        provenance = {"convention": convention.name, **({"model_type": hint} if hint else {})}
        lost = self._also_lost(held, path)
        return _Layout(held, path.stem, sites, convention.positions, provenance, (told, *lost))

    def _convention(self, held: Held, path: Path) -> _Convention:
        assert self.convention is not None
        return self.convention

    def _require_ours(self, path: Path) -> None:
        if self.convention is not None and self.convention is not _REPENG:
            raise ArtifactError(f"{path} says that steerkit wrote it. Read it as format gguf.")

    def _also_lost(self, held: Held, path: Path) -> tuple[str, ...]:
        return ()


class GgufFormat(_ControlVectors[GgufOptions]):
    """Files of steerkit's own, which say what they are, and others' with a convention."""

    def sniff(self, path: Path) -> bool:
        """Whether it is a control vector that doesn't say that EasySteer wrote it."""
        return is_control_vector(path) and not EasysteerFormat(EasysteerOptions()).sniff(path)

    def write(self, contents: Contents) -> Written:
        """See the base; files are numbered as llama.cpp reads them, which no other convention does."""
        if self.options.convention == "cvector-generator":
            raise ArtifactError(
                "steerkit numbers control vectors as llama.cpp adds them, at the output of block k, and "
                "cvector-generator's are one above where they were read. Leave out the convention."
            )
        return super().write(contents)

    def _convention(self, held: Held, path: Path) -> _Convention:
        if self.options.convention is None:
            raise ArtifactError(
                f"{path} doesn't say who wrote it, and producers number layers differently: direction.k of repeng is "
                "the output of block k, and of llama.cpp's cvector-generator the output of block k-1. Say which: "
                "convention: repeng, or convention: cvector-generator (on the command line --convention)."
            )
        return _BY_NAME[self.options.convention]

    def _require_ours(self, path: Path) -> None:
        if self.options.convention == "cvector-generator":
            raise ArtifactError(f"{path} says that steerkit wrote it. Leave out the convention.")


class RepengFormat(_ControlVectors[RepengOptions]):
    """``ControlVector.export_gguf`` of repeng, which reads at the last token of each text."""

    convention = _REPENG


class CvectorGeneratorFormat(_ControlVectors[CvectorGeneratorOptions]):
    """What cvector-generator writes, which reads at every token. llama.cpp adds such a vector one block behind."""

    convention = _CVECTOR


class EasysteerFormat(_ControlVectors[EasysteerOptions]):
    """``StatisticalControlVector.export_gguf`` of EasySteer. Its older files don't say that they are its."""

    convention = _EASYSTEER
    half = True
    from_zero = True

    def sniff(self, path: Path) -> bool:
        """Whether it says that EasySteer wrote it."""
        if not is_control_vector(path):
            return False
        try:
            held = look(path, half=True, from_zero=True)
            return easysteer_facts(held, path) is not None
        except SteerkitError:
            return False

    def _also_lost(self, held: Held, path: Path) -> tuple[str, ...]:
        facts = easysteer_facts(held, path) or {}
        component = facts.get("component")
        if component not in (None, _HIDDEN):
            raise ArtifactError(
                f"{path} holds vectors of EasySteer's component {component!r}, and only those of {_HIDDEN}, the "
                "outputs of blocks, are directions of the stream. Export those."
            )
        if component is None:
            return (f"It doesn't say what was captured; taken as {_HIDDEN}, the outputs of blocks.",)
        return ()


def _own_layout(held: Held, own: Mapping[str, Any], path: Path) -> _Layout:
    """A file of ours, by what it says of itself. It must agree with the numbers, which llama.cpp goes by."""
    try:
        sites = {int(number): Site.parse(text) for number, text in own["sites"].items()}
        name, provenance = own["name"], own["provenance"]
        positions = Positions.parse(own["positions"])
        if not isinstance(name, str) or not name or not isinstance(provenance, dict):
            raise ValueError(name)
        agree = sites.keys() == held.rows.keys() and all(_number(site) == number for number, site in sites.items())
    except (KeyError, TypeError, ValueError, AttributeError, SteerkitError):
        agree = False
    if not agree:
        raise ArtifactError(f"{path} is damaged: what it says of itself isn't what it holds. Write it again.")
    return _Layout(held, name, {number: sites[number] for number in held.rows}, positions, provenance)


def _one(contents: Contents) -> Direction:
    directions: Sequence[Direction] = tuple(contents.directions.values())
    if len(directions) != 1:
        listed = ", ".join(map(repr, contents.directions)) or "none"
        raise ArtifactError(
            f"a control vector is one direction, and {counted(len(directions), 'direction')} are to be written "
            f"({listed}). Choose one; a condition that adds several is written by steerkit export."
        )
    return directions[0]


def _number(site: Site) -> int:
    """What a site's vector is called; 0 where it has no place in a control vector."""
    if site.stream == RESID_POST:
        return site.layer
    return max(site.layer - 1, 0) if site.stream == RESID_PRE else 0


def _numbered(direction: Direction) -> tuple[dict[int, ndarray[Any, Any]], dict[int, Site]]:
    """Vectors and their sites, by number.

    Raises:
        ArtifactError: for a site that has none, and what is no vector there.
    """
    import torch

    rows: dict[int, ndarray[Any, Any]] = {}
    sites: dict[int, Site] = {}
    for site, vectors in direction.items():
        number = _number(site)
        if number < 1:
            raise ArtifactError(
                f"direction {direction.name!r} has a vector at {site}, and a control vector acts at outputs of blocks "
                f"from block 1 on: blocks.1.{RESID_POST}, which is blocks.2.{RESID_PRE}, and later ones. Choose "
                "another site, or steer there with a checkpoint: steerkit bake."
            )
        if vectors.shape[0] != 1:
            raise ArtifactError(
                f"direction {direction.name!r} has {counted(vectors.shape[0], 'vector')} at {site}, and a control "
                "vector has one at a block. Choose one of them, or steer with a checkpoint: steerkit bake."
            )
        if number in rows:
            raise ArtifactError(
                f"direction {direction.name!r} has vectors at {sites[number]} and at {site}, which are one place. "
                "Leave one out."
            )
        row = vectors.detach().to("cpu", torch.float32)[0].contiguous()
        if not bool(row.isfinite().all()):
            raise ArtifactError(f"direction {direction.name!r} at {site} holds values that are not finite in float32.")
        if rows and row.shape[0] != next(iter(rows.values())).shape[0]:
            raise ArtifactError(f"direction {direction.name!r} has vectors of several widths, which no one model has.")
        rows[number], sites[number] = row.numpy(), site
    return rows, sites


def _lost(direction: Direction, contents: Contents) -> list[str]:
    """Sentences on what there is no place for."""
    lost = []
    for site, vectors in direction.items():
        wide = vectors.detach()
        if wide.element_size() > 4 and not bool((wide.float().to(wide.dtype) == wide).all()):
            lost.append(f"Vectors at {site} are kept in float32, which rounds them.")
    if direction.reference_means:
        lost.append("A control vector has no place for the reference class's mean.")
    if contents.condition is not None:
        lost.append(
            f"A control vector has no place for condition {contents.condition.name!r}: it is added as it is at every "
            "token. steerkit export writes the coefficient into it."
        )
    return lost
