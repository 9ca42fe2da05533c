"""Formats as a kind: a stranger's format is sniffed, read, written, and named in recipes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import steerkit_formats.steerkit
from steerkit.api.direction import Direction
from steerkit.api.format import Contents, Format, Given, Written
from steerkit.api.hookspecs import FormatSpec, NoOptions, hookimpl
from steerkit.artifacts.directions import load_directions, read_file, save_directions
from steerkit.catalog import Catalog
from steerkit.errors import ArtifactError, RecipeError, UnknownNameError
from steerkit.plan.build import make_plan
from steerkit.progress import SILENT
from steerkit.recipe import Draft, draft_recipe
from steerkit.run import execute
from steerkit.sources import TINY_WIDTH
from steerkit.testing import FormatSuite
from steerkit.types import Positions, Site
from tests.small_run import results_of

NOTHING = Given()
ASSUMED = "Positions aren't in the file; 'last' is assumed."


class Toy(Format[NoOptions]):
    """One vector per name in a JSON file that says no positions and no provenance."""

    def sniff(self, path: Path) -> bool:
        try:
            return path.read_bytes().startswith(b'{"toy"')
        except OSError:
            return False

    def read(self, path: Path, given: Given = NOTHING) -> Contents:
        try:
            found = json.loads(path.read_text("utf-8"))["toy"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path} is no toy: {error}. Make it again.") from None
        made = {}
        for name, (site, rows) in found.items():
            if (fault := given.fault(name, [Site.parse(site)], None)) is not None:
                raise ArtifactError(f"{path}: {fault}")
            made[name] = Direction(torch.tensor(rows), Site.parse(site), given.positions or Positions("last"), name)
        assumed = () if given.positions else (ASSUMED,)
        return Contents(made, assumed)

    def write(self, contents: Contents) -> Written:
        if contents.condition is not None and not contents.directions:
            raise ArtifactError("A toy holds vectors only.")
        lost = ("Positions, means and provenance aren't kept.", "The condition isn't kept.")
        held = {}
        for name, direction in contents.directions.items():
            if not bool(torch.isfinite(direction.vectors).all()):
                raise ArtifactError(f"{name} holds NaN. Estimate it again.")
            held[name] = [str(direction.site), direction.vectors.tolist()]
        return Written(json.dumps({"toy": held}).encode(), lost[: 1 if contents.condition is None else 2])


class Greedy(Toy):
    """Claims what Toy does."""


def plugin_of(name: str, attribute: str) -> ModuleType:
    module = ModuleType(f"{name}_plugin")

    @hookimpl
    def steerkit_formats() -> list[FormatSpec]:
        where = f"toy_formats:{attribute}"
        return [FormatSpec(name, "A toy.", where, suffixes=(".toy",))]

    module.STEERKIT_CONTRACT = 2  # type: ignore[attr-defined]
    module.steerkit_formats = steerkit_formats  # type: ignore[attr-defined]
    return module


@pytest.fixture(autouse=True)
def toy_formats() -> Iterator[None]:
    module = ModuleType("toy_formats")
    module.Toy, module.Greedy = Toy, Greedy  # type: ignore[attr-defined]
    sys.modules["toy_formats"] = module
    yield
    del sys.modules["toy_formats"]


TOY, GREEDY = plugin_of("toy", "Toy"), plugin_of("greedy", "Greedy")
CATALOG = Catalog.from_modules(steerkit_formats.steerkit, TOY)


class TestToy(FormatSuite):
    plugin = TOY

    @pytest.mark.xfail(reason="made up in this test, so that no other process can import it", strict=True)
    def test_sniffing_needs_no_torch(self, tmp_path: Path) -> None:
        super().test_sniffing_needs_no_torch(tmp_path)

    @pytest.mark.xfail(reason="made up in this test, so that no other process can import it", strict=True)
    def test_module_imports_no_torch(self) -> None:
        super().test_module_imports_no_torch()


def warmth() -> Direction:
    return Direction(torch.tensor([[1.0, 2.0, 3.0]]), Site("resid_pre", 1), Positions.parse("-2"), "warmth")


def wide() -> Direction:
    return Direction(torch.ones(1, TINY_WIDTH), Site("resid_pre", 1), Positions("last"), "warmth")


def test_a_foreign_format_is_written_and_found_again_by_sniffing(tmp_path: Path) -> None:
    path = tmp_path / "warmth.toy"
    lost = save_directions(path, [warmth()], format="toy", catalog=CATALOG)
    assert lost == ("Positions, means and provenance aren't kept.",)
    for format in (None, "toy"):
        with pytest.warns(UserWarning, match=f"warmth.toy: {ASSUMED}"):
            found = load_directions(path, format=format, catalog=CATALOG)
        assert torch.equal(found["warmth"].vectors, warmth().vectors)
    assert read_file(path, catalog=CATALOG).lost == (ASSUMED,)
    told = read_file(path, positions="instruction", catalog=CATALOG)
    assert (told.directions["warmth"].positions, told.lost) == (Positions("instruction"), ())
    assert save_directions(tmp_path / "w.safetensors", [warmth()], catalog=CATALOG) == ()
    assert load_directions(tmp_path / "w.safetensors", catalog=CATALOG)["warmth"].positions == Positions.parse("-2")


def test_what_a_reader_says_must_agree_with_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_directions(path, [warmth()])
    assert load_directions(path, site="blocks.1.resid_pre", positions=-2)
    with pytest.raises(ArtifactError, match=r"at blocks\.1\.resid_pre, not at blocks\.2\.resid_pre"):
        load_directions(path, site="blocks.2.resid_pre")
    with pytest.raises(ArtifactError, match="at positions '-2', not 'prompt"):
        load_directions(path, positions="last")


def test_a_format_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown format 'tou'\. Did you mean 'toy'"):
        load_directions(tmp_path / "x", format="tou", catalog=CATALOG)


def test_two_formats_that_claim_a_file_are_an_error_that_names_both(tmp_path: Path) -> None:
    path, both = tmp_path / "warmth.toy", Catalog.from_modules(TOY, GREEDY)
    save_directions(path, [warmth()], format="toy", catalog=both)
    with pytest.raises(ArtifactError, match=r"could be in format greedy or toy\. Say which"):
        load_directions(path, catalog=both)
    assert load_directions(path, format="greedy", positions="last", catalog=both)


def recipe(folder: Path, direction: dict[str, str]) -> Draft:
    raw = {
        "name": "formats",
        "model": {"source": "tiny-random:llama", "chat_template": "none"},
        "data": {"probe": {"inline": ["the day was", "I feel"]}},
        "directions": {"warmth": direction},
        "conditions": {"c": [{"add": {"direction": "warmth"}}]},
        "evaluate": [{"cross_entropy": {"data": ["probe"]}}],
        "control": False,
    }
    (folder / "recipe.yaml").write_text(json.dumps(raw))
    return draft_recipe(folder / "recipe.yaml", ())


def test_a_recipe_names_a_format_or_leaves_it_to_the_file(tmp_path: Path) -> None:
    import steerkit_evaluators.cross_entropy
    import steerkit_interventions.add

    catalog = Catalog.from_modules(
        steerkit_formats.steerkit,
        TOY,
        steerkit_interventions.add,
        steerkit_evaluators.cross_entropy,
        *architectures(),
    )
    save_directions(tmp_path / "w.toy", [wide()], format="toy", catalog=CATALOG)
    (planned,) = make_plan(recipe(tmp_path, {"file": "w.toy", "format": "toy"}), catalog).directions
    assert (planned.format, planned.file) == ("toy", tmp_path / "w.toy")
    assert make_plan(recipe(tmp_path, {"file": "w.toy"}), catalog).directions[0].format is None
    plan = make_plan(recipe(tmp_path, {"file": "w.toy"}), catalog)
    run = execute(plan, tmp_path / "runs", SILENT)
    (saved,) = load_directions(run / "directions.safetensors").values()
    assert torch.equal(saved.vectors, wide().vectors)
    told = f"Direction warmth, as its file was read: {ASSUMED}"
    assert told in results_of(run)["notes"]
    assert ("format", "toy") in {(one["kind"], one["name"]) for one in plan.plugins}
    written = recipe(tmp_path, {"file": "w.toy", "format": "toy"}).to_yaml()
    assert "format: toy" in written
    for direction, said in (
        ({"file": "w.toy", "format": "steerkit"}, "w.toy is not of format steerkit"),
        ({"file": "w.toy", "format": "tou"}, "Unknown format 'tou'"),
    ):
        with pytest.raises(RecipeError, match=said):
            make_plan(recipe(tmp_path, direction), catalog)


def architectures() -> list[ModuleType]:
    import steerkit_architectures.llama

    return [steerkit_architectures.llama]
