"""A JSON file: ``{"vector_list": {name: {"site": ..., "positions": ..., "vectors": [[...], ...]}}}``."""

from __future__ import annotations

import json
from pathlib import Path

from steerkit.api.direction import Direction
from steerkit.api.format import Contents, Format, Given, Written
from steerkit.errors import ArtifactError, SteerkitError
from steerkit_template.vector_list import VectorListOptions

START = b'{"vector_list": {'
"""What files begin with: by it they are told from others."""


class VectorList(Format[VectorListOptions]):
    """Vectors with all their digits. Means of the reference class, provenance and conditions are lost, and said to
    be."""

    def sniff(self, path: Path) -> bool:
        """Whether a file begins as those that ``write`` gives."""
        try:
            with path.open("rb") as file:
                return file.read(len(START)) == START
        except OSError:
            return False

    def read(self, path: Path, given: Given = Given()) -> Contents:
        """Read what ``write`` gave: ``[rank, d_model]`` float32 at one site for each name.

        Raises:
            ArtifactError: where the file is missing, damaged, or holds NaN or infinite values; where it says another
                site or other positions than are given.
        """
        import torch  # here: `steerkit check` looks at files without torch

        try:
            listed = json.loads(path.read_text("utf-8"))["vector_list"]
            directions = {
                name: Direction(torch.tensor(held["vectors"]).float(), held["site"], held["positions"], name)
                for name, held in listed.items()
            }
        except OSError as error:
            raise ArtifactError(f"{path} can't be read ({error.strerror}). Check the path.") from None
        except SteerkitError as error:
            raise ArtifactError(f"{path}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArtifactError(f"{path} is damaged ({type(error).__name__}: {error}). Write it again.") from None
        for name, direction in directions.items():
            fault = given.fault(name, direction.sites, direction.positions)
            if fault:
                raise ArtifactError(f"{path}: {fault}")
        return Contents(directions)

    def write(self, contents: Contents) -> Written:
        """The file's bytes; equal directions give equal ones.

        Raises:
            ArtifactError: for NaN or infinite values, for a direction at several sites, and for a condition without
                directions, of which nothing would be left.
        """
        listed, lost = {}, []
        if contents.condition is not None:
            told = f"Condition {contents.condition.name!r} isn't kept: a list of vectors has no place for one."
            if not contents.directions:
                raise ArtifactError(f"{told} Save it in the format steerkit.")
            lost.append(told)
        for name, direction in contents.directions.items():
            if not direction.is_single:
                raise ArtifactError(f"{name!r} has vectors at {direction.describe()}. Write direction.at(site) of one.")
            vectors = direction.vectors.tolist()
            try:
                json.dumps(vectors, allow_nan=False)
            except ValueError:
                raise ArtifactError(f"{name!r} holds NaN or infinite values. Estimate it again in float32.") from None
            listed[name] = {"site": str(direction.site), "positions": str(direction.positions), "vectors": vectors}
            if direction.reference_means or direction.provenance:
                lost.append(f"Of {name!r} the mean of the reference class and the provenance aren't kept.")
        return Written(json.dumps({"vector_list": listed}).encode(), tuple(lost))
