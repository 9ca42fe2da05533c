"""A model's memory laid on devices: what each of them holds, whether that fits, and what would fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from steerkit.engine.footprint.devices import Room
from steerkit.engine.footprint.model import Footprint
from steerkit.errors import counted, listed
from steerkit.types.placement import DISK, ModelPlacement

GB: Final = 10**9
GPU: Final = 80 * 2**30
"""Bytes of what is sold as a GPU of 80 GB."""
SPARE: Final = 0.1
"""Of a device's memory, left for what no estimate sees: the allocator's gaps, kernels' own room, other programs."""


@dataclass(frozen=True)
class Share:
    """What one device holds, in bytes.

    Args:
        device: as placements call it; ``disk`` too.
        weights: that lie there, and room for those that are brought there for the time of their use.
        cache: of keys and values of the blocks there.
        work: what a pass holds beside.
        room: the device's memory; None for a device that isn't here.
    """

    device: str
    weights: int
    cache: int
    work: int
    room: int | None

    @property
    def n_bytes(self) -> int:
        """In all."""
        return self.weights + self.cache + self.work

    @property
    def fits(self) -> bool | None:
        """Whether the device has room for it; None where that isn't known."""
        return None if self.room is None else self.n_bytes <= self.room * (1 - SPARE)


def shares_of(footprint: Footprint, placement: ModelPlacement, device: str, rooms: Sequence[Room]) -> list[Share]:
    """What each device holds.

    Args:
        footprint: of the model.
        placement: the recipe's, or another one that is thought of.
        device: the recipe's; ``auto`` is the first GPU, else the CPU.
        rooms: the devices that there are.
    """
    size = {one.device: one.n_bytes for one in rooms}
    if placement.tensor_parallel is not None:
        return _in_parallel(footprint, placement.tensor_parallel, rooms)
    if placement.device_map is None:
        main = main_of(device, rooms)
        return [Share(main, footprint.weight_bytes, footprint.cache_bytes, footprint.work_bytes, size.get(main))]
    return _spread(footprint, _placed(footprint, placement.device_map, rooms), size)


def _spread(footprint: Footprint, placed: Mapping[str, str], size: Mapping[str, int]) -> list[Share]:
    """What each device holds of modules that are placed one by one."""
    main = next((one for one in placed.values() if one not in (DISK, "cpu")), "cpu")
    held: dict[str, int] = {main: 0}
    outside: dict[str, int] = {}
    most: dict[str, tuple[int, str]] = {}
    for module, where in placed.items():
        weights, part = footprint.modules[module], footprint.part(module)
        held[where] = held.get(where, 0) + weights
        if where == DISK or (where == "cpu" and main != "cpu"):
            outside[part] = outside.get(part, 0) + weights
            where = main  # where it is brought to be run
        most[part] = max(most.get(part, (-1, "")), (weights, where))
    held[main] += max(outside.values(), default=0)
    cache = Counter(most[block][1] for block in footprint.blocks if block in most)
    each = footprint.cache_bytes // max(len(footprint.blocks), 1)
    shares = []
    for where, weights in held.items():
        work = footprint.work_bytes if where == main or where not in (DISK, "cpu") else 0
        shares.append(Share(where, weights, cache[where] * each, work, size.get(where)))
    return sorted(shares, key=lambda one: (one.device == DISK, one.device == "cpu", one.device))


def _in_parallel(footprint: Footprint, processes: int, rooms: Sequence[Room]) -> list[Share]:
    split = footprint.shared_out or 0.0
    weights = int(footprint.weight_bytes * (1 - split + split / processes))
    gpus = [one for one in rooms if one.device != "cpu"]
    cache = footprint.cache_bytes // processes
    if gpus:
        names = [f"cuda:{number}" for number in range(processes)]
        size = {one.device: one.n_bytes for one in gpus}
        return [Share(name, weights, cache, footprint.work_bytes, size.get(name)) for name in names]
    here = next((one.n_bytes for one in rooms if one.device == "cpu"), None)
    return [Share("cpu", processes * weights, processes * cache, processes * footprint.work_bytes, here)]


def main_of(device: str, rooms: Sequence[Room]) -> str:
    """The device that a recipe's ``device`` is here."""
    if device == "auto":
        return rooms[0].device if rooms else "cpu"
    return "cuda:0" if device == "cuda" else device


def _placed(footprint: Footprint, mapped: str | Mapping[str, str], rooms: Sequence[Room]) -> dict[str, str]:
    """Where each module goes: by a map, or with its part."""
    if not isinstance(mapped, str):
        return {module: _longest(module, mapped) for module in footprint.modules}
    parts = placed_parts(footprint, mapped, rooms)
    return {module: parts[footprint.part(module)] for module in footprint.modules}


def placed_parts(footprint: Footprint, mapped: str, rooms: Sequence[Room]) -> dict[str, str]:
    """Where each part goes: spread in order, as accelerate does it, over GPUs, main memory and disk.

    ``auto`` and ``balanced`` give each GPU its even share, ``balanced_low_0`` the first one less, and ``sequential``
    fills one after the other. What accelerate itself decides can differ by a block.
    """
    weights = footprint.weights
    gpus = [one for one in rooms if one.device != "cpu"]
    largest = max(weights.values())
    beside = footprint.work_bytes + footprint.cache_bytes / max(len(gpus), 1)
    room = {one.device: one.n_bytes * (1 - SPARE) - beside for one in gpus}
    if gpus and sum(room.values()) < footprint.weight_bytes:  # the first one runs what lies elsewhere
        room[gpus[0].device] -= largest + footprint.cache_bytes - footprint.cache_bytes / len(gpus)
    if mapped != "sequential" and gpus:
        first_less = mapped == "balanced_low_0" and len(gpus) > 1
        even = footprint.weight_bytes / (len(gpus) - first_less)
        limits = {one.device: even + largest for one in gpus[:-1]}
        if first_less:
            others = sum(room[one.device] for one in gpus[1:])
            limits[gpus[0].device] = largest + max(footprint.weight_bytes - others, 0)
        room = {device: min(free, limits.get(device, free)) for device, free in room.items()}
    main = next((one.n_bytes for one in rooms if one.device == "cpu"), 0) * (1 - SPARE)
    if not gpus:  # passes run here, and what lies on disk is brought here
        main -= footprint.work_bytes + footprint.cache_bytes + largest
    order = [*room.items(), ("cpu", main), (DISK, float("inf"))]
    placed: dict[str, str] = {}
    at, used = 0, 0.0
    for part, need in weights.items():
        while used + need > order[at][1]:
            at, used = at + 1, 0.0
        placed[part] = order[at][0]
        used += need
    return placed


def _longest(module: str, mapped: Mapping[str, str]) -> str:
    pieces = module.split(".") if module else []
    names = [".".join(pieces[:depth]) for depth in range(len(pieces), -1, -1)]
    return next((mapped[name] for name in names if name in mapped), "cpu")


def suggestion(footprint: Footprint, placement: ModelPlacement, device: str, rooms: Sequence[Room]) -> str:
    """What to write so that the model fits here, as a sentence; the least change that does it is named first.

    Args:
        footprint: of the model as the recipe has it, which doesn't fit.
        placement: the recipe's.
        device: the recipe's.
        rooms: the devices that there are.
    """
    gpus = [one for one in rooms if one.device != "cpu"]
    half = footprint.dtype == "float32" and footprint.bits is None
    if half and _fits(_scaled(footprint, 0.5), placement, device, rooms):
        return "Write model.dtype: bfloat16, which fits."
    if placement.device_map is None and len(gpus) > 1:
        spread = ModelPlacement(device_map="balanced", quantization=placement.quantization)
        if _fits(footprint, spread, "auto", rooms):
            over = f"which spreads it over {counted(len(gpus), 'GPU')} and fits"
            faster = f"; or model.tensor_parallel: {len(gpus)}, a process for each" if footprint.shared_out else ""
            return f"Write model.device_map: balanced, {over}{faster}."
    if footprint.bits is None:
        for bits, what in ((8, "eight"), (4.5, "four")):
            if _fits(_quantised(footprint, bits), placement, device, rooms):
                return f"Quantise it to {what} bits (model.quantization), which fits, and gives other numbers."
    spread = ModelPlacement(device_map="auto", quantization=placement.quantization)
    if placement.device_map is None and _fits(footprint, spread, "auto", rooms):
        left = "which leaves what doesn't fit in main memory or on disk, and makes passes slow"
        return f"Write model.device_map: auto, {left}."
    small = _scaled(footprint, 0.5) if half else footprint
    number = counted(needed(small, GPU), "GPU")
    form = "bfloat16" if half else "this form"
    return f"Nothing fits here: in {form} it takes {number} of 80 GB. Where passes are large, lower model.batch_tokens."


def _fits(footprint: Footprint, placement: ModelPlacement, device: str, rooms: Sequence[Room]) -> bool:
    return all(one.fits for one in shares_of(footprint, placement, device, rooms) if one.device != DISK)


def _scaled(footprint: Footprint, factor: float) -> Footprint:
    modules = {module: int(size * factor) for module, size in footprint.modules.items()}
    passes = {
        shape: replace(one, peak=int(one.peak * factor), cache=int(one.cache * factor))
        for shape, one in footprint.passes.items()
    }
    return replace(footprint, modules=modules, passes=passes)


def _quantised(footprint: Footprint, bits: float) -> Footprint:
    """About what is left of the blocks' weights; what stands beside them is left as it is."""
    now = 32 if footprint.dtype == "float32" else 16
    modules = {
        module: int(size * bits / now) if footprint.part(module) in footprint.blocks else size
        for module, size in footprint.modules.items()
    }
    return replace(footprint, modules=modules, bits=bits)


def needed(footprint: Footprint, gpu_bytes: int) -> int:
    """How many GPUs of that memory hold the model with its passes, its blocks spread evenly."""
    free = gpu_bytes * (1 - SPARE) - footprint.work_bytes
    number = 1
    while free <= 0 or (footprint.weight_bytes + footprint.cache_bytes) / number + _uneven(footprint, number) > free:
        number += 1
        if number > 1024:
            break
    return number


def _uneven(footprint: Footprint, number: int) -> int:
    """What the fullest device may hold beyond an even share: a part is never split."""
    return 0 if number == 1 else max(footprint.weights.values()) // 2


def fault(shares: Sequence[Share]) -> str:
    """What doesn't fit, as a sentence; empty where all does or isn't known."""
    over = [one for one in shares if one.fits is False]
    if not over:
        return ""
    told = [f"{one.device} would hold {one.n_bytes / GB:.1f} of its {(one.room or 0) / GB:.1f} GB" for one in over]
    return f"It doesn't fit: {listed(told)}, and a tenth is left free for what no estimate sees."


def to_json(footprint: Footprint, shares: Sequence[Share]) -> dict[str, Any]:
    """As JSON values, bytes."""
    return {
        "parameters": footprint.n_parameters,
        "dtype": footprint.dtype,
        "bits": footprint.bits,
        "devices": [
            {
                "device": one.device,
                "weights": one.weights,
                "cache": one.cache,
                "work": one.work,
                "bytes": one.n_bytes,
                "room": one.room,
                "fits": one.fits,
            }
            for one in shares
        ],
    }
