"""How a model is to be quantised: transformers' own config, made of what a recipe or a caller says."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from steerkit.errors import ModelError, SteerkitError, nearest
from steerkit.types.placement import METHOD, METHODS

_TYPE: Final = "quant_type"
_TORCHAO: Final = "{quant_type: Int8WeightOnlyConfig}, or {quant_type: {Int4WeightOnlyConfig: {group_size: 32}}}"


def quantization_config(wanted: Any) -> Any:
    """Transformers' config of a quantiser.

    Args:
        wanted: ``method`` and options, or such a config already.

    Raises:
        ModelError: for a method or an option that there isn't, a value that the config refuses, or a package that
            isn't installed; the sentence goes on behind "quantization: ".
    """
    if not isinstance(wanted, Mapping):
        if hasattr(wanted, "quant_method"):
            return wanted
        raise ModelError(f"expected a method with its options, as in {{'method': 'quanto'}}, not {wanted!r}.")
    options = dict(wanted)
    method = options.pop(METHOD, None)
    if not isinstance(method, str) or method not in METHODS:
        raise ModelError(f"transformers has no quantiser {method!r}. {nearest(str(method), METHODS, METHOD)}")
    kind = _config_class(method)
    require_known(options, _options_of(kind), method)
    if (fault := missing_package(method)) is not None:
        raise ModelError(fault)
    if method == "torchao":
        options[_TYPE] = _torchao(options.get(_TYPE))
    if method == "bitsandbytes" and not (options.get("load_in_8bit") or options.get("load_in_4bit")):
        raise ModelError("bitsandbytes needs load_in_8bit: true or load_in_4bit: true.")
    try:
        return kind(**options)
    except PackageNotFoundError:
        raise
    except Exception as error:  # each config checks its options in its own way, some by looking them up in torch
        raise ModelError(f"{method} doesn't take these options: {_sentence(error)}") from None


def options_fault(wanted: Mapping[str, Any]) -> str:
    """What is wrong with a recipe's section, as far as this machine can tell; empty where nothing is.

    Options of a quantiser whose package isn't here are known by name.
    """
    kind, options = _config_class(wanted[METHOD]), {key: one for key, one in wanted.items() if key != METHOD}
    try:
        require_known(options, _options_of(kind), wanted[METHOD])
        if missing_package(wanted[METHOD]) is None:
            quantization_config(wanted)
    except ModelError as error:
        return str(error).removesuffix(".")
    return ""


def missing_package(method: str) -> str | None:
    """What to install for a method; None where it is there."""
    package = METHODS.get(method)
    if package is None:
        return None
    try:
        version(package)
    except PackageNotFoundError:
        return f"{method} needs a package that isn't installed here: pip install {package}."
    return None


def require_known(options: Mapping[str, Any], known: list[str], method: str) -> None:
    """Raise ``ModelError`` for an option that a config would drop without a word."""
    for name in options:
        if name not in known:
            raise ModelError(f"{method} has no option {name!r}. {nearest(str(name), known, 'option')}")


def _config_class(method: str) -> Any:
    """Transformers' config class of a method."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    key = "bitsandbytes_8bit" if method == "bitsandbytes" else method
    found = AUTO_QUANTIZATION_CONFIG_MAPPING.get(key)
    if found is None:
        raise ModelError(f"this version of transformers has no quantiser {method!r}.")
    return found


def _options_of(kind: Any) -> list[str]:
    """The names of a class's options, those of the classes that it passes its others on to among them."""
    found: dict[str, None] = {}
    for one in kind.__mro__:
        init = vars(one).get("__init__")
        if init is None:
            continue
        parameters = inspect.signature(init).parameters.values()
        found |= {item.name: None for item in parameters if item.kind is item.POSITIONAL_OR_KEYWORD}
        if not any(item.kind is item.VAR_KEYWORD for item in parameters):
            break
    return [name for name in found if name not in ("self", "quant_method")]


def _torchao(written: Any) -> Any:
    """A config of torchao's, which transformers takes as an object alone."""
    from torchao.core.config import AOBaseConfig

    if isinstance(written, AOBaseConfig):
        return written
    if isinstance(written, str):
        written = {written: {}}
    if not isinstance(written, Mapping) or len(written) != 1:
        raise ModelError(f"torchao needs one quant_type, as in {_TORCHAO}.")
    ((name, options),) = written.items()
    module = importlib.import_module("torchao.quantization")
    kinds = {key: one for key in dir(module) if _is_config(one := getattr(module, key), AOBaseConfig)}
    if name not in kinds:
        raise ModelError(f"torchao has no quant_type {name!r}. {nearest(str(name), kinds, _TYPE)}")
    return _made(kinds[name], options or {}, f"torchao's {name}")


def _is_config(value: Any, base: type) -> bool:
    return isinstance(value, type) and issubclass(value, base) and dataclasses.is_dataclass(value)


def _made(kind: Any, options: Any, who: str) -> Any:
    """A dataclass of torchao's with options as a recipe can write them."""
    if not isinstance(options, Mapping):
        raise ModelError(f"{who} takes a mapping of options, not {options!r}.")
    require_known(options, [one.name for one in dataclasses.fields(kind) if one.init], who)
    hints = typing.get_type_hints(kind)
    try:
        return kind(**{name: _read(hints.get(name), value) for name, value in options.items()})
    except ModelError:
        raise
    except Exception as error:  # its own checks, which raise whatever they are
        raise ModelError(f"{who} doesn't take these options: {_sentence(error)}") from None


def _read(hint: Any, value: Any) -> Any:
    """An option's value: a dtype or a member of an enumeration by its name, a granularity as ``{PerGroup: {...}}``."""
    import torch
    from torchao.quantization import granularity

    named = value if isinstance(value, str) else next(iter(value)) if isinstance(value, Mapping) and value else None
    if named is None:
        return value
    if hasattr(granularity, named):
        inner = value[named] if isinstance(value, Mapping) else {}
        return _made(getattr(granularity, named), inner or {}, f"torchao's {named}")
    kinds = [hint, *typing.get_args(hint)]
    if torch.dtype in kinds and isinstance(getattr(torch, named, None), torch.dtype):
        return getattr(torch, named)
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            known = {member.name.lower(): member for member in kind}
            if named.lower() not in known:
                raise ModelError(f"torchao's {kind.__name__} has no {named!r}. {nearest(named, known, 'value')}")
            return known[named.lower()]
    return value


def may_be_the_quantisers(error: BaseException) -> bool:
    """Whether an error may be a quantiser's own: no interrupt, no full memory, nothing that is said already."""
    own = isinstance(error, (SteerkitError, MemoryError)) or type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, Exception) and not own


def cant_quantise(source: str, config: Any, error: BaseException) -> str:
    """That a quantiser can't make something of a model here, with its reason."""
    method = getattr(config.quant_method, "value", config.quant_method)
    said = _sentence(error)
    if "automatic conversion of the weights" in said:
        said = "it doesn't take its weights with these options, in this dtype, or on this device."
    return f"{source} can't be quantised by {method} here: {said} Use other options, or another method."


@contextmanager
def said_of_quantised(model: Any, source: str) -> Iterator[None]:
    """The first passes of a model, in which a quantiser may find out that it has no way to run it."""
    config = getattr(model.config, "quantization_config", None)
    try:
        yield
    except (RuntimeError, ValueError, NotImplementedError, AssertionError) as error:
        if config is None or isinstance(config, Mapping) or not may_be_the_quantisers(error):
            raise
        raise ModelError(cant_quantise(source, config, error)) from error


def _sentence(error: BaseException) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return said if said.endswith(".") else f"{said}."
