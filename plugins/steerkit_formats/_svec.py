"""Files ``.svec`` of IBM/activation-steering and IBM/AISteer360.

Read in IBM/activation-steering: ``activation_steering/steering_vector.py`` (``model_type``, ``directions`` by layer,
``explained_variances``; vectors of layer k are estimated from block k's *output*) and ``activation_steering/
leash_layer.py`` (they are added to block k's *input*). In IBM/AISteer360: ``aisteer360/algorithms/state_control/
_common/steering_vector.py`` (rows of vectors by layer, further fields), ``cast/control.py`` (hooks before blocks) and
``caa/control.py`` (behind them). So one layout has two meanings, and option ``convention`` says which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steerkit.api.blocks import input_of, output_of
from steerkit.api.format import Contents, Format, Given, Places, Written
from steerkit.errors import ArtifactError, counted
from steerkit.types import Site
from steerkit.types.json_text import read_json
from steerkit_formats._common import SITES, Reading, content_of, not_kept, of_blocks, one_vector, places_at
from steerkit_formats.svec import SvecOptions

if TYPE_CHECKING:
    from torch import Tensor

_STREAMS: Final = {"cast": "resid_pre", "caa": "resid_post"}


class SvecFormat(Format[SvecOptions]):
    """``{"model_type": ..., "directions": {layer: numbers}, ...}``."""

    def sniff(self, path: Path) -> bool:
        """Whether a file is called ``.svec`` and is JSON with such keys."""
        return path.suffix.lower() == ".svec" and self.accepts(path)

    def accepts(self, path: Path) -> bool:
        """Whether a file is JSON with such keys."""
        try:
            _held(path)
        except ArtifactError:
            return False
        return True

    def places(self, path: Path, given: Given = Given()) -> Mapping[str, Places]:
        """Sites and widths."""
        try:
            rows = {site: _row(numbers, site, path) for site, numbers in self._by_site(path).items()}
        except ArtifactError:
            return {}
        return {path.stem: places_at(list(rows), [(len(row),) for row in rows.values()], None)}

    def fault(self, path: Path) -> str | None:
        """What keeps its numbers from being vectors."""
        try:
            for site, numbers in self._by_site(path).items():
                _row(numbers, site, path)
        except ArtifactError as error:
            return str(error)
        return None

    def read(self, path: Path, given: Given = Given()) -> Contents:
        """Read one direction, called as the file is.

        Raises:
            ArtifactError: where the file is missing, damaged or something else; for several vectors at a layer, which
                mean a plane, tokens or heads, as the method has it; for NaN or infinite values; where other sites are
                given.
        """
        held = _held(path)
        vectors = {site: _shortest(_row(numbers, site, path)) for site, numbers in self._by_site(path).items()}
        reading = Reading(path, given, "svec")
        told = {"model_type": str(held["model_type"]), "convention": self.options.convention}
        reading.add(path.stem, vectors, None, provenance=told)
        return reading.contents()

    def write(self, contents: Contents) -> Written:
        """The file; numbers have all their digits.

        Raises:
            ArtifactError: for several directions, several vectors at one site, and sites that are at no block's end.
        """
        lost = not_kept(contents, (SITES,))
        if len(contents.directions) > 1:
            raise ArtifactError("A file .svec holds one direction. Write each to a file of its own.")
        (direction,) = contents.directions.values()
        at_input = self.options.convention == "cast"
        wanted = {site: input_of(site) if at_input else output_of(site) for site in direction.sites}
        what = "CAST adds to the inputs of blocks" if at_input else "CAA adds to the outputs of blocks"
        blocks = of_blocks(direction, wanted, what)
        rows = {str(layer): one_vector(direction, site, "A file .svec").tolist() for layer, site in blocks.items()}
        held = {"model_type": self.options.model_type, "directions": rows}
        # The older of the two tools looks its variances up, one for each layer; here none is known.
        held["explained_variances"] = dict.fromkeys(rows, 1.0)
        lost.append("Variances that the vectors explain aren't known; the file says 1.0 of each.")
        return Written(json.dumps(held).encode(), tuple(lost))

    def _by_site(self, path: Path) -> dict[Site, Any]:
        stream, found = _STREAMS[self.options.convention], {}
        for text, numbers in _held(path)["directions"].items():
            if not text.isdecimal() or len(text) > 6:
                raise ArtifactError(f"{path}: {text!r} is no block's number. Number layers from 0.")
            site = Site(stream, int(text))
            if site in found:
                raise ArtifactError(f"{path} has layer {site.layer} twice, once as {text!r}. Leave one of them.")
            found[site] = numbers
        return dict(sorted(found.items()))


def _held(path: Path) -> dict[str, Any]:
    try:
        held = read_json(content_of(path))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged or no file .svec ({error}). Get a whole copy.") from None
    directions = held.get("directions") if isinstance(held, dict) else None
    if not isinstance(directions, dict) or not directions or not isinstance(held.get("model_type"), str):
        raise ArtifactError(f"{path} is JSON, but no file .svec: it lacks model_type and directions by layer.")
    return dict(held)


def _row(numbers: Any, site: Site, path: Path) -> list[float]:
    """The numbers of one vector, which a newer file has as the only row of a matrix."""
    if isinstance(numbers, list) and numbers and all(isinstance(row, list) for row in numbers):
        if len(numbers) > 1:
            raise ArtifactError(
                f"{path} holds {counted(len(numbers), 'vector')} for layer {site.layer}, which are tokens, a plane or "
                "heads, as the method has it, and it doesn't say which. Write one vector for each layer."
            )
        numbers = numbers[0]
    good = isinstance(numbers, list) and all(type(one) in (int, float) for one in numbers)
    if not good or not numbers:
        raise ArtifactError(f"{path}: layer {site.layer} has no list of numbers. Get a whole copy.")
    try:
        return [float(one) for one in numbers]
    except OverflowError:
        raise ArtifactError(f"{path}: a number of layer {site.layer} is too large. Estimate it again.") from None


def _shortest(numbers: list[float]) -> Tensor:
    """Numbers in float32, in which a model's vectors were, unless that rounds one."""
    import torch

    whole = torch.tensor(numbers, dtype=torch.float64)
    short = whole.float()
    return short if torch.equal(short.double(), whole) else whole
