"""The paper's own split: drawn as its code draws it, run with one profile, and missed with words that help."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steerkit.catalog import Catalog
from steerkit.errors import RecipeError
from steerkit.plan import plan_recipe
from steerkit.plan.profiles import plan_profiles
from steerkit.recipe.schema import SPLITS

PAPER = Path(__file__).parents[2] / "recipes" / "paper"
FAMILIES = sorted(path.stem for path in PAPER.glob("*.yaml"))
SIZES = {
    **{f"splits/harmful_{part}": size for part, size in (("train", 260), ("val", 39))},
    **{f"splits/harmless_{part}": size for part, size in (("train", 300), ("val", 90), ("test", 120))},
    "processed/jailbreakbench": 100,
    "processed/harmbench_test": 159,
}
SETS = ("harmful", "unseen", "harmless")


def sample(name: str, size: int, generator: random.Random) -> list[str]:
    return generator.sample([f"splits/{name} no. {place}" for place in range(SIZES[f"splits/{name}"])], size)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "dataset"
    for name, size in SIZES.items():
        rows = [{"instruction": f"{name} no. {place}", "category": None} for place in range(size)]
        if name == "processed/jailbreakbench":  # one of them is drawn for training too, in other capitals
            rows[7]["instruction"] = sample("harmful_train", 128, random.Random(42))[3].upper()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    return folder


def draw(folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PAPER / "draw_prompts.py"), str(folder), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def prompts(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "prompts"
    done = draw(dataset, out)
    assert done.returncode == 0, done.stderr
    return out


def test_prompts_are_drawn_in_the_order_of_the_reference(prompts: Path) -> None:
    one = random.Random(42)  # for all of them, in this order
    harmful_train, harmless_train = sample("harmful_train", 128, one), sample("harmless_train", 128, one)
    harmful_val, harmless_val = sample("harmful_val", 32, one), sample("harmless_val", 32, one)
    harmless_test = sample("harmless_test", 100, one)
    found: dict[str, dict[str, list[str]]] = {}
    for name in ("harmful", "harmless", "harmbench"):
        rows = [json.loads(line) for line in (prompts / f"{name}.jsonl").read_text("utf-8").splitlines()]
        found[name] = {part: [row["text"] for row in rows if row["part"] == part] for part in SPLITS}
    assert found["harmful"]["train"] == harmful_train and found["harmful"]["validation"] == harmful_val
    assert found["harmless"] == {"train": harmless_train, "validation": harmless_val, "test": harmless_test}
    bench = [f"processed/jailbreakbench no. {place}" for place in range(100) if place != 7]
    assert found["harmful"]["test"] == bench and len(found["harmbench"]["test"]) == 159


def test_tests_that_are_trained_on_are_counted(dataset: Path, tmp_path: Path) -> None:
    told = draw(dataset, tmp_path / "out").stdout
    assert "harmful.jsonl: 259 prompts" in told and told.endswith("drawn for training or validation too: 1\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't be read (No such file or directory): name the folder `dataset`"),
        ("", "is not JSON"),
        ("{}", 'is no list of {"instruction": a text}'),
        ("[]", "is no list of"),
        ('["text"]', "is no list of"),
        ('[{"instruction": null}]', "is no list of"),
        ('[{"instruction": "one"}]', "splits/harmful_train.json holds 1 prompt, and 128 are drawn from it"),
    ],
)
def test_a_folder_that_is_another_says_so(tmp_path: Path, content: str | None, message: str) -> None:
    (tmp_path / "splits").mkdir()
    if content is not None:
        (tmp_path / "splits" / "harmful_train.json").write_text(content, "utf-8")
    done = draw(tmp_path, tmp_path / "out")
    assert done.returncode == 1 and message in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


def test_a_place_that_can_not_be_written_says_so(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    done = draw(dataset, tmp_path / "out")
    assert done.returncode == 1 and "name another folder with --out" in done.stderr
    assert "Traceback" not in done.stderr


def planned(family: str, *overrides: str, paper: Path = PAPER) -> Any:
    return plan_recipe(paper / f"{family}.yaml", overrides, Catalog.discover(), "paper_prompts")


@pytest.mark.parametrize("family", FAMILIES)
def test_one_profile_runs_on_them(prompts: Path, family: str) -> None:
    files = {"harmful": "harmful", "unseen": "harmbench", "harmless": "harmless"}
    plan = planned(family, *(f"data.{name}.file={prompts / file}.jsonl" for name, file in files.items()))
    sizes = {name: {part: len(rows) for part, rows in plan.data[name].items()} for name in SETS}
    both = {"train": 128, "validation": 32, "test": 100}
    assert sizes == {"harmful": {**both, "test": 99}, "unseen": {"test": 159}, "harmless": both}


def test_without_the_files_it_says_where_they_come_from(tmp_path: Path) -> None:
    # A copy, since somebody may have drawn them here.
    shutil.copytree(PAPER.parent, tmp_path / "recipes", ignore=shutil.ignore_patterns("prompts"))
    paper = tmp_path / "recipes" / "paper"
    with pytest.raises(RecipeError) as caught:
        planned("gemma", paper=paper)
    # Who doesn't ask for it can check the recipe all the same, and is told.
    recipe, catalog = paper / "gemma.yaml", Catalog.discover()
    plans, (note,) = plan_profiles(recipe, (), catalog, plan_recipe(recipe, (), catalog))
    assert list(plans) == ["7b"]
    assert "'paper_prompts' was not checked" in note and "python draw_prompts.py" in note
    assert note.endswith("So are profiles.paper_prompts.data.unseen, profiles.paper_prompts.data.harmless.")
    # Another mistake beside it is one.
    text = recipe.read_text("utf-8")
    recipe.write_text(text.replace("      unseen: {file: prompts/", "      unseen: {fil: prompts/"), "utf-8")
    with pytest.raises(RecipeError, match="fil"):
        plan_profiles(recipe, (), catalog, plan_recipe(recipe, (), catalog))
    told = {problem.where: problem for problem in caught.value.problems}
    assert set(told) == {f"profiles.paper_prompts.data.{name}" for name in SETS}
    for problem in told.values():
        assert str(paper / "prompts") in problem.message and problem.line
        assert "python draw_prompts.py refusal_direction/dataset" in problem.message
