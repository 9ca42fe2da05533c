"""``steerkit new-plugin``: the template's plugin of a kind, renamed, whose tests pass as they are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from steerkit.catalog import KINDS, Kind, template_folder
from steerkit.cli.main import main
from steerkit.cli.new_plugin import ORIGINALS, plugin_files
from steerkit.cli.placing import place

NAMES = {
    "architecture": "my_neox",
    "estimator": "huber_difference",
    "intervention": "limit",  # a word that the implementation uses
    "evaluator": "surprise",
    "format": "plain_numbers",
}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["new-plugin", *arguments])
    output = capsys.readouterr()
    return int(caught.value.code or 0), output.out, output.err


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python(folder: Path, sources: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([*sources, *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_every_kind_has_a_template(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind that is added to the table gets a plugin in ``plugins/template``, and its name here and there."""
    kinds = [kind.name for kind in KINDS]
    assert list(ORIGINALS) == kinds and list(NAMES) == kinds
    monkeypatch.setenv("COLUMNS", "200")
    assert all(kind in run(capsys, "--help")[1] for kind in kinds)
    source = template_folder()
    assert source is not None
    points = tomllib.loads((source / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]["steerkit"]
    assert set(points) == {f"{kind.plural}.{ORIGINALS[kind.name].name}" for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_nothing_is_called_as_the_original(kind: Kind, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    name = NAMES[kind.name]
    code, out, err = run(capsys, name, "--kind", kind.name)
    assert (code, err) == (0, "") and "pip install -e" in out
    made = folder / f"steerkit-{name.replace('_', '-')}"
    original = ORIGINALS[kind.name]
    for path in made.rglob("*"):
        if path.is_file() and path.name != "README.md":
            text = path.read_text("utf-8")
            assert "template" not in text and original.stem not in text, path
            assert original.apart or not re.search(rf"\b_?{original.name}\b", text), path
    project = tomllib.loads((made / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == made.name
    assert project["entry-points"]["steerkit"] == {f"{kind.plural}.{name}": f"steerkit_{name}.{name}"}


def test_tests_of_every_kind_pass(folder: Path) -> None:
    """In a process of its own, since the packages aren't installed."""
    modules = []
    for kind in KINDS:
        name = NAMES[kind.name]
        place(folder / name, plugin_files(kind, name))
        modules.append((kind.name, name))
    tests = [f"{name}/tests" for _, name in modules]
    sources = [str(folder / name / "src") for _, name in modules]
    options = ("-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:xdist", "-rA")
    done = python(folder, sources, "-m", "pytest", *options, *tests)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    for _, name in modules:
        assert re.search(rf"^PASSED \S*test_{name}\.py::", done.stdout, re.MULTILINE), name
    listed = "; ".join(
        f"import steerkit_{name}.{name} as plugin; print(*Catalog.from_modules(plugin).names({kind!r}))"
        for kind, name in modules
    )
    said = python(folder, sources, "-c", f"from steerkit.catalog import Catalog; {listed}")
    assert said.stdout.split() == [name for _, name in modules], said.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["huber", "--kind", "estimater"], "Unknown kind 'estimater'. Did you mean 'estimator'?"),
        (["Huber-Difference", "--kind", "estimator"], "is no name for a plugin"),
        (["class", "--kind", "estimator"], "is no name for a plugin"),
        (["mean_difference", "--kind", "estimator"], "The estimator 'mean_difference' is there already"),
        (["estimators", "--kind", "estimator"], "A package steerkit_estimators is installed already"),
        (["huber", "--kind", "estimator", "--out", ""], "--out names no folder"),
        (["huber", "--kind", "estimator", "--out", "full"], "Nothing was written: choose another folder"),
    ],
)
def test_mistakes_are_told_in_a_sentence_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], folder: Path, arguments: list[str], said: str
) -> None:
    (folder / "full").mkdir()
    (folder / "full" / "pyproject.toml").write_text("mine")
    code, _, err = run(capsys, *arguments)
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1
    assert [path.name for path in folder.rglob("*")] == ["full", "pyproject.toml"]
    assert (folder / "full" / "pyproject.toml").read_text() == "mine"


def test_the_template_is_left_as_it_is() -> None:
    source = template_folder()
    assert source is not None
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    for kind in KINDS:
        plugin_files(kind, NAMES[kind.name])
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before
