"""The memory of a model by its parts, and of the passes that a plan makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from steerkit.engine.footprint.passes import PassMemory, pass_memory
from steerkit.engine.loading.empty import empty_model
from steerkit.engine.loading.placing import whole_map
from steerkit.engine.parallel.cutting import require_plan
from steerkit.errors import ModelError, SteerkitError
from steerkit.types.placement import METHOD, ModelPlacement

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


AS_IT_IS: Final = ModelPlacement()


class UnknownFootprintError(ModelError):
    """What a model takes can't be known before it is loaded."""


@dataclass(frozen=True)
class Shape:
    """A batch of a pass.

    Args:
        rows: of it.
        columns: tokens of a row, new ones included.
        all_logits: whether logits are given at each token.
    """

    rows: int
    columns: int
    all_logits: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of the batch."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Footprint:
    """What a model takes, in bytes.

    Args:
        n_parameters: weights, each shared one once.
        modules: bytes of the weights and buffers that each module itself holds, by its path.
        blocks: the paths of blocks, in order.
        passes: what the fullest passes take, by their shape.
        dtype: of the weights that aren't quantised.
        bits: of a quantised weight; None where none is.
        shared_out: which share of ``weights`` tensor parallelism splits, as the model's own plan has it; None where it
            has no plan.
    """

    n_parameters: int
    modules: Mapping[str, int]
    blocks: tuple[str, ...]
    passes: Mapping[Shape, PassMemory]
    dtype: str
    bits: float | None = None
    shared_out: float | None = None

    def part(self, module: str) -> str:
        """What a module is spread over devices with: its block, or itself where it stands beside them."""
        return next((block for block in self.blocks if module == block or module.startswith(f"{block}.")), module)

    @property
    def weights(self) -> Mapping[str, int]:
        """Bytes by part, in the order of the model."""
        found: dict[str, int] = {}
        for module, size in self.modules.items():
            part = self.part(module)
            found[part] = found.get(part, 0) + size
        return found

    @property
    def weight_bytes(self) -> int:
        """Of all weights."""
        return sum(self.modules.values())

    @property
    def cache_bytes(self) -> int:
        """Of the largest cache."""
        return max((one.cache for one in self.passes.values()), default=0)

    @property
    def work_bytes(self) -> int:
        """Of the fullest pass, beside its cache."""
        return max((one.work for one in self.passes.values()), default=0)

    @property
    def total_bytes(self) -> int:
        """On one device."""
        return self.weight_bytes + max((one.peak for one in self.passes.values()), default=0)


def footprint_of(
    source: str,
    folder: Path | None,
    shapes: Sequence[Shape],
    *,
    dtype: str = "auto",
    device: str = "cpu",
    placement: ModelPlacement = AS_IT_IS,
    trust_remote_code: bool = False,
) -> Footprint:
    """What a model takes, from its config.

    Args:
        source: as a recipe names it.
        folder: where its config is; None for tiny models.
        shapes: the fullest batches.
        dtype: of the weights; ``auto`` is float32 on a CPU and the checkpoint's own elsewhere, as where it is loaded.
        device: what kind of device it goes to: ``cpu`` or another one.
        placement: where it goes and in which form, which is refused as it is where the model is loaded.
        trust_remote_code: whether code that comes with a checkpoint may run.

    Raises:
        UnknownFootprintError: where it can't be known so, with the reason as the end of a sentence.
        ModelError: for a device map or a number of processes that the model can't have.
    """
    try:
        model: Any = empty_model(source, folder, trust_remote_code)
        model = model.to("meta", _dtype(dtype, device, model))
        if placement.tensor_parallel is not None:
            require_plan(placement.tensor_parallel, model.config, source)
        if isinstance(placement.device_map, Mapping):
            whole_map(model, placement.device_map)
        return footprint(model, shapes, placement.quantization)
    except SteerkitError:
        raise
    except Exception as error:  # whatever a model's own code makes of tensors that hold nothing
        first = next(iter(str(error).strip().splitlines()), "")
        raise UnknownFootprintError(f"its modules can't be run so ({type(error).__name__}: {first})") from error


def footprint(
    model: PreTrainedModel, shapes: Sequence[Shape], quantization: Mapping[str, Any] | None = None
) -> Footprint:
    """The same of a model on the meta device, in its dtype."""
    blocks = blocks_of(model)
    bits = None if quantization is None else bits_of(quantization)
    if quantization is not None and bits is None:
        method = quantization.get(METHOD)
        raise UnknownFootprintError(f"how many bits {method} leaves of a weight isn't known before it is loaded")
    modules: dict[str, int] = {}
    seen: set[int] = set()
    parameters = 0
    heads = {id(model.get_output_embeddings()), id(model.get_input_embeddings())}
    for path, module in model.named_modules():
        small = bits is not None and isinstance(module, nn.Linear) and id(module) not in heads
        for held in (*module._parameters.values(), *module._buffers.values()):
            if held is None or id(held) in seen:
                continue
            seen.add(id(held))
            parameters += held.numel() if isinstance(held, nn.Parameter) else 0
            size = int(held.numel() * bits / 8) if small and bits is not None and held.dim() == 2 else held.nbytes
            modules[path] = modules.get(path, 0) + size
    passes = {shape: pass_memory(model, shape.rows, shape.columns, all_logits=shape.all_logits) for shape in shapes}
    dtype = str(model.dtype).removeprefix("torch.")
    return Footprint(parameters, modules, blocks, passes, dtype, bits, _shared_out(model))


def blocks_of(model: nn.Module) -> tuple[str, ...]:
    """Paths of the longest list of modules, which is the stack of blocks."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outer = [one for one in lists if not any(one[0].startswith(f"{other}.") for other, _ in lists if other != one[0])]
    name, stack = max(outer, key=lambda one: len(one[1]), default=("", nn.ModuleList()))
    return tuple(f"{name}.{number}" for number in range(len(stack)))


def _dtype(name: str, device: str, model: PreTrainedModel) -> torch.dtype:
    if name != "auto":
        return DTYPES[name]
    if device == "cpu":
        return torch.float32
    own = getattr(model.config, "dtype", None)
    return own if isinstance(own, torch.dtype) else model.dtype


_BITS: Final = {"int8": 8.0, "qint8": 8.0, "float8": 8.0, "qfloat8": 8.0, "int4": 4.5, "qint4": 4.5, "qint2": 2.5}
"""Of a weight, with the scale of its group where groups are small (16 bits of scale and zero for 64 or 128 weights)."""


def bits_of(quantization: Mapping[str, Any]) -> float | None:
    """Bits that a quantiser leaves of a weight of a linear module; None where its options don't say it."""
    method = str(quantization.get(METHOD))
    if method == "bitsandbytes":
        return 8.0 if quantization.get("load_in_8bit") else 4.5 if quantization.get("load_in_4bit") else None
    bits = quantization.get("bits", quantization.get("nbits"))
    if isinstance(bits, (int, float)):
        return float(bits) if bits >= 8 else bits + 0.5
    text = str([value for key, value in quantization.items() if key != METHOD]).lower()
    found = [size for name, size in _BITS.items() if name in text]
    return min(found) if found else None


def _shared_out(model: PreTrainedModel) -> float | None:
    """Which share of the weights tensor parallelism splits."""
    import re

    plan: Mapping[str, str] = getattr(model, "_tp_plan", None) or {}
    if not plan:
        return None
    patterns = [re.compile(re.escape(name).replace(r"\*", r"\d+")) for name, how in plan.items() if "wise" in how]
    split = total = 0
    for path, module in model.named_modules():
        size = sum(one.nbytes for one in module._parameters.values() if one is not None)
        total += size
        split += size if any(pattern.fullmatch(path) for pattern in patterns) else 0
    return split / total if total else None
