"""What the wheel carries, and what its metadata promises."""

from __future__ import annotations

import re
import subprocess
import tomllib
import zipfile
from configparser import ConfigParser
from email import message_from_string
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PACKAGES = {
    "steerkit": ROOT / "steerkit",
    **{path.name: path for path in (ROOT / "plugins").glob("steerkit_*") if path.is_dir()},
    "steerkit/_shipped/recipes": ROOT / "recipes",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("dist")), versions=["standard"])
    return zipfile.ZipFile(built)


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = (item for item in wheel.namelist() if item.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def test_every_file_of_every_package_is_in_it_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected
    assert {"steerkit/py.typed", "steerkit/_shipped/recipes/quickstart.yaml"} <= expected
    assert len(PACKAGES) == 6


def test_every_entry_point_names_a_module_of_the_wheel(wheel: zipfile.ZipFile) -> None:
    points = ConfigParser(delimiters="=")
    points.optionxform = str  # type: ignore[assignment, method-assign]
    points.read_string(metadata(wheel, "entry_points.txt"))
    modules = [target.partition(":")[0] for group in points.sections() for target in points[group].values()]
    missing = [module for module in modules if f"{module.replace('.', '/')}.py" not in wheel.namelist()]
    assert not missing
    assert points["console_scripts"]["steerkit"] == "steerkit.cli.main:main"


def test_every_first_party_plugin_has_an_entry_point(wheel: zipfile.ZipFile) -> None:
    declared = set(PROJECT["entry-points"]["steerkit"].values())
    modules = {
        f"{package}.{path.stem}"
        for package, folder in PACKAGES.items()
        if package.startswith("steerkit_")
        for path in folder.glob("[!_]*.py")
    }
    assert declared == modules


def test_it_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    said = message_from_string(metadata(wheel, "METADATA"))
    assert said["Name"] == "steerkit-torch"
    assert said["Requires-Python"] == ">=3.11"
    assert said["License-Expression"] == "Apache-2.0"
    assert "Apache License" in metadata(wheel, "licenses/LICENSE")


def test_the_version_is_one() -> None:
    import steerkit

    assert steerkit.__version__ == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return dict(line.lower().replace("_", "-").split("==") for line in lines if line and not line.startswith("#"))


def test_every_dependency_is_pinned_within_what_it_may_be() -> None:
    extras = [item for extra in PROJECT["optional-dependencies"].values() for item in extra]
    needed = [Requirement(item) for item in (*PROJECT["dependencies"], *extras) if "steerkit" not in item]
    found = pins()
    for requirement in needed:
        pin = found.get(requirement.name.lower().replace("_", "-"))
        assert pin is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pin), f"{requirement.name} {pin} is not {requirement.specifier}"
    assert found["torch"] == "2.13.0"


# The package index has a project of this name that is another one.
NAME = "steerkit"
OTHER = re.compile(rf"pip\d? +install[^\n`]*?[ '\"=]{NAME}(?![-_\w/.])", re.IGNORECASE)


def test_no_text_sends_anybody_to_the_other_project() -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout, so nobody says which files are the project's")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and path.suffix in {".md", ".py", ".toml", ".txt", ".yaml", ".yml", ".html", ".j2", ""}:
            found = OTHER.search(path.read_text("utf-8", errors="ignore"))
            assert found is None, f"{name}: {found and found.group()}"


@pytest.mark.parametrize("text", ["pip install {}", "pip install -U '{}[dev]'", "python -m pip3 install  {}"])
def test_the_search_for_it_finds_it(text: str) -> None:
    assert OTHER.search(text.format(NAME))
    assert not OTHER.search(text.format("steerkit-torch"))
