"""What a run depended on, so that another person can repeat it or find out why it differs."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from steerkit.types import Example

PACKAGES = ("steerkit-torch", "torch", "transformers", "tokenizers", "numpy", "safetensors", "scikit-learn", "pluggy")


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str | None]:
    """Installed versions; None for a package that isn't installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def examples_hash(examples: Sequence[Example]) -> str:
    """sha256 over examples in order, each with its length, so that no two lists look alike."""
    digest = sha256()
    for example in examples:
        plain = example.to_json()
        encoded = (plain if isinstance(plain, str) else json.dumps(plain, sort_keys=True)).encode()
        digest.update(f"{len(encoded)}:".encode())
        digest.update(encoded)
    return digest.hexdigest()


def code_hash(module: str) -> str | None:
    """sha256 of a module's source, or None where it has none at hand. Imports the packages above it only."""
    spec = find_spec(module)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return sha256(Path(spec.origin).read_bytes()).hexdigest()


def tokenizer_hash(tokenizer: Any) -> str | None:
    """sha256 of a fast tokenizer's whole state; None for a slow one, which has no such form."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else sha256(backend.to_str().encode()).hexdigest()


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that holds a folder, and whether anything in it differs; None outside of one."""

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(ask("status", "--porcelain"))}


def describe_run(
    *,
    recipe_hash: str,
    seed: int,
    data: Mapping[str, Sequence[Example]],
    model: Mapping[str, Any],
    plugins: Iterable[Mapping[str, Any]],
    folder: Path,
    argv: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Everything that ``provenance.json`` holds. It holds no time: two equal runs have equal files.

    Args:
        recipe_hash: hash of the resolved recipe, its data and plugins.
        seed: the recipe's.
        data: examples of each split.
        model: source, hashes, device, dtype.
        plugins: kind, name, distribution and version of each plugin that was used.
        folder: where the recipe lies, for the state of its checkout.
        argv: the command; the running one by default.
    """
    return {
        "recipe_hash": recipe_hash,
        "seed": seed,
        "data": {name: {"n": len(rows), "sha256": examples_hash(rows)} for name, rows in data.items()},
        "model": dict(model),
        "plugins": [dict(plugin) for plugin in plugins],
        "versions": versions(),
        "platform": {"system": platform.system(), "machine": platform.machine()},
        "git": {"recipe": git_state(folder), "steerkit": git_state(Path(__file__).parent)},
        "argv": list(sys.argv if argv is None else argv),
    }
