"""From a source (hub id, folder, GGUF file, bundled alias, tiny random model) to a model in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from steerkit.api.files import pipe_fault
from steerkit.api.hookspecs import ModelFacts
from steerkit.bundled import BUNDLED
from steerkit.checkpoints import folder_fault, has_tokenizer
from steerkit.engine.loading.kinds import require_causal
from steerkit.engine.loading.placing import checked, main_device
from steerkit.engine.loading.pretrained import from_pretrained, placed_anew
from steerkit.engine.loading.unwrap import plain_model, plain_tokenizer
from steerkit.engine.loading.weights import hash_of_files, hash_of_tensors
from steerkit.errors import ModelError, UnknownNameError, nearest
from steerkit.sources import TINY, can_be_hub_id
from steerkit.types.placement import ModelPlacement

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A causal language model in memory: in eval mode, with no gradient wanted of any parameter.

    Args:
        model: the transformers model.
        tokenizer: its tokenizer; None where it came without one.
        source: where it came from, as the user named it.
        facts: what the checkpoint says about itself.
        weights_hash: for provenance; see ``steerkit.engine.loading.weights``. None for a live model.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    source: str
    facts: ModelFacts
    weights_hash: str | None = None


@dataclass(frozen=True)
class _Request:
    """What the user asked for, checked."""

    dtype: torch.dtype | None
    device: torch.device
    revision: str | None
    trust_remote_code: bool
    accept_terms: bool
    placement: ModelPlacement

    def dtype_or(self, default: torch.dtype) -> torch.dtype:
        return default if self.dtype is None else self.dtype


def load(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    accept_terms: bool = False,
    placement: ModelPlacement | None = None,
) -> LoadedModel:
    """Load a causal language model and its tokenizer.

    Args:
        source: a bundled alias, ``tiny-random:<model type>``, a ``.gguf`` file, a folder, or a hub id.
        revision: of a hub repository; the others have none.
        dtype: ``float32``, ``bfloat16``, ``float16``; ``auto`` is float32 on a CPU, else the checkpoint's own.
        device: a torch device; ``auto`` is ``cuda`` where there is one, else ``cpu``.
        trust_remote_code: run Python code that comes with a checkpoint.
        accept_terms: agree to a bundled model's terms of use without being asked.
        placement: where the weights go, and in which form; on ``device`` as they are where None.

    Raises:
        UnknownNameError: where the source is no path and looks like a misspelt alias.
        ModelError: where it can't be found, read or used; says what to do.
    """
    if not isinstance(source, (str, Path)) or not str(source).strip():
        raise ModelError(f"A model is named by an alias, a hub id, a folder or a .gguf file, not by {source!r}.")
    text = str(source)
    where = checked(placement or ModelPlacement(), device)
    chosen = main_device(where, device)
    request = _Request(_dtype(dtype, chosen), chosen, revision, trust_remote_code, accept_terms, where)
    try:
        loader = _loader(text)
    except (OSError, ValueError, RuntimeError) as error:  # a name that is too long, a home directory that isn't there
        why = getattr(error, "strerror", None) or str(error)
        raise ModelError(f"{text[:60]!r} can't be a model's path ({why}). Write another one.") from None
    if revision is not None and loader is not _load_hub:
        raise ModelError(f"revision {revision!r} is of no use for {text!r}: only a hub repository has revisions.")
    try:
        model, tokenizer, weights_hash = loader(text, request)
        if where.device_map is None and where.tensor_parallel is None:
            model.to(chosen)  # type: ignore[arg-type]
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ModelError(
            f"{text} doesn't fit into the memory of {chosen}. Use device_map auto, which puts on disk what doesn't "
            "fit, dtype bfloat16, another device, or a smaller model."
        ) from error
    return LoadedModel(_ready_for_steering(model), tokenizer, text, facts_of(model.config, tokenizer), weights_hash)


def adopt(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, source: str = "live"
) -> LoadedModel:
    """Take a causal language model that is already loaded. Nothing of it is changed.

    Of what ``torch.compile(model)`` returns, the model inside is taken; what steers that one steers both. For passes
    of ours to be compiled as well, compile the model in place: ``model.compile()``. Of a ``PeftModel`` the model inside
    is taken, with the adapters in its layers; of a processor the tokenizer.

    Raises:
        ModelError: where it isn't a causal language model of transformers, or what is around it can't be taken off.
    """
    model, tokenizer = plain_model(model), plain_tokenizer(tokenizer)
    if not hasattr(model, "config") or not hasattr(model, "get_output_embeddings"):
        raise ModelError(f"A causal language model of transformers is needed, not {type(model).__name__}.")
    require_causal(model.config, source, architecture=type(model).__name__)
    return LoadedModel(model, tokenizer, source, facts_of(model.config, tokenizer))


def facts_of(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase | None) -> ModelFacts:
    """What adapters are chosen by."""
    special: set[str] = set()
    if tokenizer is not None:
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = {str(token) for token in tokenizer.all_special_tokens}
        special |= {str(token) for token in added if getattr(token, "special", False)}
    return ModelFacts(str(config.model_type), config.to_dict(), frozenset(special))


def _ready_for_steering(model: PreTrainedModel) -> PreTrainedModel:
    model.requires_grad_(False)
    model.eval()
    return model


def _dtype(name: str, device: torch.device) -> torch.dtype | None:
    """The dtype asked for; None for the checkpoint's own."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else None
    if not isinstance(name, str) or name not in DTYPES:
        raise ModelError(f"Unknown dtype {name!r}. {nearest(name, [*DTYPES, 'auto'], 'dtype')}")
    return DTYPES[name]


_Parts = tuple["PreTrainedModel", "PreTrainedTokenizerBase | None", "str | None"]


def _loader(source: str) -> Callable[[str, _Request], _Parts]:
    """Who loads it. A path that exists goes before a hub id; an alias before both."""
    if source in BUNDLED:
        return _load_bundled
    if source.startswith(TINY):
        return _load_tiny
    path = Path(source).expanduser()
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        path.stat()  # raises for what no path can be
    if (fault := pipe_fault(path)) is not None:
        raise ModelError(f"{fault}.")
    if os.path.isdir(path):
        return _load_folder
    if path.suffix.lower() == ".gguf":
        return _load_gguf
    if os.path.isfile(path):
        raise ModelError(f"{source} is a file. A model is a folder with config.json and safetensors, or a .gguf file.")
    if not can_be_hub_id(source) or (source.count("/") == 1 and path.parent.is_dir()):
        raise ModelError(f"There is no {source}. {_siblings(path)}")
    if "/" not in source and get_close_matches(source, BUNDLED, cutoff=0.5):
        hint = nearest(source, BUNDLED, "bundled model")
        raise UnknownNameError(f"Unknown model {source!r}. {hint} A hub model is named <organisation>/<name>.")
    return _load_hub


def _siblings(path: Path) -> str:
    """The models that lie beside a path that doesn't exist."""
    if not path.parent.is_dir():
        return f"There is no folder {path.parent} either."
    models = [item.name for item in path.parent.iterdir() if item.suffix == ".gguf" or (item / "config.json").is_file()]
    return nearest(path.name, models, "model") if models else f"No model is in {path.parent.resolve()}."


def _load_tiny(source: str, request: _Request) -> _Parts:
    from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer

    model = tiny_model(source.removeprefix(TINY), dtype=request.dtype_or(torch.float32))
    vocabulary, weights_hash = int(model.config.get_text_config().vocab_size), hash_of_tensors(model.state_dict())
    return placed_anew(model, request.placement, source), tiny_tokenizer(vocab_size=vocabulary), weights_hash


def _load_bundled(source: str, request: _Request) -> _Parts:
    from steerkit.engine.loading.fetch import fetch

    folder = fetch(source, accept_terms=request.accept_terms)
    return _load_folder(str(folder), request)


def _load_gguf(source: str, request: _Request) -> _Parts:
    from steerkit.engine.loading.dequantise import read_gguf

    path = Path(source).expanduser()
    if not path.is_file():
        raise ModelError(f"There is no file {source}. {_siblings(path)}")
    model, tokenizer = read_gguf(path, request.dtype_or(torch.float32))
    return placed_anew(model, request.placement, source), tokenizer, hash_of_files([path])


def _load_folder(source: str, request: _Request) -> _Parts:
    folder = Path(source).expanduser()
    _require_checkpoint(folder)
    local = {"local_files_only": True}
    config = _qwen1_config(str(folder.resolve()), local)
    if config is not None:
        return _load_qwen1(folder, config, source, request)
    model, tokenizer = _safetensors(str(folder.resolve()), request, local, tokenizer=has_tokenizer(folder))
    return model, tokenizer, hash_of_files(sorted(folder.glob("*.safetensors")))


def _load_hub(source: str, request: _Request) -> _Parts:
    from steerkit.engine.loading.hub import is_reachable, note_commit, qwen1_snapshot

    options: dict[str, Any] = {} if is_reachable() else {"local_files_only": True}
    if request.revision is not None:
        options["revision"] = request.revision
    config = _qwen1_config(source, options)
    if config is not None:
        return _load_qwen1(qwen1_snapshot(source, options), config, source, request)
    model, tokenizer = _safetensors(source, request, options)
    return model, tokenizer, hash_of_files(note_commit(source, request.revision, model.config))


def _qwen1_config(source: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """The ``config.json`` of a Qwen 1 checkpoint; None for any other. Transformers would ask for its code to be run."""
    from transformers import PreTrainedConfig

    from steerkit.engine.loading.hub import explained
    from steerkit.engine.loading.quiet import quiet_transformers
    from steerkit.engine.loading.qwen1_config import is_qwen1

    with explained(source, local=Path(source).is_dir()), quiet_transformers():
        config: dict[str, Any] = PreTrainedConfig.get_config_dict(source, **options)[0]
    return config if is_qwen1(config) else None


def _load_qwen1(folder: Path, config: dict[str, Any], source: str, request: _Request) -> _Parts:
    from steerkit.engine.loading.hub import explained
    from steerkit.engine.loading.quiet import quiet_transformers
    from steerkit.engine.loading.qwen1 import read_qwen1

    _require_checkpoint(folder)
    with explained(source, local=True), quiet_transformers():
        model, tokenizer = read_qwen1(folder, config, source, request.dtype)
    return placed_anew(model, request.placement, source), tokenizer, hash_of_files(sorted(folder.glob("*.safetensors")))


def _require_checkpoint(folder: Path) -> None:
    """Raise ``ModelError`` unless the folder holds a config that makes sense, and safetensors."""
    names = {path.name for path in folder.iterdir()}
    if "config.json" not in names:
        ggufs = sorted(name for name in names if name.endswith(".gguf"))
        inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
        hint = f"Name the file itself: {folder / ggufs[0]}." if ggufs else _siblings(folder)
        if inside:
            hint = f"Its folders {', '.join(inside[:5])} are models."
        raise ModelError(f"{folder} has no config.json, so it isn't a model's folder. {hint}")
    fault = folder_fault(folder)
    if fault is not None:
        raise ModelError(fault if fault.endswith("?") else f"{fault}.")


def _safetensors(
    source: str, request: _Request, options: dict[str, Any], *, tokenizer: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    trust = request.trust_remote_code
    return from_pretrained(
        source, request.dtype, request.placement, options, trust_remote_code=trust, tokenizer=tokenizer
    )
