"""Directions of a recipe that lie in files of other tools: planned without torch, every mistake told at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerkit.api.format import Given
from steerkit.artifacts.directions import load_directions
from steerkit.artifacts.formats import reader_of
from steerkit.catalog import Catalog, installed
from steerkit.errors import RecipeError
from steerkit.plan import Plan, plan_recipe
from steerkit.progress import SILENT
from steerkit.run import execute
from steerkit.sources import TINY_WIDTH
from tests.formats.test_others import autoencoder
from tests.small_run import results_of


def write(folder: Path, directions: dict[str, dict[str, Any]], steered: str = "") -> Path:
    path = folder / "r.yaml"
    conditions = {name: [{"add": {"direction": name}}] for name in directions if steered in ("", name)}
    raw = {
        "model": {"source": "tiny-random:llama", "chat_template": "none"},
        "data": {"probe": {"inline": ["the day was", "I feel"]}},
        "directions": directions,
        "conditions": conditions,
        "evaluate": [{"cross_entropy": {"data": ["probe"]}}],
        "control": False,
    }
    path.write_text(json.dumps(raw, indent=1))
    return path


def planned(folder: Path, directions: dict[str, dict[str, Any]]) -> Plan:
    return plan_recipe(write(folder, directions), (), installed())


def problems(folder: Path, directions: dict[str, dict[str, Any]]) -> dict[str, str]:
    with pytest.raises(RecipeError) as told:
        planned(folder, directions)
    return {problem.where.removeprefix("directions."): problem.message for problem in told.value.problems}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files of several tools in one folder."""
    for layer in (0, 2):
        (tmp_path / "caa").mkdir(exist_ok=True)
        torch.save(torch.ones(TINY_WIDTH) * (layer + 1), tmp_path / "caa" / f"vec_layer_{layer}_m.pt")
    rows = {str(layer): [0.5] * TINY_WIDTH for layer in (1, 2)}
    (tmp_path / "v.svec").write_text(json.dumps({"model_type": "llama", "directions": rows}))
    np.save(tmp_path / "rows.npy", np.ones((3, TINY_WIDTH), np.float32))
    torch.save(torch.ones(2, TINY_WIDTH), tmp_path / "anybody.pt")
    np.save(tmp_path / "wide.npy", np.ones((3, TINY_WIDTH + 1), np.float32))
    autoencoder(tmp_path, torch.ones(4, TINY_WIDTH))
    return tmp_path


GOOD: dict[str, dict[str, Any]] = {
    "caa": {"file": "caa"},
    "cast": {"file": "v.svec"},
    "other": {"file": "v.svec", "format": "svec", "convention": "caa"},
    "rows": {"file": "rows.npy", "site": "blocks.*.resid_post"},
    "two": {"file": "anybody.pt", "format": "torch", "site": "blocks.1.resid_post", "positions": "completion"},
    "persona": {"file": "anybody.pt", "format": "persona_vectors", "positions": "completion"},
    "feature_3": {"file": "sae", "options": {"features": [3, 1]}},
}
SITES = {
    "caa": ["blocks.0.resid_post", "blocks.2.resid_post"],
    "cast": ["blocks.1.resid_pre", "blocks.2.resid_pre"],
    "other": ["blocks.1.resid_post", "blocks.2.resid_post"],
    "rows": [f"blocks.{layer}.resid_post" for layer in range(3)],
    "two": ["blocks.1.resid_post"],
    "persona": ["blocks.0.resid_pre", "blocks.0.resid_post"],
    "feature_3": ["blocks.2.resid_post"],
}


def test_a_run_steers_at_the_sites_that_the_plan_knew(files: Path) -> None:
    plan = planned(files, GOOD)
    formats = {item.name: item.reader.name for item in plan.directions if item.reader is not None}
    assert formats == {
        "caa": "caa",
        "cast": "svec",
        "other": "svec",
        "rows": "npy",
        "two": "torch",
        "persona": "persona_vectors",
        "feature_3": "saelens",
    }
    for item in plan.directions:
        assert item.reader is not None and item.file is not None
        places = reader_of(item.reader, item.options).places(item.file, Given(item.site, item.positions))
        said = places.get(item.name, next(iter(places.values()))).sites or (item.site,)
        assert [str(site) for site in said] == SITES[item.name]
    assert {("format", name) for name in set(formats.values())} <= {(one["kind"], one["name"]) for one in plan.plugins}
    run = execute(plan, files / "runs", SILENT)
    kept = load_directions(run / "directions.safetensors")
    assert {name: [str(site) for site in direction.sites] for name, direction in kept.items()} == SITES
    assert str(kept["two"].positions) == "completion" and len(kept["two"].vectors) == 2
    notes = results_of(run)["notes"]
    assert any("Direction persona, as its file was read: Its last row was read behind" in note for note in notes)


def test_every_mistake_is_told_at_once_where_it_stands(files: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(TINY_WIDTH), "b": Bomb()}, files / "evil.pt")
    wrong: dict[str, dict[str, Any]] = {
        "a": {"file": "caa", "format": "cca"},
        "b": {"file": "caa", "format": "svec"},
        "c": {"file": "v.svec", "options": {"covnention": "caa"}},
        "d": {"file": "v.svec", "convention": "castt"},
        "e": {"file": "caa", "convention": "caa"},
        "f": {"file": "v.svec", "convention": "caa", "options": {"convention": "caa"}},
        "g": {"file": "wide.npy", "site": "blocks.*.resid_post"},
        "h": {"file": "rows.npy"},
        "i": {"file": "rows.npy", "site": "blocks.0-1.resid_post"},
        "j": {"file": "caa", "site": "blocks.0.resid_pre"},
        "k": {"file": "sae"},
        "l": {"file": "evil.pt", "site": "embed"},
        "m": {"file": ".", "site": "embed"},
        "n": {"file": "anybody.pt", "format": "lm_eval_steered"},
        "o": {"file": "sae", "options": {"features": [9]}},
    }
    found = problems(files, wrong)
    for where, said in {
        "a.format": "Unknown format 'cca'. Did you mean 'caa'",
        "b.file": "is not of format svec; remove format, or name another file",
        "c.options.covnention": "unknown key. Did you mean 'convention'?",
        "d.convention": "did you mean 'cast'?",
        "e.convention": "format caa has one convention only",
        "f.convention": "the convention is given twice",
        "g.file": f"of width {TINY_WIDTH + 1} at blocks.0.resid_post, and the model's width is {TINY_WIDTH}",
        "h.file": "doesn't say at which site direction 'rows' was estimated",
        "i.file": "blocks.0-1.resid_post are 2 sites, and the file has 3 rows",
        "j.file": "was estimated at blocks.0.resid_post to blocks.2.resid_post, not at blocks.0.resid_pre",
        "k.file": "has 4 features, and none is asked for",
        "l.file": f"is a pickle that names {os.mkdir.__module__}.mkdir",
        "m.file": "is a folder, and no format knows what is in it",
        "n.format": "format lm_eval_steered is only written, and not read",
        "o.file": "has features 0 to 3, and none of number 9",
    }.items():
        assert said in found.get(where, ""), (where, found)
    assert len(found) == len(wrong)
    assert not (tmp_path / "ran").exists()


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def test_a_convention_is_for_files(tmp_path: Path) -> None:
    estimated = {"estimator": "mean_difference", "positive": "probe.all", "negative": "probe.all", "site": "embed"}
    assert "convention is for a direction from a file; remove it" in str(
        problems(tmp_path, {"d": {**estimated, "convention": "caa"}})
    )


def test_a_plan_changes_with_every_file_that_is_read(files: Path) -> None:
    one = {"caa": GOOD["caa"]}
    before = planned(files, one).hash
    assert planned(files, one).hash == before
    torch.save(torch.full((TINY_WIDTH,), 9.0), files / "caa" / "vec_layer_2_m.pt")
    assert planned(files, one).hash != before
    (files / "caa" / "notes.txt").write_text("No vector.")
    changed = planned(files, one).hash
    (files / "caa" / "notes.txt").write_text("No vector, still.")
    assert planned(files, one).hash == changed


def test_files_of_others_are_planned_without_torch(files: Path) -> None:
    path = write(files, GOOD)
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from steerkit.plan import plan_recipe; "
        f"from steerkit.catalog import Catalog; plan_recipe({str(path)!r}, (), Catalog.discover()); "
        "sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_stranger_s_catalog_without_these_formats_says_so(files: Path) -> None:
    import steerkit_formats.steerkit

    catalog = Catalog.from_modules(
        steerkit_formats.steerkit, *(sys.modules[name] for name in sorted(sys.modules) if name in PLUGINS)
    )
    with pytest.raises(RecipeError, match="is a folder, and no format knows what is in it"):
        plan_recipe(write(files, {"caa": GOOD["caa"]}), (), catalog)


PLUGINS = ("steerkit_architectures.llama", "steerkit_interventions.add", "steerkit_evaluators.cross_entropy")
