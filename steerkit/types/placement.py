"""Where a model's weights lie and in which form: on one device, on several, on disk, over processes, quantised.

Recipes and Python say it in the same words, and what contradicts itself is refused in the same words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from steerkit.errors import counted

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
class ModelPlacement:
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
        return self == ModelPlacement()


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


def conflicts_of(placement: ModelPlacement, device: str) -> list[Conflict]:
    """What a placement says against itself, or against the ``device`` beside it."""
    found: list[Conflict] = []
    mapped, parallel = placement.device_map, placement.tensor_parallel
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
        message = (
            "it is for what device_map puts on disk, and there is no device_map; add device_map: auto, or remove it"
        )
        found.append(Conflict("offload_folder", ("device_map",), message))
    if placement.offload_folder is not None and isinstance(mapped, Mapping) and DISK not in mapped.values():
        message = "device_map puts nothing on disk; write disk for a module, or remove it"
        found.append(Conflict("offload_folder", ("device_map",), message))
    return found


@dataclass(frozen=True)
class PlacementFacts:
    """Where the weights of a loaded model lie, and in which form, as far as that isn't one device as they are.

    Args:
        device_map: devices by module where there are several, or a disk; None where all is in one place.
        tensor_parallel: over how many processes each weight is split; None for one.
        quantization: ``method`` and every option of the quantiser's config as JSON values; None where there is none.
        packages: versions of what places and quantises it.
    """

    device_map: Mapping[str, str] | None = None
    tensor_parallel: int | None = None
    quantization: Mapping[str, Any] | None = None
    packages: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> PlacementFacts:
        """Back from JSON values, among which there may be others."""
        return cls(
            values.get("device_map"),
            values.get("tensor_parallel"),
            values.get("quantization"),
            values.get("placement_packages", {}),
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values; what isn't the case is left out."""
        values: dict[str, Any] = {
            "device_map": self.device_map,
            "tensor_parallel": self.tensor_parallel,
            "quantization": self.quantization,
            "placement_packages": self.packages,
        }
        return {key: value for key, value in values.items() if value}


def quantised_in_words(quantization: Mapping[str, Any]) -> str:
    """A quantiser and what it makes of weights, as in ``torchao, Int8WeightOnlyConfig``."""
    method, made = str(quantization.get(METHOD)), _kind_of_torchao(quantization)
    if method == "bitsandbytes":
        made = "8 bits" if quantization.get("load_in_8bit") else f"4 bits, {quantization.get('bnb_4bit_quant_type')}"
    elif method == "quanto":
        activations = quantization.get("activations")
        made = f"{quantization.get('weights')} weights" + (f", {activations} activations" if activations else "")
    elif made is None and (bits := quantization.get("bits", quantization.get("nbits"))) is not None:
        made = f"{bits} bits"
    return method if made is None else f"{method}, {made}"


def rounds_activations(quantization: Mapping[str, Any]) -> bool:
    """Whether a quantiser rounds what goes into a product too, by numbers that depend on all of it."""
    method, kind = quantization.get(METHOD), _kind_of_torchao(quantization) or ""
    eight_bits = method == "bitsandbytes" and bool(quantization.get("load_in_8bit"))
    dynamic = method in ("fp8", "fbgemm_fp8", "mxfp8", "nvfp4", "bitnet", "fp_quant")
    return eight_bits or dynamic or "Activation" in kind or bool(quantization.get("activations"))


def _kind_of_torchao(quantization: Mapping[str, Any]) -> str | None:
    default = (quantization.get("quant_type") or {}).get("default")
    return str(default.get("_type")) if isinstance(default, Mapping) else None


def lies_in_words(device_map: Mapping[str, str]) -> str:
    """Where modules lie, as in ``3 modules on cpu and 2 on disk``."""
    devices = Counter(device_map.values())
    (first, n), *others = devices.items()
    told = [f"{counted(n, 'module')} on {first}", *(f"{number} on {device}" for device, number in others)]
    return " and ".join(told)


def weights_in_words(dtype: str, device: str, facts: PlacementFacts) -> str:
    """Weights in a few words, as in ``float32 on cpu``."""
    told = [f"{dtype} on {device}" if facts.device_map is None else f"{dtype}, {lies_in_words(facts.device_map)}"]
    if facts.tensor_parallel is not None:
        told.append(f"in shares of {counted(facts.tensor_parallel, 'process', 'processes')}")
    if facts.quantization is not None:
        told.append(f"quantised ({quantised_in_words(facts.quantization)})")
    return ", ".join(told)
