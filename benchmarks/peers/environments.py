"""One virtual environment per library, kept outside of the checkout and made anew when its pins change."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"
DEFAULT_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steerkit" / "peers"
OWN = ""


class InstallError(Exception):
    """An environment that could not be made, with the end of what pip said."""


@dataclass(frozen=True)
class Peer:
    """A library in the comparison.

    Args:
        driver: module in ``drivers``.
        title: how it is called in tables.
        environment: name of its requirements, or ``OWN`` for the environment that runs this.
    """

    driver: str
    title: str
    environment: str


PEERS = (
    Peer("plain", "transformers", "plain"),
    Peer("hand_written", "hand-written hooks", "plain"),
    Peer("steerkit", "steerkit", OWN),
    Peer("steering_vectors", "steering-vectors", "steering_vectors"),
    Peer("repeng", "repeng", "repeng"),
    Peer("nnsight", "nnsight", "nnsight"),
    Peer("nnterp", "nnterp", "nnterp"),
    Peer("pyvene", "pyvene", "pyvene"),
    Peer("saklas", "saklas", "saklas"),
    Peer("transformer_lens", "TransformerLens", "transformer_lens"),
)


def fingerprint(pins: str) -> str:
    """What an environment is known by: its pins, without comments, and the interpreter."""
    lines = sorted(line.strip() for line in pins.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    version = ".".join(map(str, sys.version_info[:3]))
    return hashlib.sha256("\n".join([version, *lines]).encode()).hexdigest()


def python_of(name: str, cache: Path, torch_index: str | None = None) -> Path:
    """The interpreter of an environment, made or made anew if need be.

    Args:
        name: of the requirements; ``OWN`` is the environment that runs this.
        cache: where environments are kept.
        torch_index: a package index for torch alone, where the ordinary one has a build that isn't wanted.

    Raises:
        InstallError: where pip doesn't manage.
    """
    if name == OWN:
        return Path(sys.executable)
    pins = (REQUIREMENTS / f"{name}.txt").read_text()
    folder = cache / name
    python, mark = folder / "bin" / "python", folder / ".pins"
    if python.exists() and mark.exists() and mark.read_text() == fingerprint(pins):
        return python
    shutil.rmtree(folder, ignore_errors=True)
    print(f"Installing {name} into {folder}")
    _call([sys.executable, "-m", "venv", str(folder)])
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if torch_index:
        torch = next(line for line in pins.splitlines() if line.startswith("torch=="))
        _call([*pip, "--no-deps", torch, "--index-url", torch_index])
    _call([*pip, "-r", str(REQUIREMENTS / f"{name}.txt")])
    mark.write_text(fingerprint(pins))
    return python


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        errors = [line for line in said if line.startswith("ERROR")] or said[-1:]
        raise InstallError(f"{' '.join(errors)[:400]}")
