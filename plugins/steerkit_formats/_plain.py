"""Plain numbers in files of numpy, safetensors and torch, which say where they belong by their keys, or not at all.

A key is ``<name>@<site>``, a site, or a hook's name of TransformerLens or nnterp (``blocks.3.hook_resid_post``,
``layers_output[3]``); any other key is a direction's name, whose site the reader says. An array without a site may have
a row for each site of a pattern.
"""

from __future__ import annotations

import io
import zipfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steerkit.api.direction_bytes import HEADER, read_header
from steerkit.api.format import Contents, Format, Given, Places, Written
from steerkit.errors import ArtifactError, SteerkitError
from steerkit.types import Site
from steerkit_formats._common import (
    NAMES,
    SITES,
    Reading,
    content_of,
    finite,
    not_kept,
    one_vector,
    places_at,
)
from steerkit_formats._torch_file import is_matrix, load, saved, sniffed, torch_fault
from steerkit_formats.plain import PlainOptions

if TYPE_CHECKING:
    import numpy as np

    from steerkit.api.direction import Direction

_MOST_BYTES: Final = 1 << 30
"""Of an archive's arrays, unpacked; a file of vectors has far fewer."""
_MOST_ARRAYS: Final = 4096
_REAL: Final = frozenset({"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8"})
Shapes = Mapping[str, tuple[int, ...]]


class _Plain(Format[PlainOptions]):
    """Arrays by key; the key of one that has none is an empty text."""

    name: str
    suffixes: tuple[str, ...]

    @abstractmethod
    def shapes(self, path: Path) -> Shapes | None:
        """The shape of each array of real numbers by its key; None for any other file."""

    @abstractmethod
    def values(self, path: Path) -> Mapping[str, Any]:
        """The tensors by key. Raises ``ArtifactError`` where there are none to be had."""

    @abstractmethod
    def packed(self, values: Mapping[str, Any]) -> bytes:
        """A file of tensors by key."""

    def sniff(self, path: Path) -> bool:
        """Whether a file is called as such files are, and holds vectors of one width, or matrices of such, alone."""
        if path.suffix.lower() not in self.suffixes:
            return False
        shapes = self.shapes(path)
        return bool(shapes) and self.accepts(path) and len({shape[-1] for shape in (shapes or {}).values()}) == 1

    def accepts(self, path: Path) -> bool:
        """Whether a file holds vectors or matrices, of whichever widths, and nothing else."""
        shapes = self.shapes(path)
        if not shapes or len(shapes) > _MOST_ARRAYS:
            return False
        return all(len(shape) in (1, 2) and 0 not in shape for shape in shapes.values())

    def places(self, path: Path, given: Given = Given()) -> Mapping[str, Places]:
        """Sites and widths, of keys or as the reader says."""
        if not self.accepts(path):
            return {}
        shapes = {key: _Shape(shape) for key, shape in (self.shapes(path) or {}).items()}
        placed = {}
        for name, vectors in _arranged(shapes, given, path).items():
            sites = [site for site in vectors if site is not None]
            placed[name] = places_at(sites, [vector.shape for vector in vectors.values()], None)
        return placed

    def read(self, path: Path, given: Given = Given()) -> Contents:
        """Read directions by their keys; what has no name is called as the file is.

        Raises:
            ArtifactError: where the file is missing, damaged or something else; for NaN or infinite values; where no
                site is said or given, or another one.
        """
        reading = Reading(path, given, self.name)
        for name, vectors in _arranged(self.values(path), given, path).items():
            known = {site: value for site, value in vectors.items() if site is not None}
            where: Mapping[Site, Any] = known
            if not known:
                if not isinstance(given.site, Site):
                    raise ArtifactError(f"{path}: {given.fault(name, (), None)}")
                where = {given.site: vectors[None]}
            reading.add(name, where, None, sites_are_given=not known)
        return reading.contents()

    def write(self, contents: Contents) -> Written:
        """A file with an array ``[rank, width]`` for each direction and site, under ``<name>@<site>``.

        Raises:
            ArtifactError: for NaN or infinite values, or where nothing would be left.
        """
        lost = not_kept(contents, (NAMES, SITES))
        values = {
            f"{name}@{site}": finite(vectors, name)
            for name, direction in contents.directions.items()
            for site, vectors in direction.items()
        }
        return Written(self.packed(values), tuple(lost))


class _Shape:
    """A shape where a tensor will be."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.ndim = len(self.shape)

    def __iter__(self) -> Any:
        return iter([_Shape(self.shape[1:])] * self.shape[0])


def _arranged(values: Mapping[str, Any], given: Given, path: Path) -> dict[str, dict[Site | None, Any]]:
    """Values by direction and site; None where it isn't said. Rows of a matrix go to the sites of a pattern."""
    found: dict[str, dict[Site | None, Any]] = {}
    for key, value in values.items():
        name, site = _key(key, path.stem)
        if site is not None:
            found.setdefault(name, {})[site] = value
            continue
        try:
            sites = given.sites_of_rows(value.shape[0]) if value.ndim == 2 else None
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from None
        rows: dict[Site | None, Any] = {None: value} if sites is None else dict(zip(sites, value, strict=True))
        if name in found:
            raise ArtifactError(f"{path}: direction {name!r} is there with sites and without. Name them all by a site.")
        found[name] = rows
    twice = [name for name, vectors in found.items() if None in vectors and len(vectors) > 1]
    if twice:
        raise ArtifactError(f"{path}: direction {twice[0]!r} is there with sites and without. Name them all by a site.")
    return found


def _key(key: str, stem: str) -> tuple[str, Site | None]:
    """A direction's name, and the site that a key says."""
    name, mark, where = key.rpartition("@")
    if mark and name and (site := _site(where)) is not None:
        return name, site
    site = _site(key)
    return (stem if site is not None else key or stem), site


def _site(text: str) -> Site | None:
    try:
        return Site.parse(text) if text else None
    except SteerkitError:
        return None


class NpyFormat(_Plain):
    """One array, which has no key."""

    name, suffixes = "npy", (".npy",)

    def shapes(self, path: Path) -> Shapes | None:
        """The shape of the array, which isn't read for it."""
        import numpy as np

        try:
            with path.open("rb") as file:
                if file.read(6) != b"\x93NUMPY":
                    return None
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception:  # of damaged headers numpy says so in many ways
            return None
        return {"": array.shape} if array.dtype.kind in "fiu" else None

    def values(self, path: Path) -> Mapping[str, Any]:
        """The one array."""
        return {"": _tensor(_array(content_of(path), str(path)), str(path))}

    def packed(self, values: Mapping[str, Any]) -> bytes:
        """The one array."""
        (value,) = values.values()
        return _npy(value)

    def write(self, contents: Contents) -> Written:
        """The vectors of one direction: ``[width]``, ``[rank, width]``, or or a row for each of several layers.

        Raises:
            ArtifactError: for several directions; at several sites for several vectors at one, or sites that aren't
                one stream's in layers that follow each other; for NaN or infinite values.
        """
        import torch

        lost = not_kept(contents)
        if len(contents.directions) > 1:
            raise ArtifactError("A file .npy holds one direction. Write them to a file .npz, or each to its own.")
        (direction,) = contents.directions.values()
        if direction.is_single:
            vectors = finite(direction.vectors, direction.name)
            vectors = vectors[0] if len(vectors) == 1 else vectors
            lost.append(f"Read it with site: {direction.site}.")
        else:
            pattern = _pattern(direction)
            vectors = torch.stack([one_vector(direction, site, "A file .npy") for site in direction.sites])
            lost.append(f"Read it with site: {pattern}.")
        return Written(_npy(vectors), tuple(lost))


def _pattern(direction: Direction) -> str:
    """The pattern that names the sites of a direction, row by row."""
    first, last = direction.sites[0], direction.sites[-1]
    follow = [Site(first.stream, layer, first.head) for layer in range(first.layer, last.layer + 1)]
    if list(direction.sites) != follow:
        raise ArtifactError(
            f"A file .npy has a row for each of some layers that follow each other, and {direction.name!r} has vectors "
            f"at {', '.join(map(str, direction.sites))}. Write it to a file .npz."
        )
    head = "" if first.head == -1 else f"[{first.head}]"
    return f"blocks.{first.layer}-{last.layer}.{first.stream}{head}"


class NpzFormat(_Plain):
    """Arrays by name in a zip archive."""

    name, suffixes = "npz", (".npz",)

    def shapes(self, path: Path) -> Shapes | None:
        """The shapes of all arrays; None where one isn't of real numbers."""
        try:
            arrays = _arrays(path)
        except ArtifactError:
            return None
        real = all(array.dtype.kind in "fiu" for array in arrays.values())
        return {key: array.shape for key, array in arrays.items()} if real else None

    def values(self, path: Path) -> Mapping[str, Any]:
        """All arrays."""
        return {key: _tensor(array, f"{path}: {key!r}") for key, array in _arrays(path).items()}

    def packed(self, values: Mapping[str, Any]) -> bytes:
        """The archive, whose entries have one date, so that equal arrays give equal bytes."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for key, value in values.items():
                archive.writestr(zipfile.ZipInfo(f"{key}.npy"), _npy(value))
        return buffer.getvalue()


class SafetensorsFormat(_Plain):
    """Tensors by name in a file of safetensors that is none of steerkit's own."""

    name, suffixes = "safetensors", (".safetensors",)

    def shapes(self, path: Path) -> Shapes | None:
        """The shapes of all tensors; None where one isn't of real numbers, or the file is steerkit's own."""
        try:
            header, _ = read_header(path)
            held = {key: entry for key, entry in (header or {}).items() if key != "__metadata__"}
            if HEADER in ((header or {}).get("__metadata__") or {}) or not held:
                return None
            # In the order in which they lie there, which the header's need not be.
            keys = sorted(held, key=lambda key: (int(held[key]["data_offsets"][0]), key))
            shapes = {key: tuple(map(int, held[key]["shape"])) for key in keys}
            return shapes if all(entry["dtype"] in _REAL for entry in held.values()) else None
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            return None

    def values(self, path: Path) -> Mapping[str, Any]:
        """All tensors, in the order in which they lie in the file."""
        from safetensors.torch import load as load_tensors

        content = content_of(path)
        try:
            held: dict[str, Any] = load_tensors(content)
        except Exception as error:  # of damaged files safetensors says so in many ways
            raise ArtifactError(f"{path} is damaged or no safetensors file ({error}). Get a whole copy.") from None
        shapes = self.shapes(path)
        if shapes is None or shapes.keys() != held.keys():
            raise ArtifactError(f"{path} isn't a safetensors file of vectors by name. Name another format.")
        return {key: held[key] for key in shapes}

    def packed(self, values: Mapping[str, Any]) -> bytes:
        """The file."""
        from safetensors.torch import save

        try:
            content: bytes = save(dict(values))
        except UnicodeEncodeError:
            raise ArtifactError("a direction's name holds half of a surrogate pair, which no file can hold.") from None
        return content


class TorchFormat(_Plain):
    """A tensor, or a mapping of tensors, in a file of ``torch.save``."""

    name, suffixes = "torch", (".pt", ".pth")

    def shapes(self, path: Path) -> Shapes | None:
        """The shapes of all tensors; None where there is anything else."""
        held = sniffed(path)
        held = {"": held} if is_matrix(held, 1, 2) else held
        if not isinstance(held, dict) or not all(isinstance(key, (str, int)) for key in held):
            return None
        known = all(is_matrix(one, 1, 2) for one in held.values())
        return {str(key): one.shape for key, one in held.items()} if held and known else None

    def fault(self, path: Path) -> str | None:
        """That a file is no file of torch's, or names what could run code."""
        return torch_fault(path)

    def values(self, path: Path) -> Mapping[str, Any]:
        """All tensors."""
        held = load(path)
        if self.shapes(path) is None:
            raise ArtifactError(
                f"{path} isn't a tensor of shape [width] or [rank, width], nor a mapping from names to such. Name "
                "another format."
            )
        return {str(key): value for key, value in held.items()} if isinstance(held, dict) else {"": held}

    def packed(self, values: Mapping[str, Any]) -> bytes:
        """A mapping of tensors."""
        return saved(dict(values))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file .npz, by name. Raises ``ArtifactError`` for any other file."""
    content = content_of(path)
    if content[:4] != b"PK\x03\x04":
        raise ArtifactError(f"{path} is damaged or no file .npz. Get a whole copy.")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if not entries or not all(entry.filename.endswith(".npy") for entry in entries):
                raise ArtifactError(f"{path} is a zip archive, but no file .npz. Name another format.")
            if sum(entry.file_size for entry in entries) > _MOST_BYTES or len(entries) > _MOST_ARRAYS:
                raise ArtifactError(f"{path} holds far more than vectors.")
            return {entry.filename.removesuffix(".npy"): _array(archive.read(entry), str(path)) for entry in entries}
    except ArtifactError:
        raise
    except Exception as error:  # of damaged archives zipfile says so in many ways
        raise ArtifactError(f"{path} is damaged ({type(error).__name__}: {error}). Get a whole copy.") from None


def _array(content: bytes, where: str) -> np.ndarray:
    """An array of numpy's own format. Raises ``ArtifactError`` for any other bytes."""
    import numpy as np

    if content[:6] != b"\x93NUMPY":
        raise ArtifactError(f"{where} is damaged, or no array of numpy. Get a whole copy.")
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (Exception, MemoryError) as error:  # of damaged headers numpy says so in many ways
        raise ArtifactError(f"{where} is damaged ({type(error).__name__}: {error}). Get a whole copy.") from None
    if not isinstance(array, np.ndarray):
        raise ArtifactError(f"{where} is no array of numpy.")
    return array


def _tensor(array: np.ndarray, where: str) -> Any:
    import numpy as np
    import torch

    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise ArtifactError(f"{where}: vectors are real numbers of at most 64 bits, not {array.dtype}.")
    kept = np.float64 if array.dtype.itemsize == 8 else np.float32
    return torch.from_numpy(np.array(array, dtype=kept, order="C", copy=True))


def _npy(value: Any) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, value.to("cpu").numpy(), allow_pickle=False)
    return buffer.getvalue()
