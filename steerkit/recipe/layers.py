"""A recipe file, the file that it extends, and a profile, laid over one another: plain values that remember where each
was written.

Mappings are merged key by key; a list, a text or a number replaces what was there; null takes away what the file below
gives. A relative path stays relative to the file that it is written in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from steerkit.api.files import pipe_fault
from steerkit.errors import Problem, SteerkitError, nearest
from steerkit.recipe.document import Document, dotted, read_document
from steerkit.recipe.document import Path as KeyPath
from steerkit.recipe.paths import readable_path
from steerkit.recipe.shipped import shipped_recipes

EXTENDS: Final = "extends"
PROFILES: Final = "profiles"
LAYER_KEYS: Final = (EXTENDS, PROFILES)
"""Keys that say how a recipe is put together; the recipe itself has neither."""

_NAMED: Final = (
    *(("data", "*", "file"), ("directions", "*", "file"), ("model", "chat_template", "file")),
    ("suffixes", "*", "suffixes", "file"),
)
_FILES: Final = (*_NAMED, *(("profiles", "*", *path) for path in _NAMED))
"""Where a recipe names files. A model's source isn't among them: it is relative to the present folder."""


@dataclass(frozen=True)
class Origin:
    """Where a value was written.

    Args:
        key: as it was written there.
        line: of the file; None for a value that came from no file.
        file: None for the recipe's own.
    """

    key: KeyPath
    line: int | None
    file: Path | None = None


@dataclass(frozen=True)
class Layered:
    """Plain values and where each was written.

    Args:
        value: the values; not a mapping where the document isn't one.
        origins: by path within the value.
        problems: what is wrong with the files.
        lost: paths at which the value isn't what was meant.
        profiles: names of the profiles that could have been chosen.
    """

    value: Any
    origins: Mapping[KeyPath, Origin] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    lost: frozenset[KeyPath] = frozenset()
    profiles: tuple[str, ...] = ()


def lay(document: Document, source: Path | None, folder: Path, profile: str | None) -> Layered:
    """A document over what it extends, and a profile over both.

    Args:
        document: the recipe as read.
        source: its file, or None.
        folder: where its relative paths start.
        profile: name of the profile to lay over it; None for none.
    """
    chain = () if source is None else (source.resolve(),)
    layered = _whole(_from(document, None), folder, chain)
    value = layered.value
    if not isinstance(value, dict):
        return layered
    written = value.pop(PROFILES, None) or {}
    if not isinstance(written, dict) or not all(isinstance(one, dict) for one in written.values()):
        message = "expected profiles by name, each a mapping of sections, as in {laptop: {seed: 1}}"
        return _with_problem(layered, message, (PROFILES,))
    for name, one in written.items():
        for key in LAYER_KEYS:
            if key in one:
                told = "belongs to the file, not to one of its profiles; move it there"
                layered = _with_problem(layered, f"{key} {told}", (PROFILES, name, key))
                del one[key]
    layered = replace(layered, profiles=tuple(written))
    if profile is None:
        return layered
    if profile not in written:
        what = nearest(profile, written, "profile") if written else "The recipe has no profiles."
        return replace(
            layered, problems=(*layered.problems, Problem(f"unknown profile {profile!r}. {what}", "--profile"))
        )
    own = _within(layered, (PROFILES, profile), written[profile])
    return replace(_over(layered, own), profiles=layered.profiles)


def _whole(layer: Layered, folder: Path, chain: tuple[Path, ...]) -> Layered:
    """A layer over the files that it extends, one over the other; without a value where they can't be read, since
    whatever it names may stand there."""
    if not isinstance(layer.value, dict) or EXTENDS not in layer.value:
        return layer
    text = layer.value.pop(EXTENDS)
    if text is None:
        return layer
    try:
        file = _found(text, folder, chain)
        base = _whole(_from(_document(file), file), file.parent, (*chain, file))
        if not isinstance(base.value, dict) and not base.problems:
            raise SteerkitError(f"{file} holds no recipe: a recipe is a mapping of sections")
    except SteerkitError as error:
        return replace(_with_problem(layer, str(error), (EXTENDS,)), value=None)
    if not isinstance(base.value, dict):
        return replace(layer, value=None, problems=(*base.problems, *layer.problems))
    # What a file is called, and says of itself, need not be so of the one that extends it.
    for own in ("name", "description"):
        base.value.pop(own, None)
    if file.parent != folder.resolve():
        _anchor(base.value, file.parent)
    return _over(base, layer)


def _found(text: Any, folder: Path, chain: tuple[Path, ...]) -> Path:
    """The file that ``extends`` means: one relative to the folder, or a shipped recipe by name."""
    if not isinstance(text, str) or not text:
        raise SteerkitError("expected a recipe's file, relative to this one")
    path, shipped = readable_path(text, folder), shipped_recipes()
    if (fault := pipe_fault(path)) is not None:
        raise SteerkitError(fault)
    if not path.is_file() and text not in shipped:
        what = "is a folder, not a recipe file" if path.is_dir() else "isn't there, and no shipped recipe is called so"
        raise SteerkitError(f"{path} {what}. {nearest(text, shipped, 'shipped recipe')}")
    file = (path if path.is_file() else shipped[text]).resolve()
    if file in chain:
        circle = " → ".join(one.name for one in (*chain[chain.index(file) :], file))
        raise SteerkitError(f"a circle of files that extend each other: {circle}")
    return file


def _document(file: Path) -> Document:
    try:
        return read_document(file.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SteerkitError(f"{file} is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise SteerkitError(f"{file} can't be read: {error.strerror or error}") from error


def _from(document: Document, file: Path | None) -> Layered:
    """One file as a layer."""
    origins = {key: Origin(key, line, file) for key, line in document.lines.items() if key}
    named = str(file) if file is not None else ""
    problems = tuple(replace(problem, file=named) for problem in document.problems)
    return Layered(document.value, origins, problems, document.lost)


def _within(layer: Layered, path: KeyPath, value: dict[str, Any]) -> Layered:
    """A part of a layer as a layer of its own, whose keys remember where they are."""
    own = {key[len(path) :]: origin for key, origin in layer.origins.items() if key[: len(path)] == path}
    lost = {key[len(path) :] for key in layer.lost if key[: len(path)] == path}
    return Layered(value, {key: origin for key, origin in own.items() if key}, (), frozenset(lost - {()}))


def _over(base: Layered, own: Layered) -> Layered:
    """One layer over another."""
    origins, lost = dict(base.origins), set(base.lost)
    value = _merge(base.value, own.value, (), origins, lost)
    origins.update(own.origins)
    return Layered(value, origins, (*base.problems, *own.problems), frozenset(lost | own.lost))


def merged(base: Any, own: Any) -> Any:
    """Plain values over others: mappings key by key, everything else as a whole; null takes away."""
    return _merge(base, own, (), {}, set())


def _merge(base: Any, own: Any, path: KeyPath, origins: dict[KeyPath, Origin], lost: set[KeyPath]) -> Any:
    """The merged value; what is replaced is forgotten, also where it was written."""
    if isinstance(base, dict) and isinstance(own, dict):
        merged = dict(base)
        for key, value in own.items():
            if key not in base:
                merged[key] = value
            elif value is None:
                del merged[key]
                _forget((*path, key), origins, lost)
            else:
                merged[key] = _merge(base[key], value, (*path, key), origins, lost)
        return merged
    _forget(path, origins, lost)
    return own


def _forget(path: KeyPath, origins: dict[KeyPath, Origin], lost: set[KeyPath]) -> None:
    for known in (origins, lost):
        for key in [key for key in known if key[: len(path)] == path]:
            known.pop(key) if isinstance(known, dict) else known.discard(key)


def _anchor(value: Any, folder: Path) -> None:
    """Make the relative paths of a file absolute, in place, so that they mean the same in another folder."""
    for pattern in _FILES:
        holders = [value]
        for part in pattern[:-1]:
            inside = [holder for holder in holders if isinstance(holder, dict)]
            steps = [list(holder) if part == "*" else [part] for holder in inside]
            holders = [holder.get(key) for holder, keys in zip(inside, steps, strict=True) for key in keys]
        for holder in holders:
            if isinstance(holder, dict) and isinstance(text := holder.get(pattern[-1]), str) and text:
                holder[pattern[-1]] = text if text.startswith("~") else str(folder / text)


def _with_problem(layer: Layered, message: str, key: KeyPath) -> Layered:
    origin = layer.origins.get(key, Origin(key, None))
    problem = Problem(message, dotted(origin.key), origin.line, str(origin.file or ""))
    return replace(layer, problems=(*layer.problems, problem), lost=layer.lost | {key})
