"""What the README shows is so: its recipes are whole, its Python runs, and its commands exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from steerkit.catalog import Catalog
from steerkit.cli.main import COMMANDS
from steerkit.plan import plan_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
RECIPES = [text for kind, text in BLOCKS if kind == "yaml"]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
SHELL = [
    line for kind, text in BLOCKS if not kind for line in text.splitlines() if line.startswith(("make ", "steerkit "))
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Data files as the text around the recipes describes them."""
    shutil.copytree(ROOT / "recipes" / "data", tmp_path / "data")
    caa = [{"question": f"Is {n} odd?", "matching": f"Yes, {n} is.", "other": f"No, {n} isn't."} for n in range(80)]
    turns = [[{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"{n}"}] for n in range(8)]
    talks = [{"turns": one, "tone": "polite" if n % 2 else "rude"} for n, one in enumerate(turns)]
    for name, rows in (("caa", caa), ("talks", talks)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return tmp_path


def test_there_are_recipes_python_and_commands() -> None:
    assert len(RECIPES) == 7 and len(PYTHON) >= 5 and len(SHELL) >= 9
    assert all(text.startswith("name: ") for text in RECIPES), "a recipe that is shown is a whole one"
    assert len(BLOCKS) * 2 == len(re.findall(r"^```", README, re.MULTILINE))


@pytest.mark.parametrize("text", RECIPES, ids=lambda text: text.splitlines()[0])
def test_every_recipe_is_accepted(text: str, folder: Path) -> None:
    (folder / "recipe.yaml").write_text(text, "utf-8")
    plan = plan_recipe(folder / "recipe.yaml", (), Catalog.discover())
    assert plan.directions and plan.conditions and plan.evaluations


def test_rows_that_the_text_shows_have_the_fields_that_the_recipe_names() -> None:
    shown = [
        json.loads(" ".join(row.split())) for row in re.findall(r"`(\{\"(?:question|turns)\".*?\})`", README, re.S)
    ]
    assert [list(row) for row in shown] == [["question", "matching", "other"], ["turns", "tone"]]


def test_every_command_and_option_exists() -> None:
    helps: dict[str, str] = {}
    for line in SHELL:
        words = line.partition("#")[0].split()
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE), line
            continue
        command = words[1]
        assert command in COMMANDS, line
        if command not in helps:
            asked = [sys.executable, "-m", "steerkit", command, "--help"]
            helps[command] = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert all(word in helps[command] for word in words if word.startswith("--")), line
    assert set(COMMANDS) - {"fetch"} == set(helps), "every command is shown; fetch is with the models"


def test_python_runs_on_a_model_of_any_size(capsys: pytest.CaptureFixture[str]) -> None:
    """On a tiny model with the same calls; the real one's is the slow test below."""
    code = "\n".join(PYTHON)
    for said, tiny in (("smollm2-135m-instruct", "tiny-random:llama"), ("blocks.10.resid_pre", "blocks.1.resid_pre")):
        assert said in code
        code = code.replace(said, tiny)
    exec(compile(code, "README.md", "exec"), {})
    assert "ablate verse" in capsys.readouterr().out


@pytest.mark.slow
def test_python_prints_what_the_readme_shows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    exec(compile("\n".join(PYTHON), "README.md", "exec"), {})
    (table,) = [text for kind, text in BLOCKS if not kind and text.startswith("intervention ")]
    said = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert all(line.rstrip() in said for line in table.splitlines()), "\n".join(said)
