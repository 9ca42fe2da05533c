"""Put the operation at every spot of a model, as hooks that a tracer inlines with the module's own code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steerkit.errors import AttachError
from steerkit_vllm.bank import Bank
from steerkit_vllm.op import edit_, register
from steerkit_vllm.places import Spot


def wrap(model: nn.Module, spots: Sequence[Spot], bank: Bank) -> list[RemovableHandle]:
    """Wrap a model's modules, and make sure that every place of the bank is one of them.

    Raises:
        AttachError: where a place has no spot.
    """
    register(bank)
    handles = []
    for spot in spots:
        module, key = model.get_submodule(spot.module), bank.places[spot.site].key
        if spot.kind == "writer":
            handles.append(module.register_forward_hook(_of_writer(key)))
        elif spot.side == "output":
            handles.append(module.register_forward_hook(_of_pair(key)))
        else:
            handles.append(module.register_forward_pre_hook(_of_inputs(key, spot.kind), with_kwargs=True))
    lacking = bank.places.keys() - {spot.site for spot in spots}
    if lacking:
        raise AttachError(f"{', '.join(map(str, sorted(lacking)))} can't be steered: no module holds them.")
    return handles


def _of_writer(key: Tensor) -> Any:
    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        edit_(output, None, key)

    return hook


def _of_pair(key: Tensor) -> Any:
    def hook(module: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
        contribution, rest = output
        edit_(contribution, rest, key)

    return hook


def _of_inputs(key: Tensor, kind: str) -> Any:
    """Of a norm ``(contribution, rest)``, of a layer ``(positions, contribution, rest)``, by place or by name."""
    names = ("x", "residual") if kind == "norm" else ("positions", "hidden_states", "residual")

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(names, args, strict=False)) | kwargs
        edit_(given[names[-2]], given.get("residual"), key)

    return hook
