"""What can be known of a model without loading it: from its config and tokenizer files, where they are at hand."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from steerkit.api.files import pipe_fault
from steerkit.api.hookspecs import ModelFacts
from steerkit.bundled import BUNDLED, bundled_folder
from steerkit.checkpoints import folder_fault, gguf_fault, tokenizer_fault
from steerkit.errors import ModelError
from steerkit.plan.planned.model import PlannedModel
from steerkit.recipe.paths import local_model, readable_path
from steerkit.sources import TINY, TINY_SPECIAL_TOKENS, TINY_WIDTH, can_be_hub_id, no_tiny, tiny_layers
from steerkit.types.contexts import context_limit

_DEPTH_KEYS: Final = ("num_hidden_layers", "n_layer")
_LARGEST_TOKENIZER: Final = 20_000_000
"""Bytes of a tokenizer file. Reading a larger one (Gemma's) takes a second, and its config lists special tokens too."""
_WIDTH_KEYS: Final = ("hidden_size", "n_embd")


def look_at(source: str, revision: str | None) -> tuple[PlannedModel, ModelFacts | None]:
    """Return what is known of a model, and the facts that its adapter is chosen by (None: known at load).

    Raises:
        SteerkitError: where it can be said already that there is no such model.
    """
    if source.startswith(TINY):
        model_type = source.removeprefix(TINY)
        if why := no_tiny(model_type):
            raise ModelError(f"no tiny model {model_type!r}. {why}")
        return PlannedModel(source, model_type, tiny_layers(model_type), None, TINY_WIDTH), ModelFacts(model_type, {})
    folder = model_folder(source, revision)
    config = object_or_empty(folder / "config.json") if folder is not None else {}
    if not config:
        known = BUNDLED.get(source)
        if known is None:
            return PlannedModel(source, None, None, folder), None
        return PlannedModel(source, known.model_type, known.n_layers, folder), ModelFacts(known.model_type, {})
    assert folder is not None
    if config.get("model_type") == "qwen":  # the stand-in for tests was seen to above
        from steerkit.engine.loading.qwen1_config import as_qwen2

        config = as_qwen2(config, source)
    model_type = str(config.get("model_type", ""))
    depth, width = _number(config, *_DEPTH_KEYS), _number(config, *_WIDTH_KEYS)
    model = PlannedModel(source, model_type, depth, folder, width, _context(config))
    return model, ModelFacts(model_type, config, special_tokens(folder))


def model_folder(source: str, revision: str | None) -> Path | None:
    """The folder on this machine that holds a model's files, or None.

    Raises:
        ModelError: for a path that isn't there, or a name that is nearly a bundled one.
        SteerkitError: for what can't be a path.
    """
    if source in BUNDLED:
        return bundled_folder(source)
    path = local_model(source)
    if path is not None:
        if path.is_dir() and not (path / "config.json").is_file():
            raise ModelError(f"{source!r} is no folder of a model: there is no config.json in it")
        if path.is_dir():
            fault = folder_fault(path, whole=False) or tokenizer_fault(path)
        else:
            fault = gguf_fault(path) if path.is_file() and path.suffix == ".gguf" else None
        if fault is not None:
            raise ModelError(fault)
        return path if path.is_dir() else None
    if (fault := pipe_fault(readable_path(source))) is not None:
        raise ModelError(fault)
    if source.startswith((".", "/", "~")) or source.endswith(".gguf"):
        raise ModelError(f"there is no model at {source!r}")
    near = difflib.get_close_matches(source, [*BUNDLED, TINY], n=1, cutoff=0.8)
    if near and "/" not in source:
        raise ModelError(f"{source!r} is neither a folder nor a bundled model. Did you mean {near[0]!r}?")
    if not can_be_hub_id(source):
        raise ModelError(f"there is no file or folder {source!r}, and no model of the hub is called so")
    return _hub_snapshot(source, revision)


def is_hub_id(source: str) -> bool:
    """Whether a model's source is one of the hub, which alone has revisions.

    Raises:
        SteerkitError: for what can't be a path.
    """
    return not source.startswith(TINY) and source not in BUNDLED and local_model(source) is None


def _hub_snapshot(repository: str, revision: str | None) -> Path | None:
    """A snapshot in the hub's cache, found by its files: importing the hub's package costs more than the plan."""
    # os.path, since it raises nothing for a path that can't be.
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    cache = Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE") or home / "hub"))
    folder = cache / f"models--{repository.replace('/', '--')}"
    try:
        commit = (folder / "refs" / (revision or "main")).read_text("utf-8").strip()
    except (OSError, ValueError):
        commit = revision or ""
    snapshot = folder / "snapshots" / commit
    return snapshot if commit and os.path.isdir(snapshot) else None


def special_tokens(folder: Path) -> frozenset[str]:
    """The texts of special tokens, as the tokenizer's files list them."""
    found: set[str] = set()
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        values = object_or_empty(folder / name)
        found.update(token for key in values if key.endswith("_token") and (token := token_text(values[key])))
        for item in values.get("additional_special_tokens") or ():
            found.add(token_text(item))
        for item in (values.get("added_tokens_decoder") or {}).values():
            if isinstance(item, dict) and item.get("special"):
                found.add(token_text(item))
    return frozenset(found - {""})


def known_special_tokens(model: PlannedModel) -> frozenset[str] | None:
    """The texts of a model's special tokens, or None where its files aren't at hand."""
    if model.source.startswith(TINY):
        return frozenset(TINY_SPECIAL_TOKENS)
    if model.folder is None:
        return None
    file = model.folder / "tokenizer.json"
    if file.is_file() and file.stat().st_size > _LARGEST_TOKENIZER:
        return special_tokens(model.folder)
    listed = {
        str(item.get("content"))
        for item in object_or_empty(file).get("added_tokens") or ()
        if isinstance(item, dict) and item.get("special")
    }
    return special_tokens(model.folder) | listed


def token_text(value: Any) -> str:
    """A token as tokenizer files write it: a text, or an object with its text as ``content``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def special_names(folder: Path) -> dict[str, str]:
    """Special tokens by what templates call them, as in ``{"bos_token": "<s>"}``."""
    values = object_or_empty(folder / "tokenizer_config.json")
    return {key: token_text(value) for key, value in values.items() if key.endswith("_token")}


def chat_template(folder: Path) -> str | None:
    """The chat template among a model's files, or None."""
    try:
        own = folder / "chat_template.jinja"
        if own.is_file():
            return own.read_text("utf-8")
    except (OSError, ValueError):
        pass
    template = object_or_empty(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def object_or_empty(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where the file isn't there or holds something else."""
    try:
        value = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _number(config: Mapping[str, Any], *keys: str) -> int | None:
    """What a config says under the first of some keys that it has, itself or for its text model."""
    inner = config.get("text_config")
    for values in (config, inner if isinstance(inner, dict) else {}):
        for key in keys:
            if isinstance(values.get(key), int):
                return int(values[key])
    return None


def _context(config: Mapping[str, Any]) -> int | None:
    """Most tokens that a checkpoint reads, by its config or that of its text part."""
    inner = config.get("text_config")
    found = context_limit(config)
    return context_limit(inner) if found is None and isinstance(inner, Mapping) else found


def vocabulary_size(config: Mapping[str, Any]) -> int | None:
    """The size of a checkpoint's vocabulary, by its config or that of its text part."""
    inner = config.get("text_config")
    size = config.get("vocab_size") or (inner.get("vocab_size") if isinstance(inner, Mapping) else None)
    return size if isinstance(size, int) else None
