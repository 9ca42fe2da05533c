"""Where the weights of a model in memory lie, and in which form, as its own library notes it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch

from steerkit.types.placement import DISK, METHODS, PlacementFacts, device_of_map

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def facts_of_placement(model: PreTrainedModel) -> PlacementFacts:
    """Devices by module where there are several or a disk, the quantiser's config, and over how many processes weights
    are split."""
    mapped, quantization = _device_map(model), _quantization(model)
    parallel = getattr(model, "tp_size", None)
    used = [None if mapped is None else "accelerate", METHODS.get(str((quantization or {}).get("method")))]
    return PlacementFacts(
        device_map=mapped,
        tensor_parallel=parallel if isinstance(parallel, int) and parallel > 1 else None,
        quantization=quantization,
        packages={package: found for package in used if package and (found := _version(package))},
    )


def _device_map(model: PreTrainedModel) -> Mapping[str, str] | None:
    found = getattr(model, "hf_device_map", None)
    if not isinstance(found, Mapping):
        return None
    placed = {str(path): _name(device) for path, device in found.items()}
    return placed if len(set(placed.values())) > 1 or DISK in placed.values() else None


def _name(device: Any) -> str:
    """A device of accelerate's, which writes GPUs as numbers."""
    text = str(device)
    return device_of_map(text) or text


def _quantization(model: PreTrainedModel) -> dict[str, Any] | None:
    config = getattr(model.config, "quantization_config", None)
    if config is None:
        return None
    values = dict(config) if isinstance(config, Mapping) else config.to_dict()
    method = _plain(values.pop("quant_method", None))
    # Attributes that a config keeps for itself stand beside them by their public names.
    public = {str(key): _plain(value) for key, value in values.items() if not str(key).startswith("_")}
    return {"method": method, **public}


def _plain(value: Any) -> Any:
    """A value as JSON holds it."""
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else str(value)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
