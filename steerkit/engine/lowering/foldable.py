"""Whether a module's parameters may be swapped for folded ones, and how its weight lies."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from steerkit.engine.parallel.shards import (
    cut_in_words,
    is_fully_sharded,
    is_sharded,
    runs_in_parallel,
    why_cut_otherwise,
)
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
    if is_fully_sharded(model, path):
        return f"FSDP gathers the parameters of {path} anew for each pass"
    if not isinstance(module, nn.Embedding) and not is_linear(module):
        return f"{path} is a {type(module).__name__}, not a plain Linear (quantised or adapted?)"
    if why := _why_others_run_it(module, path):
        return why
    if module._forward_hooks or module._forward_pre_hooks:
        return f"{path} has a hook, which would see the change"
    own = [
        (f"{path}.{name}", value) for name in ("weight", "bias") if (value := module._parameters.get(name)) is not None
    ]
    if runs_in_parallel(module):
        return next((why for name, value in own if (why := why_cut_otherwise(value, name))), "")
    return why_parameter_not_foldable(module, module._parameters.get("weight"), f"{path}.weight")


def _why_others_run_it(module: nn.Module, path: str) -> str:
    """Who runs a module in another way than its class says, other than on a share of it; empty where nobody does."""
    hook: Any = getattr(module, "_hf_hook", None)
    if hook is not None:
        brings = any(getattr(part, "offload", False) for part in getattr(hook, "hooks", (hook,)))
        what = (
            "brings the weights of {} when it runs (offloaded)" if brings else "runs {} on a device of its own choice"
        )
        return f"accelerate {what.format(path)}"
    if "forward" in vars(module) and not runs_in_parallel(module):
        return f"somebody replaced the forward of {path}"
    return ""


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
        return f"{path} is no parameter of its own (offloaded or parametrised)"
    if is_sharded(value):
        return f"processes have shares of {path} ({cut_in_words(value)})"
    if type(value) is not nn.Parameter or type(value.data) is not Tensor or not value.is_floating_point():
        return f"{path} is a {type(value).__name__} of {value.dtype}, not a plain tensor (quantised?)"
    if value.is_meta:
        return f"{path} isn't in memory (offloaded)"
    return ""
