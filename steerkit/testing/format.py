"""Conformance of formats: ``FormatSuite``.

from steerkit.testing import FormatSuite
import my_package.vectors as plugin

class TestVectors(FormatSuite):
    plugin = plugin
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.api.condition import SavedCondition, SavedGate, SavedIntervention
from steerkit.api.direction import Direction
from steerkit.api.format import Contents, Format
from steerkit.api.hookspecs import FormatSpec
from steerkit.errors import ArtifactError
from steerkit.testing._suite import PluginSuite
from steerkit.types import Positions, Site


class FormatSuite(PluginSuite[FormatSpec]):
    """Inherit it, and set ``plugin``. Override ``directions`` where the format can't hold what they are.

    What a format has no place for is allowed to be lost, if ``lost`` says so.
    """

    def format(self) -> Format[Any]:
        """The format under test."""
        made = self.implementation()(self.options())
        assert isinstance(made, Format), "Derive the implementation from steerkit.api.format.Format."
        return made

    def directions(self) -> Sequence[Direction]:
        """Directions to write: of rank 1 and 2, with and without the mean of the reference class."""
        generator = torch.Generator().manual_seed(0)
        one, two, mean = (torch.randn(*shape, generator=generator) for shape in ((1, 8), (2, 8), (8,)))
        return (
            Direction(one, Site("resid_pre", 3), Positions.parse("-1"), "warmth", mean, {"estimator": "made_up"}),
            Direction(two, Site("resid_post", 1), Positions.parse("instruction"), "tone"),
        )

    def condition(self) -> SavedCondition:
        """A condition to write beside the directions: all that one can say."""
        names = tuple(direction.name for direction in self.directions())
        gate = SavedGate(names[-1], below=-0.1, site="blocks.0.resid_pre", at="prompt", positions="instruction[-1]")
        sites, schedule = ("blocks.1.mlp_out", "blocks.*.resid_post"), "linear(1, 0, 64)"
        options = {"coefficient": [0.1, -2.0], "at": None}
        steered = SavedIntervention("add", names[:1], options, sites, "generated[:8]", schedule, gate)
        return SavedCondition("wärmer", (steered, SavedIntervention("ablate", names[-1:])), "Be kind.", "hook")

    def written(self, folder: Path) -> Path:
        """A file of the directions."""
        path = folder / f"directions{(self.spec().suffixes or ('',))[0]}"
        path.write_bytes(self.format().write(self._contents()).data)
        return path

    def _contents(self) -> Contents:
        return Contents({direction.name: direction for direction in self.directions()})

    def test_suffixes_are_those_of_files(self) -> None:
        """People see them in ``steerkit plugins``."""
        assert self.spec().suffixes and all(suffix.startswith(".") for suffix in self.spec().suffixes)

    def test_options_have_defaults(self) -> None:
        """A file is sniffed at before anybody says how it is to be read."""
        self.spec().options()

    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        """Names and vectors come back in their order; all else does too, or ``lost`` says something."""
        contents = self.format().read(self.written(tmp_path))
        lost = (*contents.lost, *self.format().write(self._contents()).lost)
        assert list(contents.directions) == [direction.name for direction in self.directions()]
        for before in self.directions():
            after = contents.directions[before.name]
            for site, vectors in _vectors(before).items():
                assert torch.equal(_vectors(after)[site], vectors) or lost, f"Vectors of {before.name} changed."
            assert _vectors(after).keys() == _vectors(before).keys() or lost, f"Sites of {before.name} changed."
            assert after.positions == before.positions or lost, f"Positions of {before.name} changed."
            assert dict(after.provenance) == dict(before.provenance) or lost, f"Provenance of {before.name} changed."

    def test_a_condition_is_read_or_said_to_be_lost(self, tmp_path: Path) -> None:
        """A format that has no place for one says a sentence more in ``lost``, and still writes the directions."""
        contents = replace(self._contents(), condition=self.condition())
        written = self.format().write(contents)
        told = set(written.lost) - set(self.format().write(self._contents()).lost)
        path = self.written(tmp_path)
        path.write_bytes(written.data)
        found = self.format().read(path)
        assert self.format().sniff(path) is True, "A file that holds a condition isn't known any more."
        assert list(found.directions) == list(contents.directions)
        assert found.condition == contents.condition or told, (
            "The condition isn't read as it was, and `lost` is silent."
        )
        assert self.format().write(contents).data == written.data, "Equal conditions give other bytes."

    def test_a_condition_without_directions_is_read_or_refused(self, tmp_path: Path) -> None:
        """A system prompt alone takes no direction: a format without a place for it would write an empty file."""
        alone = Contents(condition=SavedCondition("prompted", system_prompt="Be kind."))
        try:
            written = self.format().write(alone)
        except ArtifactError:
            return
        path = self.written(tmp_path)
        path.write_bytes(written.data)
        assert self.format().read(path).condition == alone.condition

    def test_equal_directions_give_equal_bytes(self) -> None:
        """Results are compared byte for byte."""
        assert self.format().write(self._contents()).data == self.format().write(self._contents()).data

    def test_knows_its_own_files_and_no_others(self, tmp_path: Path) -> None:
        """Whatever else a file holds, sniffing at it gives False and never raises."""
        assert self.format().sniff(self.written(tmp_path)) is True
        stranger = tmp_path / f"stranger{(self.spec().suffixes or ('',))[0]}"
        for data in (b"", b"{}", b"\x80\x04.", b"PK\x03\x04", b"\xff" * 64, b"GGUF" + bytes(60), bytes(200)):
            stranger.write_bytes(data)
            assert self.format().sniff(stranger) is False, f"A file that holds {data[:8]!r} is taken for this format."
        assert self.format().sniff(tmp_path / "nothing") is False

    def test_sniffing_needs_no_torch(self, tmp_path: Path) -> None:
        """``steerkit check`` looks at files without torch."""
        path = self.written(tmp_path)
        module, _, attribute = self.spec().implementation.partition(":")
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from pathlib import Path; "
            f"from {module} import {attribute} as made; from {self.plugin.__name__} import {self.kind().hook} as hook; "
            f"spec = next(one for one in hook() if one.name == {self.spec().name!r}); "
            f"assert made(spec.options()).sniff(Path({str(path)!r})); sys.exit('torch' in sys.modules)"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{module} imports torch to sniff, or fails alone:\n{result.stderr}"

    def test_a_damaged_file_is_an_error_that_says_so(self, tmp_path: Path) -> None:
        """Half of a file, and none, are the user's news, never a traceback or half of the directions."""
        path = self.written(tmp_path)
        data = path.read_bytes()
        for part in (data[: len(data) // 2], b""):
            path.write_bytes(part)
            with pytest.raises(ArtifactError):
                self.format().read(path)
        with pytest.raises(ArtifactError):
            self.format().read(tmp_path / "nothing")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_refuses_values_that_are_not_finite(self, value: float) -> None:
        """NaN never becomes a direction."""
        direction = self.directions()[0]
        # None is made of such values, but its vectors may be written to afterwards.
        direction = direction.with_vectors(direction.vectors.clone())
        direction.vectors[0, 0] = value
        with pytest.raises(ArtifactError):
            self.format().write(Contents({direction.name: direction}))


def _vectors(direction: Direction) -> dict[Site, torch.Tensor]:
    return {direction.site: direction.vectors}
