"""Vectors of nrimsky/CAA: a file per layer, whose name says the layer, in a folder per behaviour.

Read in that repository: ``generate_vectors.py`` (activations are blocks' outputs, at the last token but one of the
question with its answer, which is the letter in ``(A)``), ``behaviors.py`` and ``utils/helpers.py`` (names of files),
``llama_wrapper.py`` (vectors are added to blocks' outputs).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from steerkit.api.blocks import output_of
from steerkit.api.format import Contents, Format, Given, Places, Written
from steerkit.errors import ArtifactError
from steerkit.types import Positions, Site
from steerkit_formats._common import SITES, Reading, not_kept, of_blocks, one_vector, places_at
from steerkit_formats._torch_file import is_matrix, load, saved, sniffed
from steerkit_formats.caa import CaaOptions

_NAME: Final = re.compile(r"vec_layer_(?P<layer>\d{1,6})_(?P<model>.+)\.pt")
_LETTER: Final = Positions("completion", (-2,))


class CaaFormat(Format[CaaOptions]):
    """One vector ``[width]`` per file, or a direction at several blocks in a folder of such files."""

    def sniff(self, path: Path) -> bool:
        """Whether a file is called ``vec_layer_<k>_<model>.pt`` and holds a vector, or a folder has such files."""
        files = _by_layer(path)
        return bool(files) and all(is_matrix(sniffed(file), 1) for file in files.values())

    def files(self, path: Path) -> tuple[Path, ...]:
        """The file, or those of all layers."""
        return tuple(_by_layer(path).values())

    def places(self, path: Path, given: Given = Given()) -> Mapping[str, Places]:
        """Sites and widths."""
        outlines = {layer: sniffed(file) for layer, file in _by_layer(path).items()}
        if not outlines or not all(is_matrix(one, 1) for one in outlines.values()):
            return {}
        sites = [Site("resid_post", layer) for layer in outlines]
        return {_called(path): places_at(sites, [one.shape for one in outlines.values()], _LETTER)}

    def read(self, path: Path, given: Given = Given()) -> Contents:
        """Read one direction, which is called as the folder is, that of a behaviour.

        Raises:
            ArtifactError: where a file is missing, damaged or something else, or holds NaN or infinite values; where
                no name says a layer, or two say the same; where other sites or positions are given.
        """
        if path.is_dir():
            _require_each_once(path)
        files = _by_layer(path)
        if not files:
            raise ArtifactError(
                f"{path}: in this format files are called vec_layer_<k>_<model>.pt, and none is. To read it as a plain "
                "tensor, name format torch and its site."
            )
        reading = Reading(path, given, "caa")
        models = {match["model"] for file in files.values() if (match := _NAME.fullmatch(file.name)) is not None}
        vectors = {Site("resid_post", layer): load(file) for layer, file in files.items()}
        told = {"model": next(iter(models))} if len(models) == 1 else {}
        reading.add(_called(path), vectors, _LETTER, provenance=told)
        return reading.contents()

    def write(self, contents: Contents) -> Written:
        """A folder with a file for each site.

        Raises:
            ArtifactError: for several directions, several vectors at one site, and sites that aren't blocks' outputs.
        """
        lost = not_kept(contents, (SITES,))
        if len(contents.directions) > 1:
            raise ArtifactError("A folder of CAA is one direction's. Write each to a folder of its own.")
        (direction,) = contents.directions.values()
        wanted = {site: output_of(site) for site in direction.sites}
        blocks = of_blocks(direction, wanted, "CAA adds to the outputs of blocks")
        files = {
            f"vec_layer_{layer}_{self.options.model}.pt": saved(one_vector(direction, site, "A file of CAA"))
            for layer, site in blocks.items()
        }
        return Written(lost=tuple(lost), files=files)


def _by_layer(path: Path) -> dict[int, Path]:
    """The vectors' files by layer; none where a path is neither such a file nor a folder of some."""
    try:
        listed = sorted(path.iterdir()) if path.is_dir() else [path]
    except OSError:
        return {}
    found = {int(match["layer"]): file for file in listed if (match := _NAME.fullmatch(file.name)) is not None}
    return dict(sorted(found.items()))


def _require_each_once(folder: Path) -> None:
    layers = [int(match["layer"]) for file in folder.iterdir() if (match := _NAME.fullmatch(file.name)) is not None]
    twice = sorted({layer for layer in layers if layers.count(layer) > 1})
    if twice:
        raise ArtifactError(
            f"{folder} has two files of layer {twice[0]}, perhaps of two models. Name one file, or move the others."
        )


def _called(path: Path) -> str:
    """What a direction is called: as the folder that a behaviour's files lie in."""
    return (path if path.is_dir() else path.absolute().parent).name or "direction"
