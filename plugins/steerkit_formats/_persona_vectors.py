"""Matrices of safety-research/persona_vectors: ``hidden_states`` of transformers, averaged and subtracted.

Read in a copy of that repository, dxnlp/persona_vectors (its own isn't among those that could be read):
``generate_vec.py`` (row k is ``hidden_states[k]``; names of files say at which tokens they were read),
``eval/eval_persona.py`` (row k is added with ``layer_idx=k - 1``) and ``activation_steer.py`` (at a block's output).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from steerkit.api.format import Contents, Format, Given, Places
from steerkit.errors import ArtifactError
from steerkit.types import Positions, Site
from steerkit_formats._common import Reading, places_at
from steerkit_formats._torch_file import is_matrix, load, sniffed
from steerkit_formats.persona_vectors import PersonaVectorsOptions

_NAME: Final = re.compile(r"(?P<trait>.+)_(?P<read>prompt_avg|response_avg|prompt_last)_diff\.pt")
_POSITIONS: Final = {
    "prompt_avg": Positions("prompt"),
    "response_avg": Positions("completion"),
    "prompt_last": Positions("", (-1,)),
}
_LAST_ROW: Final = (
    "Its last row was read behind the model's final norm, as transformers gives it; it is taken for one of the stream, "
    "at the last block's output, where persona_vectors adds it."
)


class PersonaVectorsFormat(Format[PersonaVectorsOptions]):
    """A tensor ``[layers + 1, width]``."""

    def sniff(self, path: Path) -> bool:
        """Whether a file is called as the repository calls it, and holds a matrix."""
        return _NAME.fullmatch(path.name) is not None and self.accepts(path)

    def accepts(self, path: Path) -> bool:
        """Whether a file holds a matrix of two rows or more."""
        held = sniffed(path)
        return is_matrix(held, 2) and held.shape[0] > 1

    def places(self, path: Path, given: Given = Given()) -> Mapping[str, Places]:
        """Sites, positions and width."""
        if not self.accepts(path):
            return {}
        rows, width = sniffed(path).shape
        name, positions = _told(path)
        return {name: places_at(_sites(rows), [(width,)] * rows, positions)}

    def read(self, path: Path, given: Given = Given()) -> Contents:
        """Read one direction, called as the trait is, at block 0's input and at every block's output.

        Raises:
            ArtifactError: where the file is missing, damaged or something else, or holds NaN or infinite values; where
                other sites or positions are given.
        """
        matrix = load(path)
        if not self.accepts(path):
            raise ArtifactError(f"{path} isn't a tensor of shape [layers + 1, width]. Name another format.")
        name, positions = _told(path)
        reading = Reading(path, given, "persona_vectors")
        reading.lost.append(_LAST_ROW)
        reading.add(name, dict(zip(_sites(len(matrix)), matrix, strict=True)), positions)
        return reading.contents()


def _sites(rows: int) -> list[Site]:
    return [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in range(rows - 1))]


def _told(path: Path) -> tuple[str, Positions | None]:
    """The trait, and at which tokens a file's name says that it was read."""
    match = _NAME.fullmatch(path.name)
    return (path.stem, None) if match is None else (match["trait"], _POSITIONS[match["read"]])
