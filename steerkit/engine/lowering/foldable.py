"""Whether a module's parameters may be swapped for folded ones, and how its weight lies."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from steerkit.engine.sites.taps import submodule


def is_transposed(module: nn.Module) -> bool:
    """Whether it is a linear module whose weight is ``[in, out]``: the Conv1D of GPT-2 and its kin."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def is_linear(module: nn.Module) -> bool:
    """Whether it is a plain linear module, which nothing quantises, adapts or shards."""
    return type(module) is nn.Linear or is_transposed(module)


def weight_of(module: nn.Module) -> Tensor:
    """A linear module's weight as ``[out, in]``."""
    weight = cast(Tensor, module.weight)
    return weight.T if is_transposed(module) else weight


def in_features(module: nn.Module) -> int:
    """How wide the input of a linear module is."""
    return int(weight_of(module).shape[1])


def why_not_foldable(module: nn.Module, path: str, model: nn.Module) -> str:
    """Why a module's parameters can't be swapped, or that isn't all that decides what it puts out; empty if neither."""
    if not isinstance(module, nn.Embedding) and not is_linear(module):
        return f"{path} is a {type(module).__name__}, not a plain Linear (quantised, adapted or sharded?)"
    if "forward" in vars(module) or hasattr(module, "_hf_hook"):
        return f"another library runs {path} (offloaded?)"
    if module._forward_hooks or module._forward_pre_hooks:
        return f"{path} has a hook, which would see the change"
    return why_parameter_not_foldable(module, module._parameters.get("weight"), f"{path}.weight")


def why_fold_is_seen(path: str, place: str, model: nn.Module) -> str:
    """Why what a module puts out must not change: somebody observes a module around it, within that of the place where
    the change is meant; empty where nobody does."""
    parent = path.rpartition(".")[0]
    while parent.startswith(f"{place}."):
        hooks = submodule(model, parent)._forward_hooks.values()
        # What transformers records of attention weights is not of the stream.
        if any(not str(getattr(hook, "__module__", "")).startswith("transformers.") for hook in hooks):
            return f"{parent} has a hook, which would see the change"
        parent = parent.rpartition(".")[0]
    return ""


def why_parameter_not_foldable(owner: nn.Module, value: Tensor | None, path: str) -> str:
    """Why a parameter can't be swapped; empty where it can."""
    if value is None or hasattr(owner, "_hf_hook"):
        return f"{path} is no parameter of its own (offloaded?)"
    if type(value) is not nn.Parameter or type(value.data) is not Tensor or not value.is_floating_point():
        return f"{path} is a {type(value).__name__} of {value.dtype}, not a plain tensor (quantised or sharded?)"
    if value.is_meta:
        return f"{path} isn't in memory (offloaded?)"
    return ""
