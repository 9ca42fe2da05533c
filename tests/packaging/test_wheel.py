"""What the wheel carries, and what its metadata promises."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser
from email import message_from_string
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PACKAGES = {
    "steerkit": ROOT / "steerkit",
    # One with a pyproject.toml is a distribution of its own.
    **{path.name: path for path in (ROOT / "plugins").glob("steerkit_*") if not (path / "pyproject.toml").exists()},
    "steerkit/_shipped/recipes": ROOT / "recipes",
    "steerkit/_shipped/template/src": ROOT / "plugins" / "template" / "src",
    "steerkit/_shipped/template/tests": ROOT / "plugins" / "template" / "tests",
}
DRAWN = ROOT / "recipes" / "paper" / "prompts"
"""Where somebody may have drawn prompts that are not ours to give on."""
TEMPLATE_FILES = {"steerkit/_shipped/template/README.md", "steerkit/_shipped/template/pyproject.toml"}


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
        if path.is_file() and not {"__pycache__", ".pytest_cache"} & set(path.parts)
        if not path.is_relative_to(DRAWN)
    } | TEMPLATE_FILES
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected
    assert {"steerkit/py.typed", "steerkit/_shipped/recipes/quickstart.yaml"} <= expected
    assert len(PACKAGES) == 9


@pytest.mark.parametrize("builder", [WheelBuilder, SdistBuilder])
def test_drawn_prompts_are_never_in_it(tmp_path: Path, builder: type[WheelBuilder | SdistBuilder]) -> None:
    """Also where no .gitignore says so."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("steerkit/__init__.py", "plugins/template", "recipes/paper", "recipes/quickstart.yaml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, tmp_path / name)
    drawn = tmp_path / DRAWN.relative_to(ROOT) / "harmful.jsonl"
    drawn.parent.mkdir(exist_ok=True)
    drawn.write_text("{}\n")
    found = {file.distribution_path for file in builder(str(tmp_path)).recurse_included_files()}
    assert any(name.endswith("recipes/paper/gemma.yaml") for name in found)
    assert not [name for name in found if "prompts/" in name]


def test_every_entry_point_names_a_module_of_the_wheel(wheel: zipfile.ZipFile) -> None:
    points = ConfigParser(delimiters="=")
    points.optionxform = str  # type: ignore[assignment, method-assign]
    points.read_string(metadata(wheel, "entry_points.txt"))
    modules = [target.partition(":")[0] for group in points.sections() for target in points[group].values()]
    missing = [module for module in modules if f"{module.replace('.', '/')}.py" not in wheel.namelist()]
    assert not missing
    assert points["console_scripts"]["steerkit"] == "steerkit.cli.start:main"


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
    first, *_ = re.findall(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert first == PROJECT["version"], "the newest entry of the changelog is this version's"


OPT_IN = {
    "ray": "constraints-ray.txt",
    "torchao": "constraints-quantised.txt",
    "bitsandbytes": "constraints-quantised.txt",
    "llama_cpp": "tests/llamacpp/requirements.txt",
}
"""What is imported where somebody asked for it alone, and not installed with the rest: who pins it."""


def pins(name: str = "constraints.txt") -> dict[str, str]:
    lines = (ROOT / name).read_text("utf-8").splitlines()
    return dict(line.lower().replace("_", "-").split("==") for line in lines if line and not line.startswith("#"))


def test_every_dependency_is_pinned_within_what_it_may_be() -> None:
    extras = [item for extra in PROJECT["optional-dependencies"].values() for item in extra]
    needed = [Requirement(item) for item in (*PROJECT["dependencies"], *extras) if "steerkit" not in item]
    found = pins()
    for requirement in needed:
        pin = (pins(OPT_IN[requirement.name]) if requirement.name in OPT_IN else found).get(
            requirement.name.lower().replace("_", "-")
        )
        assert pin is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pin), f"{requirement.name} {pin} is not {requirement.specifier}"
    assert found["torch"] == "2.13.0"


@pytest.mark.parametrize("name", OPT_IN)
def test_what_is_asked_for_alone_is_pinned_apart(name: str) -> None:
    pinned = (ROOT / OPT_IN[name]).read_text("utf-8")
    assert re.search(rf"^{canonicalize_name(name)}[a-z-]*==[0-9.]+( |$)", pinned, re.MULTILINE) and name not in pins()


def imported(*folders: str) -> set[str]:
    """The distributions that the code under some folders imports directly, under their names on the index."""
    found: set[str] = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    found -= {*sys.stdlib_module_names, "tests", "benchmarks", *OPT_IN}
    owners = packages_distributions()
    return {
        canonicalize_name(owner)
        for name in found
        if not name.startswith("steerkit")
        for owner in owners[name]
        if not owner.startswith("types-")
    }


def declared(*extras: str) -> set[str]:
    listed = [*PROJECT["dependencies"], *(item for extra in extras for item in PROJECT["optional-dependencies"][extra])]
    return {canonicalize_name(Requirement(item).name) for item in listed}


# Needed, and imported by others: transformers reads GGUF files through them.
THROUGH_OTHERS = {"protobuf"}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    code = imported("steerkit", *(f"plugins/{name}" for name in PACKAGES if name.startswith("steerkit_")))
    suites = imported("steerkit/testing")
    assert code - suites <= declared()
    assert suites <= declared("testing")
    assert declared() - code == THROUGH_OTHERS
    assert imported("tests", "benchmarks") <= declared("testing", "dev")


def test_a_user_of_the_wheel_is_shown_a_template_that_is_there(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = (
        "import steerkit.catalog as c, steerkit_architectures.llama as llama; "
        "from steerkit.api.hookspecs import ModelFacts; print(c.__file__); "
        "c.Catalog.from_modules(llama).adapter_for(ModelFacts('nothing-like-it', {}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(str(tmp_path)), done.stderr
    template = tmp_path / "steerkit" / "_shipped" / "template"
    assert f"a copy of {template}" in done.stderr
    assert (template / "src" / "steerkit_template" / "gpt_neox.py").is_file()


def test_the_source_distribution_has_what_its_texts_point_to(tmp_path: Path) -> None:
    (built,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(built) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    for text in ("README.md", "CONTRIBUTING.md"):
        links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / text).read_text("utf-8"))
        missing = [link for link in links if not any(name == link or name.startswith(f"{link}/") for name in files)]
        assert not missing, f"{text} points to {missing}"
    assert {".ci/run", ".ci/wheel", "constraints.txt", "tests/packaging/test_wheel.py"} <= files


def test_cpu_torch_comes_alone_from_an_index_that_has_nothing_else(tmp_path: Path) -> None:
    make, index = shutil.which("make"), tmp_path / "simple" / "torch"
    if make is None:
        pytest.skip("no make on this machine")
    command = [make, "-n", "install", "TORCH=cpu", f"VENV={tmp_path / 'venv'}"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in said.splitlines() if "download.pytorch.org" in line]
    index.mkdir(parents=True)
    name = f"torch-{pins()['torch']}-py3-none-any.whl"
    with zipfile.ZipFile(index / name, "w") as archive:
        info = f"torch-{pins()['torch']}.dist-info"
        about = f"Metadata-Version: 2.1\nName: torch\nVersion: {pins()['torch']}\nRequires-Dist: jinja2\n"
        archive.writestr(f"{info}/METADATA", about)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    (index / "index.html").write_text(f'<a href="{name}">{name}</a>')
    words = line.replace("https://download.pytorch.org/whl/cpu", index.parent.as_uri()).split()[1:]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    done = subprocess.run(
        [sys.executable, *words, "--dry-run", "--ignore-installed"],
        cwd=ROOT,
        env={**environment, "PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


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
