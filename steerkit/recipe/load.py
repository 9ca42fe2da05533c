"""From YAML to a validated recipe: overrides, the short forms of the grammar, every problem at once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from steerkit.errors import Problem, RecipeError
from steerkit.recipe.document import Path as KeyPath
from steerkit.recipe.document import dotted, is_whole, read_document
from steerkit.recipe.draft import EVALUATION_KEYS, FILTER_KEYS, INTERVENTION_KEYS, OPTIONS, SCORE_KEYS, Draft, Written
from steerkit.recipe.layers import LAYER_KEYS, lay, merged
from steerkit.recipe.mend import Mender
from steerkit.recipe.problems import in_order
from steerkit.recipe.shipped import find_recipe


def load_recipe(path: str | os.PathLike[str], overrides: Iterable[str] = (), profile: str | None = None) -> Draft:
    """Read a recipe from a YAML file, or a shipped one by name: a draft without problems.

    Args:
        path: a file, or the name of a shipped recipe.
        overrides: ``"a.b=value"`` each, the value in YAML; list items by index.
        profile: name of one of its profiles, which is laid over it before the overrides.

    Raises:
        RecipeError: with every problem that was found, with lines and nearest names.
    """
    return _whole(draft_recipe(path, overrides, profile), str(path))


def draft_recipe(path: str | os.PathLike[str], overrides: Iterable[str] = (), profile: str | None = None) -> Draft:
    """Read a recipe as ``load_recipe`` does, but keep its problems instead of raising them.

    What is broken is left out or has a stand-in, so that the rest can be checked as well: ``make_plan`` raises these
    problems together with its own.

    Raises:
        RecipeError: where there is nothing to check: no file, no YAML or no mapping.
    """
    source = find_recipe(path)
    layered = lay(read_document(_read_text(source)), source, source.resolve().parent, profile)
    problems = list(layered.problems)
    value: Any = layered.value
    if not problems and not isinstance(value, dict):
        what = "empty" if value is None else f"a {_kind(value)}"
        example = "model: {source: smollm2-135m-instruct}"
        problems.append(Problem(f"the file is {what}; a recipe is a mapping of sections, beginning with {example!r}"))
    given: set[KeyPath] = set()
    lost = set(layered.lost)
    if isinstance(value, dict):
        for text in overrides:
            problems += _override(value, text, given, lost)
        value.setdefault("name", re.sub(r"[^A-Za-z0-9_-]+", "-", source.stem).strip("-") or "recipe")
    written = Written(source, source.resolve().parent, layered.origins, {}, frozenset(given))
    if not isinstance(value, dict):
        raise RecipeError(in_order(problems), str(path))
    return replace(
        _draft(value, written, problems, lost, str(path)), profiles=layered.profiles if profile is None else ()
    )


def recipe_from_mapping(mapping: Mapping[str, Any], folder: str | os.PathLike[str] = ".") -> Draft:
    """Read a recipe from plain values, as they would stand in YAML; files are relative to ``folder``.

    Raises:
        RecipeError: with every problem that was found.
    """
    # A round trip through YAML's values brings tuples, NaN and foreign types to the same rules.
    from steerkit.recipe.document import write_document

    document = read_document(write_document(_plain(mapping)))
    bare = replace(document, lines={}, problems=tuple(replace(item, line=None) for item in document.problems))
    written = Written(None, Path(folder).resolve())
    layered = lay(bare, None, written.folder, None)
    return _whole(_draft(layered.value, written, list(layered.problems), layered.lost, "recipe"), "recipe")


def _read_text(source: Path) -> str:
    try:
        data = source.read_bytes()
    except OSError as error:
        raise RecipeError([Problem(f"can't be read: {error.strerror or error}")], str(source)) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RecipeError([Problem("not UTF-8 text; save it as UTF-8", line=line)], str(source)) from error


def _draft(
    value: dict[str, Any], written: Written, problems: list[Problem], lost: Iterable[KeyPath], name: str
) -> Draft:
    grammar = _Grammar(written)
    canonical = grammar.recipe(value)
    written = replace(written, moved=grammar.moved)
    mender = Mender(canonical, written, {*lost, *grammar.lost})
    recipe = mender.mended()
    found = tuple(in_order([*problems, *grammar.problems, *mender.problems]))
    if recipe is None:
        raise RecipeError(found, name)
    return Draft(recipe, written, found, frozenset(mender.lost))


def _whole(draft: Draft, name: str) -> Draft:
    if draft.problems:
        raise RecipeError(draft.problems, name)
    return draft


def _override(value: dict[str, Any], text: str, given: set[KeyPath], lost: set[KeyPath]) -> list[Problem]:
    """Put ``a.b=c`` into plain values, in place, and note its path as given; as lost where ``c`` is no value."""
    where = f"--set {text}"
    key, equals, raw = text.partition("=")
    parts = re.sub(r"\[(-?\d+)\]", r".\1", key.strip()).split(".")
    if not equals or not all(parts) or not is_whole(key):
        return [Problem("expected key=value with a dotted key, as in --set model.dtype=bfloat16", where)]
    if parts[0] in LAYER_KEYS:
        return [Problem(f"{parts[0]} is said in the file, or with --profile; it can't be set", where)]
    document = read_document(raw)
    holder: Any = value
    path: list[str | int] = []
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        step: str | int = part
        if isinstance(holder, list):
            if not re.fullmatch(r"-?\d+", part) or not -len(holder) <= int(part) < len(holder):
                return [
                    Problem(f"{dotted(tuple(path))} is a list with items 0 to {len(holder) - 1}, not {part!r}", where)
                ]
            step = int(part) % len(holder)
        elif not isinstance(holder, dict):
            return [Problem(f"{dotted(tuple(path))} holds {holder!r}, so nothing can be set inside it", where)]
        path.append(step)
        if last and not document.problems:
            holder[step] = document.value
        elif last:
            lost.add(tuple(path))
            return [Problem(problem.message, where) for problem in document.problems]
        elif isinstance(holder, dict) and holder.get(part) is None:
            holder[part] = {}
        holder = holder[step]
    given.add(tuple(path))
    return []


class _Grammar:
    """Brings the short forms that people write into the one form that the schema validates."""

    def __init__(self, written: Written) -> None:
        self.written = written
        self.moved: dict[KeyPath, KeyPath] = {}
        self.problems: list[Problem] = []
        self.lost: set[KeyPath] = set()

    def recipe(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """The whole recipe, in canonical form."""
        out = {key: item for key, item in value.items() if item is not None or key in ("name", "model")}
        if isinstance(out.get("model"), dict):
            out["model"] = self._model(out["model"])
        if isinstance(out.get("conditions"), dict):
            out["conditions"] = {
                name: self._condition(item, ("conditions", name)) for name, item in out["conditions"].items()
            }
        if isinstance(out.get("monitors"), dict):
            out["monitors"] = {name: self._monitor(item, name) for name, item in out["monitors"].items()}
        if isinstance(out.get("filter"), dict):
            filters = {name: self._filter(item, ("filter", name)) for name, item in out["filter"].items()}
            out["filter"] = {name: item for name, item in filters.items() if item is not None}
        if isinstance(out.get("search"), dict):
            out["search"] = {name: self._search(item, ("search", name)) for name, item in out["search"].items()}
        if isinstance(out.get("suffixes"), dict):
            out["suffixes"] = {name: self._study(item, name) for name, item in out["suffixes"].items()}
        if isinstance(out.get("evaluate"), list):
            items = self._items(out["evaluate"], ("evaluate",), ("evaluate",), EVALUATION_KEYS)
            out["evaluate"] = [self._evaluation(item, ("evaluate", index)) for index, item in enumerate(items)]
        if isinstance(out.get("control"), bool):
            out["control"] = {} if out["control"] else {"random_directions": 0}
        return out

    def _model(self, model: dict[str, Any]) -> dict[str, Any]:
        template = model.get("chat_template")
        if isinstance(template, dict) and set(template) == {"file"}:
            self.moved[("model", "chat_template_file")] = ("model", "chat_template", "file")
            return {**model, "chat_template": "file", "chat_template_file": template["file"]}
        if template == "file" or "chat_template_file" in model:
            self._complain(("model", "chat_template"), "expected default, none, or {file: template.jinja}")
        return model

    def _monitor(self, item: Any, name: str) -> Any:
        if isinstance(item, dict) and isinstance(item.get("sites"), str):
            item = {**item, "sites": [item["sites"]]}
            self.moved[("monitors", name, "sites", 0)] = ("monitors", name, "sites")
        return item

    def _study(self, item: Any, name: str) -> Any:
        if isinstance(item, dict) and isinstance(texts := item.get("suffixes"), dict):
            self.moved[("suffixes", name, "suffixes_file")] = ("suffixes", name, "suffixes")
            return {**{key: value for key, value in item.items() if key != "suffixes"}, "suffixes_file": texts}
        if isinstance(item, dict) and "suffixes_file" in item:
            message = "expected `suffixes`, with a list of texts or {file: suffixes.txt}"
            self._complain(("suffixes", name, "suffixes_file"), message)
        return item

    def _condition(self, item: Any, path: KeyPath) -> Any:
        if isinstance(item, list):
            self.moved[(*path, "interventions")] = path
            item = {"interventions": item}
            base = path
        else:
            base = (*path, "interventions")
        if not isinstance(item, dict) or not isinstance(item.get("interventions"), list):
            return item
        found = self._items(item["interventions"], base, (*path, "interventions"), INTERVENTION_KEYS)
        for index, entry in enumerate(found):
            self._listed(entry, "sites", (*path, "interventions", index))
        return {**item, "interventions": found}

    def _filter(self, item: Any, path: KeyPath) -> dict[str, Any] | None:
        built = self._item(item, path, FILTER_KEYS, path)
        if built is not None:
            self._listed(built, "parts", path)
        return built

    def _search(self, item: Any, path: KeyPath) -> Any:
        if not isinstance(item, dict):
            return item
        told: dict[KeyPath, KeyPath] = {}
        if "preset" in item:
            item, told = self._with_preset(dict(item), path)
        if isinstance(item.get("scores"), dict):
            scores = {name: self._score(score, (*path, "scores", name)) for name, score in item["scores"].items()}
            item = {**item, "scores": {name: score for name, score in scores.items() if score is not None}}
        self.moved |= told
        return item

    def _with_preset(self, item: dict[str, Any], path: KeyPath) -> tuple[dict[str, Any], dict[KeyPath, KeyPath]]:
        """What a preset stands for, under what is written beside it, and where each part of it was told."""
        from steerkit.recipe.presets import expand_preset

        found = expand_preset(item.pop("preset"))
        for inside, message in found.problems:
            self._complain((*path, "preset", *inside), message)
        if found.problems:
            self.lost |= {(*path, key) for key in ("scores", "minimise", "maximise", "subject_to", "coefficients")}
            return item, {}
        told = {}
        for part in _paths_of(found.search):
            if not _holds(item, part):
                begins = max((one for one in found.sources if part[: len(one)] == one), key=len)
                beyond = part[len(begins) :] if begins else ()
                told[(*path, *_of_score(part))] = (*path, "preset", *found.sources[begins], *beyond)
        return dict(merged(found.search, item)), told

    def _score(self, score: Any, path: KeyPath) -> dict[str, Any] | None:
        built = self._item(score, path, SCORE_KEYS, path)
        if built is None or not isinstance(under := built.get("under"), (list, str)):
            return built
        listed = [under] if isinstance(under, str) else under
        at = (*self.moved[path], "under")
        found = self._items(listed, at, (*path, "under"), INTERVENTION_KEYS)
        for index, entry in enumerate(found):
            self._listed(entry, "sites", (*path, "under", index))
        return {**built, "under": found}

    def _items(self, items: list[Any], path: KeyPath, target: KeyPath, own: tuple[str, ...]) -> list[dict[str, Any]]:
        """Read a list of plugins at ``path`` as written, which becomes ``target`` as validated."""
        found: list[dict[str, Any]] = []
        for index, item in enumerate(items):
            built = self._item(item, (*path, index), own, (*target, len(found)))
            if built is not None:
                found.append(built)
        return found

    def _item(self, item: Any, path: KeyPath, own: tuple[str, ...], target: KeyPath) -> dict[str, Any] | None:
        """Read ``plugin: {own keys and options}``, or the plugin's name alone."""
        if isinstance(item, str):
            item = {item: None}
        if not isinstance(item, dict) or len(item) != 1:
            self._complain(path, "expected one plugin with its options, as in '- add: {direction: warmth}'")
            return None
        ((plugin, body),) = item.items()
        body = {} if body is None else body
        if not isinstance(body, dict):
            self._complain((*path, plugin), f"expected a mapping (key: value), not a {_kind(body)}")
            return None
        self.moved[target] = (*path, plugin)
        self.moved[(*target, OPTIONS)] = (*path, plugin)
        body = self._uncut(body, (*path, plugin), own)
        kept = {key: body[key] for key in own if key in body}
        options = {key: body[key] for key in body if key not in (*own, OPTIONS)}
        return {"plugin": plugin, **kept, OPTIONS: self._apart(body, options, (*path, plugin, OPTIONS), target)}

    def _apart(
        self, body: Mapping[str, Any], options: dict[str, Any], path: KeyPath, target: KeyPath
    ) -> dict[str, Any]:
        """Options with those that stand apart under ``options``, where they may be called anything."""
        apart = body.get(OPTIONS)
        if apart is None:
            return options
        if not isinstance(apart, dict):
            self._complain(path, f"expected a mapping (key: value) of the plugin's options, not a {_kind(apart)}")
            return options
        for key, value in apart.items():
            if key in options:
                self._complain((*path, key), f"{key} stands here twice; leave one out")
            self.moved[(*target, OPTIONS, key)] = (*path, key)
            options[key] = value
        return options

    def _uncut(self, body: dict[str, Any], path: KeyPath, own: tuple[str, ...]) -> dict[str, Any]:
        """Take out a text of ours that braces cut at its commas, as they do with ``{schedule: linear(1, 0, 64)}``."""
        for key in own:
            text = body.get(key)
            if not isinstance(text, str) or text.count("(") <= text.count(")"):
                continue
            names = list(body)
            pieces = names[names.index(key) + 1 :]
            last = next((at for at, name in enumerate(pieces) if name.endswith(")") or body[name] is not None), None)
            if last is None or body[pieces[last]] is not None:
                continue
            whole = json.dumps(", ".join([text, *pieces[: last + 1]]), ensure_ascii=False)
            self._complain((*path, key), f"braces cut this text at its commas; put it in quotes: {key}: {whole}")
            body = {name: item for name, item in body.items() if name not in (key, *pieces[: last + 1])}
        return body

    def _evaluation(self, item: dict[str, Any], target: KeyPath) -> dict[str, Any]:
        item.setdefault("name", item["plugin"])
        self._listed(item, "data", target)
        self._listed(item, "control", target)
        return item

    def _listed(self, item: dict[str, Any], key: str, target: KeyPath) -> None:
        """Read a text where a list may stand as a list of one."""
        if isinstance(item.get(key), str):
            item[key] = [item[key]]
            self.moved[(*target, key, 0)] = (*self.moved[target], key)

    def _complain(self, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(message, *self.written.place(path)))
        self.lost.add(path)


def _paths_of(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The path of every key and item within plain values, the outer ones first."""
    listed = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in listed:
        yield (*path, key)
        yield from _paths_of(item, (*path, key))


def _holds(value: Any, path: KeyPath) -> bool:
    """Whether plain values have something of their own at a path. A list is replaced as a whole."""
    for key in path:
        if not isinstance(value, dict):
            return True
        if key not in value:
            return False
        value = value[key]
    return True


def _of_score(path: KeyPath) -> KeyPath:
    """A path within a search as written, as it is validated: a score's evaluator is no key of its own."""
    if path[0] != "scores" or len(path) < 3:
        return path
    key = path[3:4]
    return (*path[:2], *(() if not key or key[0] in SCORE_KEYS else (OPTIONS,)), *path[3:])


def _kind(value: Any) -> str:
    return {list: "list", str: "text", bool: "true/false value", dict: "mapping"}.get(type(value), "number")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, type(None))) else str(value)
