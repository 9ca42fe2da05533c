"""Where transformers and accelerate put a model's weights: asked for in their words, and refused before they load."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from steerkit.bundled import cache_folder
from steerkit.engine.loading.devices import device_to_load_on
from steerkit.engine.loading.offload_folders import own_folder, remove, remove_with
from steerkit.engine.loading.quantising import cant_quantise, may_be_the_quantisers, quantization_config
from steerkit.errors import ModelError, nearest
from steerkit.types.placement import DISK, STRATEGIES, DeviceMap, ModelPlacement, conflicts_of, device_of_map

_GIB: Final = 2**30


def checked(placement: ModelPlacement, device: str) -> ModelPlacement:
    """A placement that somebody wrote in Python, in the form that it has in a plan.

    Raises:
        ModelError: for what contradicts itself, is no placement, or names devices that this machine lacks.
    """
    mapped, parallel = placement.device_map, placement.tensor_parallel
    if mapped is not None:
        mapped = _device_map(mapped)
    if parallel is not None and (isinstance(parallel, bool) or not isinstance(parallel, int) or parallel < 1):
        raise ModelError(f"tensor_parallel is a number of processes, not {parallel!r}.")
    folder = placement.offload_folder
    if folder is not None and not (isinstance(folder, (str, Path)) and str(folder).strip()):
        raise ModelError(f"offload_folder is a path, not {folder!r}.")
    found = replace(
        placement,
        device_map=mapped,
        offload_folder=None if folder is None else str(folder),
        tensor_parallel=None if parallel == 1 else parallel,
    )
    for conflict in conflicts_of(found, device):
        raise ModelError(f"{conflict.key}: {conflict.message}.")
    return found


def _device_map(value: Any) -> DeviceMap:
    example = f"{', '.join(STRATEGIES)}, or devices by module, as in {{'model.layers': 'disk', 'lm_head': 'cpu'}}"
    if isinstance(value, str) and value in STRATEGIES:
        return value
    if not isinstance(value, Mapping) or not value:
        raise ModelError(f"device_map is one of {example}, not {value!r}.")
    placed = {str(module): device_of_map(_plain_device(device)) for module, device in value.items()}
    for (module, device), meant in zip(value.items(), placed.values(), strict=True):
        if meant is None:
            where = module or "the whole model"
            raise ModelError(f"device_map: {where} can be on cpu, cuda, cuda:1 or disk, not on {device!r}.")
    return {module: str(device) for module, device in placed.items()}


def _plain_device(device: Any) -> Any:
    return str(device) if isinstance(device, torch.device) else device


def main_device(placement: ModelPlacement, device: str) -> torch.device:
    """Where a model's passes begin, as far as that is known before it is loaded: what ``dtype: auto`` follows.

    Raises:
        ModelError: for a device that this machine lacks.
    """
    if not isinstance(placement.device_map, Mapping):
        return device_to_load_on(device)
    named = dict.fromkeys(one for one in placement.device_map.values() if one != DISK)
    found = [device_to_load_on(name) for name in named]
    return next((one for one in found if one.type != "cpu"), torch.device("cpu"))


@dataclass(frozen=True)
class Placed:
    """What ``from_pretrained`` is told of a placement, and the folder that goes with the model."""

    arguments: Mapping[str, Any]
    folder: Path | None

    def keep_with(self, model: nn.Module) -> None:
        """Remove the folder when the model is gone, or now where nothing of the model lies in it."""
        if self.folder is not None:
            remove_with(model, self.folder)


@contextmanager
def placing(placement: ModelPlacement, empty: Callable[[], nn.Module], source: str) -> Iterator[Placed]:
    """How a model is placed while ``from_pretrained`` loads it, in the block.

    Args:
        placement: checked.
        empty: builds the model's modules.
        source: as messages call it.

    Raises:
        ModelError: for modules that the model lacks, and a folder that can't be written or is full.
    """
    arguments: dict[str, Any] = {}
    folder = None
    if placement.device_map is not None:
        arguments["device_map"] = mapped = _resolved(placement.device_map, empty)
        if isinstance(mapped, str) or DISK in mapped.values():
            folder = own_folder(placement.offload_folder)
            arguments["offload_folder"] = str(folder)
    if placement.quantization is not None:
        try:
            arguments["quantization_config"] = quantization_config(placement.quantization)
        except ModelError as error:
            raise ModelError(f"quantization: {error}") from None
    try:
        yield Placed(arguments, folder)
    except BaseException as error:
        if folder is not None:
            remove(folder)
        if is_full(error):
            raise ModelError(no_room(source, placement.offload_folder)) from error
        if placement.quantization is not None and may_be_the_quantisers(error):
            raise ModelError(cant_quantise(source, arguments["quantization_config"], error)) from error
        raise


def require_room(folder: Path, n_bytes: int, source: str, within: str | None) -> None:
    """Raise ``ModelError`` unless a folder's disk has room: some writers are killed where it hasn't."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        need = f"{n_bytes / _GIB:.1f} GiB are needed and {free / _GIB:.1f} GiB are free"
        raise ModelError(f"{no_room(source, within)} ({need}.)")


def no_room(source: str, within: str | None) -> str:
    """What a user can do about a full disk."""
    above = within or str(cache_folder() / "offload")
    return f"{above} has no room for the weights of {source} that go to disk. Name an offload_folder on a larger disk."


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is that of a full disk."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _resolved(mapped: DeviceMap, empty: Callable[[], nn.Module]) -> DeviceMap:
    if isinstance(mapped, str):
        return mapped
    with torch.device("meta"):
        model = empty()
    return whole_map(model, mapped)


def whole_map(model: nn.Module, mapped: Mapping[str, str]) -> dict[str, str]:
    """The devices of all that a model holds, by modules of which none is inside of another.

    Args:
        model: perhaps without weights.
        mapped: devices by path; the longest that a path begins with counts.

    Raises:
        ModelError: for a path that the model doesn't have, and for parameters that no path names.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    weights = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    known = {*modules, *weights}
    for path in mapped:
        if path not in known:
            shown = [name for name in modules if name and name.count(".") <= 2]
            raise ModelError(f"device_map: the model has no module {path!r}. {nearest(path, shown, 'module')}")
    usual = next((one for one in mapped.values() if one not in ("cpu", DISK)), "cpu")
    placed: dict[str, str] = {}
    left = [""]
    while left:
        path = left.pop()
        within = [name for name in mapped if name != path and (not path or name.startswith(f"{path}."))]
        device = _device_of(path, mapped)
        if not within:
            if device is not None:
                placed[path] = device
            elif path not in weights and not (path in modules and any(True for _ in modules[path].parameters())):
                placed[path] = usual
            else:
                raise ModelError(
                    f"device_map doesn't say where {path or 'the model'} goes. Add it, or '' for the rest."
                )
            continue
        inside = [*modules[path]._modules, *modules[path]._parameters, *modules[path]._buffers]
        left += [f"{path}.{name}".removeprefix(".") for name in reversed(inside)]
    return placed


def _device_of(path: str, mapped: Mapping[str, str]) -> str | None:
    parts = path.split(".") if path else []
    for depth in range(len(parts), -1, -1):
        if (device := mapped.get(".".join(parts[:depth]))) is not None:
            return device
    return None
