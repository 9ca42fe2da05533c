"""Where a model's weights lie and in which form: on one device, on several, on disk, over processes, quantised.

Recipes and Python say it in the same words, and what contradicts itself is refused in the same words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

DeviceMap: TypeAlias = str | Mapping[str, str]
"""A strategy of accelerate's, or devices by the paths of modules; "" is the whole model."""

STRATEGIES: Final = ("auto", "balanced", "balanced_low_0", "sequential")
"""How accelerate spreads a model over devices: as evenly as they have room (``auto`` and ``balanced``), with less on
the first, or one after the other."""
DISK: Final = "disk"
METHOD: Final = "method"

METHODS: Final[Mapping[str, str | None]] = {
    "aqlm": "aqlm",
    "auto-round": "auto-round",
    "awq": "gptqmodel",
    "bitnet": None,
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "eetq": "kernels",
    "fbgemm_fp8": "fbgemm-gpu",
    "fouroversix": "fouroversix",
    "fp8": None,
    "fp_quant": "fp-quant",
    "gemma": None,
    "gptq": "gptqmodel",
    "higgs": "flute-kernel",
    "hqq": "hqq",
    "metal": "kernels",
    "mxfp4": "kernels",
    "mxfp8": None,
    "nvfp4": "kernels",
    "quanto": "optimum-quanto",
    "quark": "amd-quark",
    "sinq": "sinq",
    "spqr": "spqr_quant",
    "torchao": "torchao",
    "vptq": "vptq",
}
"""Quantisers that transformers has a config for, each with the distribution that does the work; None: transformers."""

_DEVICE: Final = re.compile(r"cpu|disk|cuda(?::[0-9]{1,3})?|[0-9]{1,3}")


@dataclass(frozen=True)
class Placement:
    """Where weights go, and in which form. One that says nothing is a model on one device as the checkpoint has it.

    Args:
        device_map: a strategy, or devices by module; None for one device.
        offload_folder: where what a map puts on disk is kept; None for a folder of its own that goes with the model.
        tensor_parallel: over how many processes each weight is split; None for one.
        quantization: ``method`` and its options, as transformers' config of that method takes them; None for none.
    """

    device_map: DeviceMap | None = None
    offload_folder: str | None = None
    tensor_parallel: int | None = None
    quantization: Mapping[str, Any] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it says nothing."""
        return self == Placement()


@dataclass(frozen=True)
class Conflict:
    """A setting that can't stand beside others.

    Args:
        key: the setting.
        beside: the others.
        message: what is wrong and what to do.
    """

    key: str
    beside: tuple[str, ...]
    message: str


def device_of_map(value: object) -> str | None:
    """A device of a map as text, a GPU's number as ``cuda:<number>``; None for what is none."""
    text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not _DEVICE.fullmatch(text):
        return None
    return f"cuda:{text}" if text.isdigit() else text


def conflicts_of(placement: Placement, device: str, source: str) -> list[Conflict]:
    """What a placement says against itself, or against the ``device`` and the ``source`` beside it."""
    found: list[Conflict] = []
    mapped, parallel = placement.device_map, placement.tensor_parallel
    if source.lower().endswith(".gguf"):
        message = "the weights of a GGUF file are written out in full as it is read; name a folder with safetensors"
        given = {"quantization": placement.quantization, "tensor_parallel": parallel}
        found += [Conflict(key, ("source",), message) for key, value in given.items() if value is not None]
    if mapped is not None and device != "auto":
        found.append(
            Conflict("device", ("device_map",), "device_map says where each module goes; remove device, or device_map")
        )
    if mapped is not None and parallel is not None:
        message = "each process of a tensor-parallel model holds its share on a device of its own; remove device_map"
        found.append(Conflict("device_map", ("tensor_parallel",), message))
    if parallel is not None and ":" in device:
        message = "each process of a tensor-parallel model has a GPU of its own; write device: cuda"
        found.append(Conflict("device", ("tensor_parallel",), message))
    if placement.offload_folder is not None and mapped is None:
        message = "it is for what device_map puts on disk, and there is no device_map; add device_map: auto, or remove it"
        found.append(Conflict("offload_folder", ("device_map",), message))
    if placement.offload_folder is not None and isinstance(mapped, Mapping) and DISK not in mapped.values():
        message = "device_map puts nothing on disk; write disk for a module, or remove it"
        found.append(Conflict("offload_folder", ("device_map",), message))
    return found
