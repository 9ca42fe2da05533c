"""Directions of andyrdt/refusal_direction: the chosen one, and all its candidates.

Read in that repository: ``pipeline/submodules/generate_directions.py`` (means are taken at the inputs of blocks, in
float64, at the positions −n to −1), ``pipeline/submodules/select_direction.py`` and ``pipeline/run_pipeline.py`` (what
is written), ``pipeline/utils/hook_utils.py`` (where directions are added: the input of block ``layer``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steerkit.api.blocks import input_of
from steerkit.api.format import Contents, Format, Given, Places, Written
from steerkit.errors import ArtifactError
from steerkit.types import Positions, Site
from steerkit.types.json_text import read_json
from steerkit_formats._common import (
    POSITIONS,
    SITES,
    Reading,
    content_of,
    not_kept,
    of_blocks,
    one_vector,
    places_at,
    the_one,
)
from steerkit_formats._torch_file import TensorOutline, is_matrix, load, saved, sniffed
from steerkit_formats.refusal_direction import MeansOptions, RefusalDirectionOptions

if TYPE_CHECKING:
    from steerkit.api.direction import Direction

DIRECTION, METADATA, MEANS = "direction.pt", "direction_metadata.json", "mean_diffs.pt"
_READS_INPUTS: Final = "refusal_direction reads the inputs of blocks"


class RefusalDirectionFormat(Format[RefusalDirectionOptions]):
    """One vector ``[width]`` with the layer and the position that it was found at in a JSON file beside it."""

    def sniff(self, path: Path) -> bool:
        """Whether a folder has both files, or a file is one of the two."""
        return self.accepts(path) and (path.is_dir() or path.name == DIRECTION)

    def accepts(self, path: Path) -> bool:
        """Whether there is a vector with such a JSON file beside it, whatever the vector's file is called."""
        file, beside = _files(path)
        return is_matrix(sniffed(file), 1) and beside.is_file()

    def files(self, path: Path) -> tuple[Path, ...]:
        """The vector's file and the one beside it."""
        return _files(path)

    def places(self, path: Path, given: Given = Given()) -> Mapping[str, Places]:
        """Site, position and width."""
        file, beside = _files(path)
        held = sniffed(file)
        try:
            site, positions = _metadata(beside)
        except ArtifactError:
            return {}
        if not isinstance(held, TensorOutline):
            return {}
        return {"direction": places_at([site], [held.shape], positions)}

    def read(self, path: Path, given: Given = Given()) -> Contents:
        """Read the folder that ``write`` gave, or the vector's file in one.

        Raises:
            ArtifactError: where a file is missing, damaged or something else, or holds NaN or infinite values; where
                it says another site or position than are given.
        """
        file, beside = _files(path)
        vector = load(file)
        site, positions = _metadata(beside)
        reading = Reading(file, given, "refusal_direction")
        reading.add("direction", {site: vector}, positions)
        return reading.contents()

    def write(self, contents: Contents) -> Written:
        """The two files.

        Raises:
            ArtifactError: for several directions, sites or vectors, a site that isn't a block's input, and positions
                other than one from the prompt's end.
        """
        lost = not_kept(contents, (SITES, POSITIONS))
        direction = the_one(contents, "direction.pt")
        blocks = of_blocks(direction, {direction.site: input_of(direction.site)}, _READS_INPUTS)
        metadata = {"pos": _position(direction), "layer": next(iter(blocks))}
        vector = one_vector(direction, direction.site, DIRECTION)
        files = {DIRECTION: saved(vector), METADATA: json.dumps(metadata, indent=4).encode()}
        return Written(lost=tuple(lost), files=files)


class MeansFormat(Format[MeansOptions]):
    """A tensor ``[positions, layers, width]``: a direction at the inputs of all blocks for each position, the last
    ones of a prompt."""

    def sniff(self, path: Path) -> bool:
        """Whether a file is called as the repository calls it, and holds a tensor of three dimensions."""
        return path.name == MEANS and self.accepts(path)

    def accepts(self, path: Path) -> bool:
        """Whether a file holds a tensor of three dimensions."""
        return is_matrix(sniffed(path), 3)

    def places(self, path: Path, given: Given = Given()) -> Mapping[str, Places]:
        """Sites and position of each direction."""
        held = sniffed(path)
        if not is_matrix(held, 3):
            return {}
        positions, layers, width = held.shape
        sites = [Site("resid_pre", layer) for layer in range(layers)]
        return {
            _name(at): places_at(sites, [(width,)] * layers, Positions("", (at,))) for at in self._wanted(positions)
        }

    def read(self, path: Path, given: Given = Given()) -> Contents:
        """Read directions ``mean_diff[-n]`` to ``mean_diff[-1]``, each at ``blocks.0.resid_pre`` and on, or the one of
        option ``position``.

        Raises:
            ArtifactError: where the file is missing, damaged or something else, holds NaN or infinite values, or lacks
                the position; where other sites or positions are given.
        """
        means = load(path)
        if not is_matrix(sniffed(path), 3):
            raise ArtifactError(f"{path} isn't a tensor of shape [positions, layers, width]. Name another format.")
        if self.options.position is not None and not self._wanted(len(means)):
            raise ArtifactError(
                f"{path} has the positions {-len(means)} to -1, and none at {self.options.position}. Choose one."
            )
        reading = Reading(path, given, "refusal_direction_means")
        for at in self._wanted(len(means)):
            vectors = {Site("resid_pre", layer): vector for layer, vector in enumerate(means[at])}
            reading.add(_name(at), vectors, Positions("", (at,)))
        return reading.contents()

    def write(self, contents: Contents) -> Written:
        """The tensor of directions at the inputs of all blocks, for positions −n to −1.

        Raises:
            ArtifactError: for positions or blocks with one left out, sites that aren't blocks' inputs, several vectors
                at one, and widths that differ.
        """
        import torch

        lost = not_kept(contents, (SITES, POSITIONS))
        by_position = {_position(direction): direction for direction in contents.directions.values()}
        count = len(contents.directions)
        if sorted(by_position) != list(range(-count, 0)):
            raise ArtifactError(
                f"{MEANS} holds one direction for each position from {-count} to -1, and these are of "
                f"{', '.join(str(direction.positions) for direction in contents.directions.values())}."
            )
        rows = [_layers(by_position[at]) for at in sorted(by_position)]
        if len({tuple(row.shape) for row in rows}) > 1:
            raise ArtifactError(f"{MEANS} holds directions of one model, and these have other blocks or widths.")
        return Written(saved(torch.stack(rows)), tuple(lost))

    def _wanted(self, count: int) -> list[int]:
        chosen = self.options.position
        return [at for at in range(-count, 0) if chosen in (None, at)]


def _layers(direction: Direction) -> Any:
    """The vectors of a direction at the inputs of blocks 0 and on, ``[layers, width]``."""
    import torch

    blocks = of_blocks(direction, {site: input_of(site) for site in direction.sites}, _READS_INPUTS)
    if list(blocks) != list(range(len(blocks))):
        raise ArtifactError(
            f"{MEANS} holds a vector for every block from 0 on, and {direction.name!r} has some at "
            f"{direction.describe()}. Estimate it at blocks.*.resid_pre."
        )
    return torch.stack([one_vector(direction, site, MEANS) for site in blocks.values()])


def _name(at: int) -> str:
    return f"mean_diff[{at}]"


def _files(path: Path) -> tuple[Path, Path]:
    """The vector's file, and the JSON file beside it."""
    file = path / DIRECTION if path.is_dir() else path
    return file, file.with_name(METADATA)


def _metadata(path: Path) -> tuple[Site, Positions]:
    try:
        told = read_json(content_of(path))
        layer, at = told["layer"], told["pos"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ArtifactError(f"{path} is damaged: it says no layer and pos. Get a whole copy.") from None
    whole = isinstance(layer, int) and isinstance(at, int) and not isinstance(layer, bool) and not isinstance(at, bool)
    if not whole or layer < 0 or at >= 0:
        raise ArtifactError(
            f"{path}: layer is a block's number and pos one from the prompt's end, not {layer!r} and {at!r}."
        )
    return Site("resid_pre", layer), Positions("", (at,))


def _position(direction: Direction) -> int:
    """The one position of a direction, from the prompt's end. Raises ``ArtifactError`` for others."""
    at = direction.positions
    if at.role in ("", "prompt") and len(at.indices) == 1 and at.indices[0] < 0 and not at.each:
        return at.indices[0]
    raise ArtifactError(
        f"refusal_direction counts one position from the prompt's end, as -1, and {direction.name!r} was read at "
        f"'{at}'."
    )
