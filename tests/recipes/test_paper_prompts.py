"""The paper's own split: drawn as its code draws it, run with one profile, and missed with words that help."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steerkit.catalog import Catalog
from steerkit.errors import RecipeError
from steerkit.plan import plan_recipe
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


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "dataset"
    for name, size in SIZES.items():
        rows = [{"instruction": f"{name} no. {place}", "category": None} for place in range(size)]
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
    def sample(name: str, size: int) -> list[str]:
        return random.sample([f"splits/{name} no. {place}" for place in range(SIZES[f"splits/{name}"])], size)

    state = random.getstate()
    random.seed(42)
    harmful_train, harmless_train = sample("harmful_train", 128), sample("harmless_train", 128)
    harmful_val, harmless_val = sample("harmful_val", 32), sample("harmless_val", 32)
    harmless_test = sample("harmless_test", 100)
    random.setstate(state)
    found: dict[str, dict[str, list[str]]] = {}
    for name in ("harmful", "harmless", "harmbench"):
        rows = [json.loads(line) for line in (prompts / f"{name}.jsonl").read_text("utf-8").splitlines()]
        found[name] = {part: [row["text"] for row in rows if row["part"] == part] for part in SPLITS}
    assert found["harmful"]["train"] == harmful_train and found["harmful"]["validation"] == harmful_val
    assert found["harmless"] == {"train": harmless_train, "validation": harmless_val, "test": harmless_test}
    assert len(found["harmful"]["test"]) == 100 and len(found["harmbench"]["test"]) == 159


def test_a_folder_that_is_another_says_so(tmp_path: Path) -> None:
    done = draw(tmp_path, tmp_path / "out")
    assert done.returncode == 1 and "harmful_train.json can't be read" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


def planned(family: str, *overrides: str) -> Any:
    return plan_recipe(PAPER / f"{family}.yaml", overrides, Catalog.discover(), "paper_prompts")


@pytest.mark.parametrize("family", FAMILIES)
def test_one_profile_runs_on_them(prompts: Path, family: str) -> None:
    files = {"harmful": "harmful", "unseen": "harmbench", "harmless": "harmless"}
    plan = planned(family, *(f"data.{name}.file={prompts / file}.jsonl" for name, file in files.items()))
    sizes = {name: {part: len(rows) for part, rows in plan.data[name].items()} for name in SETS}
    both = {"train": 128, "validation": 32, "test": 100}
    assert sizes == {"harmful": both, "unseen": {"test": 159}, "harmless": both}


def test_without_the_files_it_says_where_they_come_from() -> None:
    if (PAPER / "prompts").exists():
        pytest.skip("the paper's prompts are here")
    with pytest.raises(RecipeError) as caught:
        planned("gemma")
    told = {problem.where: problem for problem in caught.value.problems}
    assert set(told) == {f"profiles.paper_prompts.data.{name}" for name in SETS}
    for problem in told.values():
        assert str(PAPER / "prompts") in problem.message and problem.line
        assert "python draw_prompts.py refusal_direction/dataset" in problem.message
