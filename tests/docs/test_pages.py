"""What the pages of ``docs`` show is so: their recipes are whole, their Python runs, and their commands exist."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import steerkit
from steerkit.catalog import KINDS, Catalog, implementation
from steerkit.cli.main import COMMANDS
from steerkit.plan import plan_recipe
from tests.docs.blocks import IDS, PAGES, README, ROOT, blocks, commands, data_files, of_kind, require_commands, tiny

RECIPES = [
    pytest.param(text, id=f"{name}-{text.splitlines()[0].removeprefix('name: ')}")
    for page, name in zip(PAGES, IDS, strict=True)
    for text in of_kind(page, "yaml")
]
TASKS = ("first-recipe", "notebook", "finding-a-layer", "own-plugin", "reading-a-report", "positions")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    data_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_task_has_a_page_and_every_page_is_found() -> None:
    names = {page.stem for page in PAGES if page != README}
    assert set(TASKS) < names
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    assert all(f"({name}.md)" in index for name in names - {"README"})
    assert "(docs/README.md)" in README.read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_what_is_shown_is_whole(page: Path) -> None:
    text = page.read_text("utf-8")
    found = blocks(page)
    assert len(found) * 2 == len(re.findall(r"^```", text, re.MULTILINE))
    assert all(kind in ("", "yaml", "python") for kind, _ in found)
    assert all(recipe.startswith("name: ") for recipe in of_kind(page, "yaml")), "a recipe that is shown is a whole one"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith("http") or not (path or anchor):
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor and there.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}
            assert anchor in anchors, f"{page.name}: {target}"


@pytest.mark.parametrize("text", RECIPES)
def test_every_recipe_is_accepted(text: str, folder: Path) -> None:
    (folder / "recipe.yaml").write_text(text, "utf-8")
    plan = plan_recipe(folder / "recipe.yaml", (), Catalog.discover())
    assert plan.directions and plan.conditions and plan.evaluations


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_and_option_exists(page: Path) -> None:
    require_commands(commands(page))


def test_the_smallest_recipe_runs(folder: Path) -> None:
    (text,) = of_kind(ROOT / "docs" / "first-recipe.md", "yaml")
    (folder / "recipe.yaml").write_text(tiny(text), "utf-8")
    run = steerkit.run_recipe("recipe.yaml", overrides=["control.random_directions=1"], out="runs")
    assert (run / "results.json").is_file()


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if of_kind(page, "python") and page.stem != "own-plugin"],
    ids=lambda page: page.stem,
)
def test_python_runs_on_a_model_of_any_size(page: Path, folder: Path) -> None:
    """On a tiny model with the same calls."""
    code = tiny("\n".join(of_kind(page, "python")))
    exec(compile(code, page.name, "exec"), {})


def test_a_plugin_of_every_kind_is_shown_and_works(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    module = ModuleType("my_plugin")
    monkeypatch.setitem(sys.modules, "my_plugin", module)
    code = "\n".join(of_kind(ROOT / "docs" / "own-plugin.md", "python"))
    exec(compile(code, "own-plugin.md", "exec"), vars(module))
    mine = Catalog.from_modules(module)
    shown = {entry.kind: entry.name for entry in mine.entries}
    assert set(shown) == {kind.name for kind in KINDS}, "a plugin of every kind"
    for kind, name in shown.items():
        implementation(mine.get(kind, name))
    model = steerkit.load_model("tiny-random:llama", catalog=mine)  # the self-test passes
    assert model.adapter_name == shown["architecture"]
    classes = (["a warm day", "tea by the fire", "a hot bath"], ["a cold day", "ice in a glass", "snow"])
    direction = steerkit.estimate_direction(
        model, *classes, site="blocks.1.resid_pre", estimator=shown["estimator"], name="d", catalog=mine
    )
    halve = steerkit.intervention(shown["intervention"], direction, share=1.0, catalog=mine)
    with model.steer(halve):
        read = model.capture(["a day"], "blocks.1.resid_pre")
    (statistics,) = read.values()
    assert abs(float(statistics.mean.float() @ direction.vectors[0])) < 1e-4 * float(direction.vectors.norm())
    lost = steerkit.save_directions("d.json", [direction], format=shown["format"], catalog=mine)
    with pytest.warns(UserWarning, match=r"d\.json: Positions aren't in the file"):
        read_back = steerkit.load_directions("d.json", catalog=mine)
    assert lost and torch.equal(read_back["d"].vectors, direction.vectors)


def test_rows_that_the_text_shows_have_the_fields_that_the_recipe_names() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    found = re.findall(r"`(\{\"(?:question|turns)\".*?\})`", text, re.DOTALL)
    shown = [json.loads(" ".join(row.split())) for row in found]
    assert [list(row) for row in shown] == [["question", "matching", "other"], ["turns", "tone"]]


@pytest.mark.slow
def test_python_prints_what_the_page_shows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "interventions.md"
    monkeypatch.setenv("COLUMNS", "200")
    exec(compile("\n".join(of_kind(page, "python")), page.name, "exec"), {})
    (table,) = [text for text in of_kind(page, "") if text.startswith("intervention ")]
    said = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert all(line.rstrip() in said for line in table.splitlines()), "\n".join(said)


def test_readme_names_what_people_look_for() -> None:
    text = README.read_text("utf-8")
    for name in ("save_directions", "load_directions", "run_recipe", "decode", "intervention(", "head_out"):
        assert name in text, name
    said = " ".join(text.split())
    assert "before the output projection" in said, "what head_out is"
    assert "last token of the prompt" in said and "every token" in said, "which positions are the default"
    assert set(COMMANDS) - {"fetch"} <= require_commands(commands(README)), "fetch is with the models"


def test_readme_keeps_to_one_screen_per_topic() -> None:
    topics = re.split(r"^## ", README.read_text("utf-8"), flags=re.MULTILINE)
    long = {topic.splitlines()[0]: len(topic.splitlines()) for topic in topics if len(topic.splitlines()) > 50}
    assert not long, "move what is more than a screen to docs/"
