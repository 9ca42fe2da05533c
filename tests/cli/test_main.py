"""The command line as a user meets it: in a process of its own, and without torch where none is needed."""

from __future__ import annotations

import errno
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from steerkit.cli import main as cli
from steerkit.errors import UnsupportedModelError

RECIPE = """\
model: {source: "tiny-random:llama"}
data:
  warm: {inline: [w1, w2, w3, w4, w5, w6], split: {train: 4, test: 2}}
  cold: {inline: [c1, c2, c3, c4, c5, c6], split: {train: 4, test: 2}}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
conditions:
  dose:
    interventions: [ {add: {direction: warmth}} ]
    sweep: {coefficient: [-8, 0.5]}
evaluate:
  - refusal_score: {data: warm.test, tokens: [x]}
"""

# Runs the command line, then says on stderr which heavy packages came along.
PROBE = """
import sys
from steerkit.cli.main import main
try:
    main(sys.argv[1:])
finally:
    heavy = sorted({"torch", "transformers", "numpy", "matplotlib"} & set(sys.modules))
    print(f"heavy={heavy}", file=sys.stderr)
"""


def run(*arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "STEERKIT_DISABLE_PLUGINS": "", **env}
    command = [sys.executable, "-W", "error", "-c", PROBE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE, "utf-8")
    return path


def test_importing_steerkit_imports_neither_torch_nor_anything_else_that_is_heavy() -> None:
    code = "import sys, steerkit; print(sorted({'torch', 'transformers', 'pydantic', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_plugins_lists_everything_without_torch() -> None:
    done = run("plugins")
    assert (done.returncode, done.stderr.strip()) == (0, "heavy=[]")
    assert max(map(len, done.stdout.splitlines())) <= 80
    for part in ("mean_difference", "steerkit-torch", "coefficient: float", "qwen1", "note:", "0 failed"):
        assert part in done.stdout


def test_no_name_is_broken_in_80_columns() -> None:
    listed = json.loads(run("plugins", "--json").stdout)["plugins"]
    words = run("plugins").stdout.split()
    for plugin in listed:
        assert plugin["name"] in words and plugin["module"] in words
        assert all(f"{option['name']}:" in words for option in plugin["options"])


def test_plugins_as_json_has_kind_name_origin_summary_and_options() -> None:
    done = run("plugins", "--json", "--kind", "intervention")
    plugins = {item["name"]: item for item in json.loads(done.stdout)["plugins"]}
    assert {"add", "ablate", "affine_concept_editing", "set_projection"} <= set(plugins)
    add = plugins["add"]
    assert (add["kind"], add["distribution"], add["status"]) == ("intervention", "steerkit-torch", "ok")
    assert add["version"] and add["summary"]
    (option,) = [item for item in add["options"] if item["name"] == "coefficient"]
    assert option["default"] == 1.0 and not option["required"] and option["description"]
    assert run("plugins", "--kind", "intervntion").returncode == 2


def install(folder: Path, name: str, code: str) -> None:
    (folder / f"{name}.py").write_text(code, "utf-8")
    info = folder / f"{name}-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.5\n", "utf-8")
    (info / "entry_points.txt").write_text(f"[steerkit]\n{name} = {name}\n", "utf-8")


def test_a_broken_plugin_is_shown_with_its_cause(tmp_path: Path, recipe: Path) -> None:
    install(tmp_path, "acmebroken", "import not_there_at_all")
    done = run("plugins", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0
    assert "acmebroken 2.5" in done.stdout and "No module named" in done.stdout
    assert "1 failed" in done.stdout
    (item,) = [
        item
        for item in json.loads(run("plugins", "--json", PYTHONPATH=str(tmp_path)).stdout)["plugins"]
        if item["status"] == "broken"
    ]
    assert item["cause"] == "ModuleNotFoundError: No module named 'not_there_at_all'"
    assert run("check", str(recipe), PYTHONPATH=str(tmp_path)).returncode == 0


COMPUTED = """
from pydantic import Field
from steerkit.api.hookspecs import EstimatorSpec, Options, hookimpl
STEERKIT_CONTRACT = 2
class ComputedOptions(Options):
    a: int = 1
    b: int = Field(default_factory=lambda data: data["a"] + 1)
@hookimpl
def steerkit_estimators():
    return [EstimatorSpec("acme", "Acme.", "acmecomputed:Acme", ComputedOptions)]
"""


def test_a_default_that_is_computed_is_listed_as_such(tmp_path: Path) -> None:
    install(tmp_path, "acmecomputed", COMPUTED)
    done = run("plugins", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "b: int computed" in done.stdout and "a: int = 1" in done.stdout


HOOK = """
from steerkit.api.hookspecs import InterventionSpec, hookimpl
STEERKIT_CONTRACT = 2
@hookimpl
def {hook}():
    return [InterventionSpec("add", "Another one.", "{module}:Add")]
"""


@pytest.mark.parametrize(
    ("hook", "parts"),
    [
        ("steerkit_interventions", ["both provide intervention 'add'", "steerkit_interventions.add"]),
        ("steerkit_intervention", ["unknown hook 'steerkit_intervention'"]),
    ],
)
def test_clashes_and_mistyped_hooks_stop_a_check_and_are_listed(
    tmp_path: Path, recipe: Path, hook: str, parts: list[str]
) -> None:
    install(tmp_path, "acmeadd", HOOK.format(hook=hook, module="acmeadd"))
    done = run("check", str(recipe), PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    for part in ("acmeadd 2.5", "STEERKIT_DISABLE_PLUGINS=", *parts):
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    listed = run("plugins", PYTHONPATH=str(tmp_path))
    assert listed.returncode == 2
    assert "refusal_score" in listed.stdout and "acmeadd" in listed.stdout
    disabled = run("check", str(recipe), PYTHONPATH=str(tmp_path), STEERKIT_DISABLE_PLUGINS="acmeadd")
    assert disabled.returncode == 0


def test_a_check_imports_what_its_recipe_needs(recipe: Path) -> None:
    """Each of these costs every check a percent or so, and a recipe without a search needs none of them."""
    code = """
import sys
from steerkit.cli.main import main
try:
    main(sys.argv[1:])
finally:
    spared = {"steerkit.selection.rule", "steerkit.recipe.presets", "steerkit.api.estimator", "steerkit.session"}
    spared |= {"scipy", "packaging", "sklearn"}
    print("came along:", *sorted(spared & set(sys.modules)), file=sys.stderr)
"""
    command = [sys.executable, "-c", code, "check", str(recipe)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "came along:"


def test_check_prints_the_plan_without_torch(recipe: Path) -> None:
    done = run("check", str(recipe), "--set", "control.random_directions=2")
    assert (done.returncode, done.stderr.strip()) == (0, "heavy=[]")
    assert max(map(len, done.stdout.splitlines())) <= 80
    expected = (
        "small is valid",
        "dose[coefficient=0.5]",
        "2 random",
        "forward passes",
        "estimate",
        "llama",
        "warm.train",
    )
    for part in expected:
        assert part in done.stdout


def test_check_as_json(recipe: Path) -> None:
    plan: dict[str, Any] = json.loads(run("check", str(recipe), "--json").stdout)
    assert plan["name"] == "small"
    assert plan["model"]["adapter"] == "llama"
    assert [item["name"] for item in plan["conditions"]] == ["dose[coefficient=-8]", "dose[coefficient=0.5]"]
    assert plan["cost"]["forward_passes"] == sum(plan["cost"]["parts"].values()) > 0


def test_a_bad_recipe_exits_2_with_every_problem_and_no_traceback(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("model:", "modle:").replace("[-8, 0.5]", "x"), "utf-8")
    done = run("check", str(recipe))
    assert (done.returncode, done.stdout) == (2, "")
    assert "line 1, modle: unknown key. Did you mean 'model'?" in done.stderr
    assert "line 10, conditions.dose.sweep.coefficient: expected a list" in done.stderr
    assert "Nothing was run.\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_is_printed() -> None:
    from steerkit import __version__

    done = run("--version")
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, f"steerkit {__version__}", "heavy=[]")


def test_help_lists_every_command_and_imports_no_torch() -> None:
    done = run("--help")
    assert done.returncode == 0
    for name in cli.COMMANDS:
        assert f" {name} " in done.stdout
    assert done.stderr.strip() == "heavy=[]"
    assert run("nonsense").returncode == 2


def guarded(error: BaseException, name: str = "run") -> tuple[int, str]:
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as caught, pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr(typer, "echo", lambda message, err: said.append(message))
        cli._guarded(name, command)()
    return caught.value.exit_code, said[0]


def test_errors_of_ours_give_their_message_and_exit_code() -> None:
    assert guarded(UnsupportedModelError("no adapter")) == (3, "no adapter")


def test_an_interrupt_says_what_is_kept() -> None:
    code, message = guarded(KeyboardInterrupt())
    assert code == 130 and "Interrupted" in message and "goes on from there" in message
    assert "Nothing was changed" in guarded(KeyboardInterrupt(), "check")[1]
    assert guarded(KeyboardInterrupt("Nothing was run."))[1] == "\nInterrupted. Nothing was run."


def test_an_interrupt_while_a_command_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.importlib, "import_module", stopped)
    with pytest.raises(SystemExit) as leaving:
        cli.main(["run", "quickstart"])
    assert leaving.value.code == 130
    assert "Interrupted. Nothing was changed." in capsys.readouterr().err


def test_an_interrupt_while_the_command_line_itself_is_imported() -> None:
    code = """
import sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from steerkit.cli.start import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (130, "Interrupted. Nothing was changed.")


def test_a_full_disk_is_said_plainly() -> None:
    code, message = guarded(OSError(errno.ENOSPC, "No space left on device", "/runs/x"))
    assert code == 1 and message.startswith("The disk is full (writing /runs/x).")
    code, message = guarded(OSError(errno.EFBIG, "File too large"))
    assert code == 1 and message.startswith("A file may not become as large as this one. Raise the limit and run")
    code, message = guarded(OSError(errno.EISDIR, "Is a directory", "/runs/x/run.log"))
    assert (code, message.partition(". ")[0]) == (1, "/runs/x/run.log: Is a directory")
    code, message = guarded(OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300))
    assert code == 2 and message == "x" * 159 + "…: File name too long. Name another one."
    assert "No permission for /runs/x" in guarded(PermissionError(errno.EACCES, "denied", "/runs/x"))[1]


def test_what_nobody_foresaw_keeps_its_traceback() -> None:
    def command() -> None:
        raise ValueError("a mistake of ours")

    with pytest.raises(ValueError, match="a mistake of ours"):
        cli._guarded("run", command)()


@pytest.mark.parametrize(("command", "collected"), [("check", False), ("run", True)])
def test_garbage_is_looked_for_where_models_are_loaded_and_behind_every_command(
    monkeypatch: pytest.MonkeyPatch, command: str, collected: bool
) -> None:
    seen = []
    monkeypatch.setitem(cli.COMMANDS, command, f"{__name__}:noting")  # type: ignore[index]
    monkeypatch.setattr(sys.modules[__name__], "noting", lambda: seen.append(gc.isenabled()), raising=False)
    with pytest.raises(SystemExit):
        cli.main([command])
    assert seen == [collected] and gc.isenabled()


def test_of_processes_that_torchrun_started_one_speaks(recipe: Path) -> None:
    first, second = (run("check", str(recipe), RANK=rank, WORLD_SIZE="2", LOCAL_RANK=rank) for rank in "01")
    assert (first.returncode, second.returncode) == (0, 0)
    assert "cost, at most" in first.stdout and second.stdout == ""
    alone = run("formats", RANK="0", WORLD_SIZE="1")
    assert alone.returncode == 0 and alone.stdout


def test_a_command_that_several_processes_would_carry_out_by_themselves_is_refused() -> None:
    ended = run("convert", "d.safetensors", "d.gguf", RANK="1", WORLD_SIZE="3")
    assert ended.returncode == 2
    assert ended.stderr.startswith("torchrun started 3 processes, each of which would convert by itself. Start it with")
