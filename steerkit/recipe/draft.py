"""A recipe with where it was written and what is wrong with it. The recipe itself is a value of the pure schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from steerkit.errors import Problem
from steerkit.recipe.document import Path as KeyPath
from steerkit.recipe.document import dotted, write_document
from steerkit.recipe.layers import Origin
from steerkit.recipe.paths import local_model, readable_path
from steerkit.recipe.placement import PLACEMENT_KEYS
from steerkit.recipe.schema import Recipe

INTERVENTION_KEYS = ("direction", "sites", "positions", "schedule", "gate")
EVALUATION_KEYS = ("data", "name", "control")
SCORE_KEYS = ("data", "under")
FILTER_KEYS = ("at_least", "at_most", "parts")
OPTIONS = "options"
"""Holds options of a plugin that are called as a key of ours is, and any others."""
_RARE_OF_DATA = ("completions", "answer_prefix", "obtain")
"""Keys of data sets that a resolved recipe holds only where they are set."""
_RARE = ("schedule", "gate")
"""Keys of interventions that a resolved recipe holds only where they are set."""


@dataclass(frozen=True)
class Written:
    """Where a recipe was read: for messages, never part of its meaning (all written places are equal).

    Args:
        source: the recipe's file, or None.
        folder: where relative paths start.
        origins: path of a key to where it was written: of which file, and as what.
        moved: path of a key as validated to the path as written, where they differ.
        overridden: paths, as written, that ``--set`` gave.
    """

    source: Path | None = field(default=None, compare=False)
    folder: Path = field(default_factory=Path, compare=False)
    origins: Mapping[KeyPath, Origin] = field(default_factory=dict, compare=False)
    moved: Mapping[KeyPath, KeyPath] = field(default_factory=dict, compare=False)
    overridden: frozenset[KeyPath] = field(default=frozenset(), compare=False)

    def path(self, path: KeyPath) -> KeyPath:
        """A path as validated, as it was written."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.moved:
                return (*self.moved[path[:length]], *path[length:])
        return path

    def place(self, path: KeyPath) -> tuple[str, int | None, str]:
        """The dotted key as written, its line where it (or what holds it) has one, and its file if it is another."""
        path = self.path(path)
        for length in range(len(path), 0, -1):
            if path[:length] in self.overridden:
                return f"--set {dotted(path)}", None, ""
            origin = self.origins.get(path[:length])
            if origin is not None:
                return dotted((*origin.key, *path[length:])), origin.line, str(origin.file or "")
        return dotted(path), None, ""


@dataclass(frozen=True)
class Draft:
    """A recipe as it was read. Whatever is wrong with it is in ``problems``; a draft without any is a whole recipe.

    Args:
        recipe: what it says; where something is broken, without it or with a stand-in.
        written: where it was read.
        problems: what is wrong, in the order of the file.
        lost_paths: paths, as written, at which ``recipe`` doesn't hold what was meant.
        profiles: names of the profiles that could be laid over it.
    """

    recipe: Recipe
    written: Written = field(default_factory=Written)
    problems: tuple[Problem, ...] = ()
    lost_paths: frozenset[KeyPath] = frozenset()
    profiles: tuple[str, ...] = ()

    @property
    def source(self) -> Path | None:
        """The file that it was read from."""
        return self.written.source

    def lost(self, *path: str | int) -> bool:
        """Whether the recipe doesn't hold what was meant at this key. What follows from that is no further problem."""
        written = self.written.path(path)
        return any(written[:length] in self.lost_paths for length in range(1, len(written) + 1))

    def lost_within(self, *path: str | int) -> bool:
        """Whether anything at this key or inside it is lost."""
        written = self.written.path(path)
        return self.lost(*path) or written in self._above

    @cached_property
    def _above(self) -> frozenset[KeyPath]:
        """Every path at which, or within which, something is lost."""
        return frozenset(path[:length] for path in self.lost_paths for length in range(len(path) + 1))

    def path_of(self, file: str) -> Path:
        """A path of the recipe, made absolute: relative ones start at the recipe's folder.

        Raises:
            SteerkitError: where no file can have this path.
        """
        return readable_path(file, self.written.folder).resolve()

    def place(self, *path: str | int) -> tuple[str, int | None, str]:
        """The dotted key, line and file of a part of the recipe, for messages."""
        return self.written.place(path)

    def resolved(self) -> dict[str, Any]:
        """Every key with its value, as YAML would hold it, paths absolute. ``recipe_from_mapping`` reads it back."""
        out: dict[str, Any] = self.recipe.model_dump(mode="json")
        self._resolve_sources(out)
        _fold_sections(out)
        return out

    def _resolve_sources(self, out: dict[str, Any]) -> None:
        """Files of the model, data, directions and suffixes, with absolute paths; without what is rarely set there."""
        model = out["model"]
        if template := model.pop("chat_template_file"):
            model["chat_template"] = {"file": str(self.path_of(template))}
        if model["answer_prefix"] is None:
            del model["answer_prefix"]
        if model["special_tokens_in_text"] == "allow":
            del model["special_tokens_in_text"]
        if model["offload_folder"] is not None:
            model["offload_folder"] = str(self.path_of(model["offload_folder"]))
        _drop_unset(model, PLACEMENT_KEYS)
        if (folder := local_model(model["source"])) is not None:
            model["source"] = str(folder.resolve())
        for data in out["data"].values():
            if data["file"] is not None:
                data["file"] = str(self.path_of(data["file"]))
            if data["split"] is not None and data["split"]["by"] is None:
                del data["split"]["by"]
            _drop_unset(data, _RARE_OF_DATA)
        for name, direction in out["directions"].items():
            if direction["file"] is not None:
                given = self.recipe.directions[name].model_fields_set
                said: dict[str, Any] = {key: direction[key] for key in ("format", "site", "positions") if key in given}
                out["directions"][name] = {"file": str(self.path_of(direction["file"])), **said}
        for study in out["suffixes"].values():
            if (texts := study.pop("suffixes_file")) is not None:
                said = {key: value for key, value in texts.items() if value is not None}
                study["suffixes"] = {**said, "file": str(self.path_of(texts["file"]))}

    def to_yaml(self) -> str:
        """``resolved`` as YAML, which ``load_recipe`` reads back as the same recipe."""
        return write_document(self.resolved())


def _fold_sections(out: dict[str, Any]) -> None:
    """Plugins under their names, as they are written; without keys and sections that are rarely set."""
    for condition in out["conditions"].values():
        _drop_unset(condition, ("system_prompt",))
        if condition["mode"] == "auto":
            del condition["mode"]
        condition["interventions"] = [_fold(item, INTERVENTION_KEYS) for item in condition["interventions"]]
    if not out["report"]["published"]:
        del out["report"]["published"]
    _drop_unset(out["report"], ("tradeoff", "compared_with"))
    for search in out["search"].values():
        search["scores"] = {name: _fold_score(item) for name, item in search["scores"].items()}
        _drop_unset(search, ("coefficients",))
    out["filter"] = {name: _fold(item, FILTER_KEYS) for name, item in out["filter"].items()}
    for section in ("monitors", "search", "filter", "suffixes"):
        if not out[section]:
            del out[section]
    for item in out["evaluate"]:
        if item["control"] is True:
            del item["control"]
    out["evaluate"] = [_fold(item, EVALUATION_KEYS) for item in out["evaluate"]]


def _drop_unset(section: dict[str, Any], keys: tuple[str, ...]) -> None:
    for key in keys:
        if section[key] is None:
            del section[key]


def _fold_score(item: dict[str, Any]) -> dict[str, Any]:
    return _fold({**item, "under": [_fold(one, INTERVENTION_KEYS) for one in item["under"]]}, SCORE_KEYS)


def _fold(item: dict[str, Any], own: tuple[str, ...]) -> dict[str, Any]:
    options = item.pop(OPTIONS)
    apart: dict[str, Any] = {}
    for key in (*own, OPTIONS):
        if key in options:
            apart[key] = options.pop(key)
    if apart:
        options[OPTIONS] = apart
    for key in _RARE:
        if item.get(key, ...) is None:
            del item[key]
    return {item.pop("plugin"): {**item, **options}}
