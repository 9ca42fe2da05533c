"""What a killed run left and somebody damaged is discarded, noted in the log, and computed again."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerkit.artifacts.directions import load_directions
from steerkit.artifacts.files import HALVES
from steerkit.artifacts.rundir import DIGEST, LOG, STAGES, TIMINGS
from steerkit.artifacts.store import STORE
from steerkit.errors import ArtifactError, RecipeError
from steerkit.run import run_recipe
from tests.small_run import RECIPE, STABLE, carried, runs_in

DAMAGE = {
    "empty": lambda whole: b"",
    "half": lambda whole: whole[: len(whole) // 2],
    "no text": lambda whole: b"\xff\xfe" + whole,
    "another list": lambda whole: b"[[], 1]",
    "longer": lambda whole: whole + b" ",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_damaged_is_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: object) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE)
    whole = run_recipe(recipe, out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        carried(patch, dies_at=7)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, out=tmp_path / "runs")
    (killed,) = runs_in(tmp_path / "runs")
    entries = [path for path in (tmp_path / "runs" / STORE).rglob("*") if path.is_file()]
    others = [path for path in killed.rglob("*") if path.is_file() and path.name not in (".lock", LOG)]
    assert len(entries) > 6 and {killed / STAGES / TIMINGS, killed / STAGES / DIGEST} <= {*others}
    for path in (*entries, *others):
        path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    (entries[0].parent / f".{entries[0].name}.0123456789abcdef.tmp").touch()
    done = carried(monkeypatch)
    assert run_recipe(recipe, out=tmp_path / "runs") == killed and runs_in(tmp_path / "runs") == [killed]
    assert len(done) >= len(entries)
    for name in STABLE:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    log = (killed / LOG).read_text()
    assert log.count("it is discarded and computed again") == len(entries)
    assert (f"{TIMINGS} can't be read and is discarded" in log) == (damage is not DAMAGE["longer"])
    assert not list((tmp_path / "runs").rglob(HALVES))


def test_half_of_a_saved_direction_is_told_by_its_path_and_not_by_the_command_that_failed(tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE)
    saved = run_recipe(recipe, out=tmp_path / "runs") / "directions.safetensors"
    whole = saved.read_bytes()
    saved.write_bytes(whole[:-9])
    line = next(line for line in RECIPE.split("\n") if line.startswith("  warmth: "))
    recipe.write_text(RECIPE.replace(line, f"  warmth: {{file: {saved}}}"))
    with pytest.raises(RecipeError, match="run the recipe that wrote it once more") as told:
        run_recipe(recipe, out=tmp_path / "runs")
    assert str(saved) in str(told.value) and "steerkit run" not in str(told.value)
    with pytest.raises(ArtifactError, match="run the recipe that wrote it once more"):
        load_directions(saved)
