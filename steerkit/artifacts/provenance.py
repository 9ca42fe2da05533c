"""What a run depended on, so that another person can repeat it or find out why it differs."""

from __future__ import annotations

import ast
import json
import platform
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from steerkit.types import Example

_PARSING = threading.Lock()


class _Facts(BaseModel):
    """Base of all parts: frozen. What isn't known is None or empty."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class DataFacts(_Facts):
    """The examples of a split: how many, and their hash."""

    n: int | None = None
    sha256: str | None = None


class GitState(_Facts):
    """A checkout: its commit, and whether anything in it differed."""

    commit: str
    dirty: bool = False


class GitStates(_Facts):
    """The checkouts that hold the recipe and steerkit; None outside of one."""

    recipe: GitState | None = None
    steerkit: GitState | None = None


class PlatformFacts(_Facts):
    """The machine's operating system and processor."""

    system: str | None = None
    machine: str | None = None


class Provenance(_Facts):
    """The whole of ``provenance.json``. The runner writes it by this schema, and the report reads it by it.

    It holds no time: two equal runs have equal files.
    """

    run_hash: str | None = None
    recipe_hash: str | None = None
    seed: int | None = None
    data: Mapping[str, DataFacts] = {}
    model: Mapping[str, Any] = {}
    plugins: tuple[Mapping[str, Any], ...] = ()
    versions: Mapping[str, str | None] = {}
    platform: PlatformFacts = PlatformFacts()
    git: GitStates = GitStates()
    argv: tuple[str, ...] = ()


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
    """sha256 of a module's source and of what it imports from its own package; None where a source isn't at hand.

    Imports the packages above it only.
    """
    sources: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        source = _source(name)
        if source is None:
            if name == module:
                return None
            continue
        sources[name] = source
        waiting += _imports_within(source, name)
    digest = sha256()
    for name in sorted(sources):
        digest.update(f"{name} {len(sources[name])}\n".encode())
        digest.update(sources[name])
    return digest.hexdigest()


def _source(module: str) -> bytes | None:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return Path(spec.origin).read_bytes()


@lru_cache(maxsize=2048)
def _imports_within(source: bytes, module: str) -> tuple[str, ...]:
    """Modules of its own top-level package that a module's source names in imports, or that might be such modules."""
    try:
        # Python 3.11 fails now and then (SystemError) where two threads do this at once.
        with _PARSING:
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ()
    package = module.partition(".")[0]
    named: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named += [item.name for item in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            named += [base, *(f"{base}.{item.name}" for item in node.names)]
    return tuple(name for name in named if name.partition(".")[0] == package)


def folder_hash(*paths: Path) -> str:
    """sha256 of the Python source in folders and files, by their names there."""
    digest = sha256()
    for root in paths:
        files = sorted(root.rglob("*.py")) if root.is_dir() else [root]
        for path in files:
            source = path.read_bytes()
            digest.update(f"{path.relative_to(root.parent).as_posix()} {len(source)}\n".encode())
            digest.update(source)
    return digest.hexdigest()


def tokenizer_hash(tokenizer: Any) -> str | None:
    """sha256 of a fast tokenizer's whole state; None for a slow one, which has no such form."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else sha256(backend.to_str().encode()).hexdigest()


def git_state(folder: Path) -> GitState | None:
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
    return GitState(commit=commit, dirty=bool(ask("status", "--porcelain")))


def describe_run(
    *,
    recipe_hash: str,
    seed: int,
    data: Mapping[str, Sequence[Example]],
    model: Mapping[str, Any],
    plugins: Iterable[Mapping[str, Any]],
    folder: Path,
    argv: Sequence[str] | None = None,
) -> Provenance:
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
    known = Provenance(
        recipe_hash=recipe_hash,
        seed=seed,
        data={name: DataFacts(n=len(rows), sha256=examples_hash(rows)) for name, rows in data.items()},
        model=dict(model),
        plugins=tuple(dict(plugin) for plugin in plugins),
        versions=versions(),
        platform=PlatformFacts(system=platform.system(), machine=platform.machine()),
        git=GitStates(recipe=git_state(folder), steerkit=git_state(Path(__file__).parent)),
        argv=tuple(sys.argv if argv is None else argv),
    )
    return known.model_copy(update={"run_hash": _run_hash(known)})


def _run_hash(known: Provenance) -> str:
    """What results depend on: all but how and from where the run was started."""
    counts = known.model_dump(mode="json", exclude={"run_hash", "argv", "git"})
    return sha256(json.dumps(counts, sort_keys=True).encode()).hexdigest()
