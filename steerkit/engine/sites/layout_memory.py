"""Layouts that were found before, so that an adapter which takes a while looks at a model once and not at every start.

What a layout follows from is all in the key: config, the code of the modules and of the adapter, what the modules are
and how they are set, versions. Weights aren't in it: whether a layout is true of them is the self-test's to say.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steerkit import api
from steerkit.api.architecture import ArchitectureAdapter, Layout
from steerkit.bundled import cache_folder
from steerkit.engine.loading.configs import config_values
from steerkit.engine.parallel.cutting import is_cut, require_no_stages, uncut
from steerkit.errors import ArtifactError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

_STAND_INS: Final = ("accelerate", "causal-conv1d", "flash-attn", "flash-linear-attention", "kernels", "mamba-ssm")
"""Distributions that take the place of parts of a model's code where they are installed."""

_UNTOLD: Final = ("training", "name_or_path")
"""What no layout depends on, of what a module says of itself."""


def layout_of(model: PreTrainedModel, adapter: ArchitectureAdapter) -> Layout:
    """The layout that an adapter finds, or found before where it says that this may be remembered.

    Args:
        model: with nothing of ours on it: an adapter may run a pass.
        adapter: the one for the model.

    Raises:
        UnsupportedModelError: the adapter's, where it finds none. That is never remembered.
    """
    require_no_stages(model)
    key = layout_key(model, adapter) if adapter.remembered else None
    layout = None if key is None else remembered_layout(key)
    if layout is None:
        # A pass of a cut model shows shares of some values, and who reads a pass is shown the whole ones.
        layout = adapter.layout(uncut(model) if adapter.remembered and is_cut(model) else model)
        if key is not None:
            remember_layout(key, layout)
    return layout


def layout_key(model: PreTrainedModel, adapter: ArchitectureAdapter) -> str | None:
    """Everything that a layout follows from, as one hash; None where something of it can't be told for certain.

    That is so of code without a file (a notebook's, a class that was made while running), of modules whose ``forward``
    was replaced, and of modules with somebody's hooks.
    """
    import torch
    import transformers

    if any(_is_altered(module) for module in model.modules()):
        return None
    classes = {cls for module in model.modules() for cls in type(module).__mro__ if cls is not object}
    model_code = _hash_of_classes(classes)
    written = [cls.__module__ for cls in type(adapter).__mro__ if cls not in ArchitectureAdapter.__mro__]
    adapter_code = [_hash_of_package(module) for module in dict.fromkeys(written)]
    if model_code is None or None in adapter_code:
        return None
    facts = {
        "config": config_values(model.config),
        "implementations": sorted(_implementations(model.config)),
        "modules": _hash_of_lines(_module_lines(model)),
        "model code": model_code,
        "adapter": [type(adapter).__module__, type(adapter).__qualname__, *adapter_code],
        "contract": _hash_of_files(sorted(Path(api.__path__[0]).glob("*.py"))),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "stand-ins": {name: _version(name) for name in _STAND_INS},
    }
    return sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def remembered_layout(key: str) -> Layout | None:
    """The layout with this key, or None where none was kept, or what was kept is damaged."""
    try:
        kept = json.loads(_file_of(key).read_text("utf-8"))
        if kept["sha256"] != _digest(kept["layout"]):
            return None
        return Layout.from_dict(kept["layout"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError, ArtifactError):
        return None


def remember_layout(key: str, layout: Layout) -> None:
    """Write a layout down, whole or not at all. Where nothing can be written, the next start looks again."""
    path = _file_of(key)
    values = layout.to_dict()
    own = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(json.dumps({"layout": values, "sha256": _digest(values)}, indent=1), "utf-8")
        os.replace(own, path)
    except OSError:
        return


def _file_of(key: str) -> Path:
    return cache_folder() / "layouts" / f"{key}.json"


def _digest(values: Any) -> str:
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _is_altered(module: nn.Module) -> bool:
    """Whether more than its class says what a module does."""
    return "forward" in vars(module) or bool(module._forward_hooks or module._forward_pre_hooks)


def _module_lines(model: nn.Module) -> Iterator[str]:
    """What each module is, how it is set (as to which adapters are active), and what it holds, without the values."""
    for path, module in model.named_modules():
        settings = sorted(
            f"{name}={value!r}"
            for name, value in vars(module).items()
            if name not in _UNTOLD and not name.startswith("__") and _is_plain(value)
        )
        yield f"{path} {type(module).__module__}.{type(module).__qualname__} {settings}"
        for held in (module._parameters, module._buffers):
            for name, value in held.items():
                if value is not None:
                    kind = f"{type(value).__qualname__} {value.dtype} {value.device.type}"
                    yield f"{path}.{name} {tuple(value.shape)} {kind}"


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, (*value, *value.values())))
    return value is None or type(value) in (bool, int, float, str)


def _implementations(config: Any) -> Iterator[str]:
    """Which implementations of attention and experts a config and those within it name: no file of theirs does."""
    for name, value in vars(config).items():
        if "implementation" in name:
            yield f"{config.model_type} {name} {value}"
        elif hasattr(value, "model_type") and hasattr(value, "to_dict"):
            yield from _implementations(value)


def _hash_of_lines(lines: Iterable[str]) -> str:
    digest = sha256()
    for line in lines:
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def _hash_of_classes(classes: Iterable[type]) -> str | None:
    """Hash of the files in which classes are written, functions beside them included; None where one has none."""
    files: set[Path] = set()
    for cls in classes:
        module = sys.modules.get(cls.__module__)
        if _named(module, cls.__qualname__) is not cls:
            if cls.__module__ in ("typing", "builtins", "abc"):
                continue
            return None
        file = getattr(module, "__file__", None)
        if file is None and cls.__module__ not in sys.builtin_module_names:
            return None
        if file is not None:
            files.add(Path(file))
    return _hash_of_files(sorted(files))


def _named(module: Any, qualname: str) -> Any:
    for part in qualname.split("."):
        module = getattr(module, part, None)
    return module


def _hash_of_package(name: str) -> str | None:
    """Hash of all that is written in the outermost package of a module that has a file, or in the module itself."""
    parts = name.split(".")
    above = (sys.modules.get(".".join(parts[: place + 1])) for place in range(len(parts)))
    # A namespace package has no file, and whatever lies in it besides is no part of this one.
    module = next((one for one in above if getattr(one, "__file__", None)), None)
    if module is None or module.__file__ is None:
        return None
    path = Path(module.__file__)
    return _hash_of_files(sorted(path.parent.rglob("*.py")) if hasattr(module, "__path__") else [path])


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _hash_of_files(files: Iterable[Path]) -> str | None:
    try:
        return _hash_of_lines(f"{file.name} {sha256(file.read_bytes()).hexdigest()}" for file in files)
    except OSError:
        return None
