"""Conformance of formats: ``FormatSuite``.

from steerkit.testing import FormatSuite
import my_package.vectors as plugin

class TestVectors(FormatSuite):
    plugin = plugin
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
import torch

from steerkit.api.condition import SavedCondition, SavedGate, SavedIntervention
from steerkit.api.direction import Direction
from steerkit.api.format import Contents, Format, Given, Written
from steerkit.api.hookspecs import FormatSpec
from steerkit.errors import ArtifactError
from steerkit.testing._suite import PluginSuite
from steerkit.types import Positions, Site

_HARD: tuple[float, ...] = (1 / 3, -0.0, 1.5e-42, 3.4e38, -1.1754944e-38, 16777217.0, 1e-7, 65520.0)
"""Numbers that a shorter type, or digits that are too few, would not give back."""
_EXAMPLES = 40
"""Damaged files that are read, of each kind of damage a few."""


class FormatSuite(PluginSuite[FormatSpec]):
    """Inherit it, and set ``plugin``. Override ``directions`` where the format can't hold what they are.

    What a format has no place for is allowed to be lost, if ``lost`` says so. For a format that only reads override
    ``written`` as well: it makes a file of the directions, in that format's layout, of your own making.

    Class attributes:
        given: what a reader says of files that don't say it themselves.
    """

    given: ClassVar[Given] = Given()

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
        """A file of the directions, or a folder where the format's files are such."""
        if not self.spec().writes:
            raise NotImplementedError("The format only reads: override `written` with a file of your own making.")
        return self._put(self.format().write(self._contents()), folder)

    def _put(self, written: Written, folder: Path) -> Path:
        """What was written, in its place."""
        if not self.spec().folder:
            path = folder / f"directions{(self.spec().suffixes or ('',))[0]}"
            path.write_bytes(written.data)
            return path
        path = folder / "directions"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        for name, data in written.files.items():
            (path / name).write_bytes(data)
        return path

    def _contents(self) -> Contents:
        return Contents({direction.name: direction for direction in self.directions()})

    def _require_both(self) -> None:
        if not (self.spec().reads and self.spec().writes):
            pytest.skip("the format doesn't both read and write")

    def _require_writes(self) -> None:
        if not self.spec().writes:
            pytest.skip("the format is only read")

    def _require_reads(self) -> None:
        if not self.spec().reads:
            pytest.skip("the format is only written")

    # What it says of itself

    def test_suffixes_are_those_of_files(self) -> None:
        """People see them in ``steerkit formats``."""
        assert self.spec().suffixes or self.spec().folder, "Files have a suffix, or are folders."
        assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in self.spec().suffixes)

    def test_options_have_defaults(self) -> None:
        """A file is sniffed at before anybody says how it is to be read."""
        self.spec().options()

    def test_reads_and_writes_as_its_spec_says(self) -> None:
        """Commands go by the spec, without importing the implementation."""
        spec, made = self.spec(), self.implementation()
        assert spec.reads or spec.writes
        assert spec.reads is (made.read is not Format.read), "`reads` and the implementation's `read` say two things."
        assert spec.writes is (made.write is not Format.write), (
            "`writes` and the implementation's `write` say two things."
        )

    def test_a_convention_changes_where_vectors_act(self, tmp_path: Path) -> None:
        """Option ``convention`` is for files of one layout and several meanings; each is described. A file that says
        its own may be refused under another one."""
        field = self.spec().options.model_fields.get("convention")
        if field is None or not self.spec().reads:
            pytest.skip("the format has one convention, or is only written")
        values = [value for one in (field.annotation, *get_args(field.annotation)) for value in get_args(one)]
        names = [value for value in dict.fromkeys(values) if isinstance(value, str)]
        assert len(names) > 1, "The conventions are the values of a Literal."
        path, found = self.written(tmp_path), {}
        for name in names:
            try:
                contents = self.implementation()(self.options(convention=name)).read(path, self.given)
            except ArtifactError:
                found[name] = ()
                continue
            found[name] = tuple(direction.sites for direction in contents.directions.values())
        assert len(set(found.values())) > 1, f"All conventions mean the same sites: {found}."

    # A file, written and read

    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        """Names and vectors come back in their order; all else does too, or ``lost`` says something."""
        self._require_reads()
        contents = self.format().read(self.written(tmp_path), self.given)
        told = self.format().write(self._contents()).lost if self.spec().writes else ("It is only read.",)
        lost = (*contents.lost, *told)
        names = [direction.name for direction in self.directions()]
        assert list(contents.directions) == names or (lost and len(contents.directions) == len(names))
        for before, after in _pairs(self.directions(), contents):
            for site, vectors in before.items():
                assert torch.equal(after.by_site[site], vectors) or lost, f"Vectors of {before.name} changed."
            assert after.sites == before.sites or lost, f"Sites of {before.name} changed."
            assert after.positions == before.positions or lost, f"Positions of {before.name} changed."
            assert dict(after.provenance) == dict(before.provenance) or lost, f"Provenance of {before.name} changed."

    def test_vectors_come_back_to_the_bit(self, tmp_path: Path) -> None:
        """A vector that was read or written isn't rounded, unless ``lost`` has a sentence more for it."""
        self._require_both()

        def filled(numbers: Sequence[float]) -> Contents:
            made = {}
            for direction in self.directions():
                by_site = {
                    site: torch.tensor(numbers).repeat(vectors.numel())[: vectors.numel()].reshape(vectors.shape)
                    for site, vectors in direction.items()
                }
                made[direction.name] = direction.replace(vectors=by_site)
            return Contents(made)

        hard, easy = filled(_HARD), filled((0.5, -2.0))
        written = self.format().write(hard)
        found = self.format().read(self._put(written, tmp_path), self.given)
        told = set(written.lost) - set(self.format().write(easy).lost)
        for before, after in _pairs(list(hard.directions.values()), found):
            pairs = zip(before.by_site.values(), after.by_site.values(), strict=True)
            assert told or all(_same_bits(one, other) for one, other in pairs), f"{before.name} was rounded in silence."

    def test_places_are_those_that_are_read(self, tmp_path: Path) -> None:
        """``steerkit check`` goes by what a file says without torch; what it says is what is read."""
        self._require_reads()
        path = self.written(tmp_path)
        read, places = self.format().read(path, self.given).directions, self.format().places(path, self.given)
        assert places.keys() <= read.keys()
        for name, place in places.items():
            by_site = read[name].by_site
            assert not place.sites or place.sites == tuple(by_site), f"Sites of {name}."
            assert place.positions in (None, read[name].positions), f"Positions of {name}."
            shapes = [tuple(vectors.shape) for vectors in by_site.values()]
            assert not place.ranks or list(place.ranks) == [rank for rank, _ in shapes], f"Ranks of {name}."
            assert not place.widths or list(place.widths) == [width for _, width in shapes], f"Widths of {name}."

    def test_another_site_than_the_file_says_is_refused(self, tmp_path: Path) -> None:
        """What a reader says must agree with the file; a file without sites takes what it is given."""
        self._require_reads()
        if self.given.site is not None:
            pytest.skip("the file doesn't say where its vectors act")
        elsewhere = Given(Site("resid_mid", 99))
        with pytest.raises(ArtifactError, match=r"estimated at .* not at blocks\.99\.resid_mid"):
            self.format().read(self.written(tmp_path), elsewhere)

    def test_a_condition_is_read_or_said_to_be_lost(self, tmp_path: Path) -> None:
        """A format that has no place for one says a sentence more in ``lost``, and still writes the directions."""
        self._require_both()
        contents = replace(self._contents(), condition=self.condition())
        written = self.format().write(contents)
        told = set(written.lost) - set(self.format().write(self._contents()).lost)
        path = self._put(written, tmp_path)
        found = self.format().read(path, self.given)
        assert self.format().accepts(path) is True, "A file that holds a condition isn't known any more."
        assert len(found.directions) == len(contents.directions)
        assert found.condition == contents.condition or told, (
            "The condition isn't read as it was, and `lost` is silent."
        )
        assert _content(self.format().write(contents)) == _content(written), "Equal conditions give other bytes."

    def test_a_condition_without_directions_is_read_or_refused(self, tmp_path: Path) -> None:
        """A system prompt alone takes no direction: a format without a place for it would write an empty file."""
        self._require_writes()
        alone = Contents(condition=SavedCondition("prompted", system_prompt="Be kind."))
        try:
            written = self.format().write(alone)
        except ArtifactError:
            return
        assert self.format().read(self._put(written, tmp_path), self.given).condition == alone.condition

    def test_equal_directions_give_equal_bytes(self) -> None:
        """Results are compared byte for byte."""
        self._require_writes()
        first, second = (self.format().write(self._contents()) for _ in range(2))
        assert _content(first) == _content(second)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_refuses_values_that_are_not_finite(self, value: float) -> None:
        """NaN never becomes a direction."""
        self._require_writes()
        direction = self.directions()[0]
        # None is made of such values, but its vectors may be written to afterwards.
        direction = direction.replace(vectors={site: vectors.clone() for site, vectors in direction.items()})
        next(iter(direction.by_site.values()))[0, 0] = value
        others = {one.name: one for one in self.directions()[1:]}
        with pytest.raises(ArtifactError):
            self.format().write(Contents({direction.name: direction, **others}))

    # Files of others, and damaged ones

    def test_knows_its_own_files_and_no_others(self, tmp_path: Path) -> None:
        """Whatever else a file holds, sniffing at it gives False and never raises."""
        own = self.written(tmp_path)
        assert self.format().sniff(own) is self.spec().reads
        assert self.format().accepts(own) is self.spec().reads
        assert all(file.is_file() for file in self.format().files(own))
        stranger = tmp_path / f"stranger{(self.spec().suffixes or ('',))[0]}"
        for data in (b"", b"{}", b"\x80\x04.", b"PK\x03\x04", b"\xff" * 64, b"GGUF" + bytes(60), bytes(200)):
            stranger.write_bytes(data)
            assert self.format().sniff(stranger) is False, f"A file that holds {data[:8]!r} is taken for this format."
            assert self.format().accepts(stranger) is False, f"A file that holds {data[:8]!r} could be this format."
        empty = tmp_path / "empty"
        empty.mkdir()
        for nothing in (tmp_path / "nothing", empty):
            assert self.format().sniff(nothing) is False and self.format().accepts(nothing) is False
            assert not self.format().places(nothing, self.given)

    def test_sniffing_needs_no_torch(self, tmp_path: Path) -> None:
        """``steerkit check`` looks at files without torch."""
        path = self.written(tmp_path)
        module, _, attribute = self.spec().implementation.partition(":")
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from pathlib import Path; "
            f"from {module} import {attribute} as made; from {self.plugin.__name__} import {self.kind().hook} as hook; "
            f"spec = next(one for one in hook() if one.name == {self.spec().name!r}); "
            f"path = Path({str(path)!r}); made = made(spec.options(**{dict(self.settings)!r})); "
            f"assert made.sniff(path) is spec.reads; made.accepts(path); made.places(path); made.fault(path); "
            "made.files(path); sys.exit('torch' in sys.modules)"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{module} imports torch to sniff, or fails alone:\n{result.stderr}"

    def test_a_damaged_file_is_an_error_that_says_so(self, tmp_path: Path) -> None:
        """Half of a file, and none, are the user's news, never a traceback or half of the directions."""
        self._require_reads()
        path = self.written(tmp_path)
        for file in self.format().files(path):
            data = file.read_bytes()
            for part in (data[: len(data) // 2], b""):
                file.write_bytes(part)
                with pytest.raises(ArtifactError):
                    self.format().read(path, self.given)
            file.write_bytes(data)
        with pytest.raises(ArtifactError):
            self.format().read(tmp_path / "nothing", self.given)

    def test_damage_anywhere_is_read_or_an_error_that_says_so(self, tmp_path: Path) -> None:
        """Bytes that are others, missing or too many lead to ``ArtifactError`` at worst, and sniffing to False."""
        self._require_reads()
        from hypothesis import HealthCheck, given, settings
        from hypothesis import strategies as st

        path = self.written(tmp_path)
        held = {file: file.read_bytes() for file in self.format().files(path)}
        files = st.sampled_from(sorted(held))
        change = st.tuples(
            st.floats(0, 1), st.sampled_from(["other", "missing", "more"]), st.binary(min_size=1, max_size=4)
        )
        quiet = settings(
            max_examples=_EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )

        @quiet
        @given(files, st.lists(change, min_size=1, max_size=4))
        def damaged(file: Path, changes: list[tuple[float, str, bytes]]) -> None:
            data = bytearray(held[file])
            for share, kind, new in changes:
                at = int(share * len(data))
                data[at : at + (0 if kind == "more" else len(new))] = b"" if kind == "missing" else new
            file.write_bytes(bytes(data))
            try:
                assert self.format().sniff(path) in (True, False)
                self.format().places(path, self.given)
                self.format().fault(path)
                try:
                    found = self.format().read(path, self.given)
                except ArtifactError as error:
                    assert str(error).endswith((".", ")")), f"No sentence: {error}"
                else:
                    values = [one for direction in found.directions.values() for one in direction.by_site.values()]
                    assert all(bool(value.isfinite().all()) for value in values)
            finally:
                file.write_bytes(held[file])

        damaged()


def _pairs(before: Sequence[Direction], found: Contents) -> list[tuple[Direction, Direction]]:
    """Each direction with what was read of it: by name, or by place where names aren't kept."""
    read = list(found.directions.values())
    return [(one, found.directions.get(one.name, other)) for one, other in zip(before, read, strict=True)]


def _content(written: Written) -> tuple[bytes, dict[str, bytes]]:
    return written.data, dict(written.files)


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether numbers are the same, zeros with their signs."""
    return torch.equal(one, other.to(one.dtype)) and torch.equal(one.signbit(), other.signbit())
