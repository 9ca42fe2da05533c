"""Where a recipe puts its model: which values the keys of section ``model`` take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeAlias

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from steerkit.errors import nearest
from steerkit.recipe.problems import EXPECTED
from steerkit.types.placement import METHOD, METHODS, STRATEGIES, device_of_map

PLACEMENT_KEYS: Final = ("device_map", "offload_folder", "tensor_parallel", "quantization")
"""Left out of a resolved recipe where nobody set them."""
_MAP: Final = f"{', '.join(STRATEGIES)}, or devices by module, as in {{model.embed_tokens: cpu, model.layers: disk}}"
_DEVICES: Final = "cpu, cuda, cuda:<number>, the number of a GPU, or disk"
_QUANTIZATION: Final = "a method with its options, as in {method: bitsandbytes, load_in_4bit: true}"


def _unexpected(wanted: str, given: Any) -> PydanticCustomError:
    shown = json.dumps(given, default=repr)
    context = {"wanted": wanted, "given": shown if len(shown) <= 60 else f"{shown[:57]}..."}
    return PydanticCustomError(EXPECTED, "expected {wanted}, not {given}", context)


def _read_device_map(value: Any) -> str | dict[str, str]:
    if isinstance(value, str) and value in STRATEGIES:
        return value
    if not isinstance(value, Mapping) or not value:
        raise _unexpected(_MAP, value)
    placed: dict[str, str] = {}
    for module, device in value.items():
        meant = device_of_map(device)
        if meant is None:
            raise _unexpected(f"{_DEVICES} for {module or 'the whole model'}", device)
        placed[str(module)] = meant
    return placed


def _read_quantization(value: Any) -> dict[str, Any]:
    if isinstance(value, str) and value in METHODS:
        raise _unexpected(f"{{{METHOD}: {value}}}, perhaps with options", value)
    if not isinstance(value, Mapping) or METHOD not in value:
        raise _unexpected(_QUANTIZATION, value)
    if not isinstance(value[METHOD], str) or value[METHOD] not in METHODS:
        hint = nearest(str(value[METHOD]), METHODS, METHOD)
        raise ValueError(f"transformers has no quantiser {value[METHOD]!r} that loads a model. {hint}")
    return dict(value)


# Any: pydantic warns about what a plain validator returns where it is told that this is one of two types.
DeviceMapValue: TypeAlias = Annotated[Any, PlainValidator(_read_device_map)]
"""A strategy, or a mapping of modules to devices as text."""
Quantization: TypeAlias = Annotated[Any, PlainValidator(_read_quantization)]
"""A mapping with ``method`` and options."""
