"""Models whose weights another library brings to their modules when these run: which of them can be steered."""

from __future__ import annotations

from typing import Any

from torch import nn

from steerkit.api.architecture import Layout
from steerkit.engine.sites.taps import submodule
from steerkit.errors import SiteError, UnsupportedModelError


def require_in_parts(model: nn.Module, layout: Layout) -> None:
    """Raise ``UnsupportedModelError`` where weights come for all blocks at once: passes here run parts of a model, and
    what holds those parts is never called."""
    for path in sorted({above for block in layout.blocks for above in _above(block.module)}):
        try:
            hook: Any = getattr(submodule(model, path), "_hf_hook", None)
        except SiteError:
            continue  # the first check of the self-test says so
        if any(_brings_all(part) for part in getattr(hook, "hooks", (hook,))):
            raise UnsupportedModelError(
                f"All weights of this model are brought to {path or 'it'} at once when that runs (offloaded as a "
                "whole), and its parts can't be run without them. Offload it part by part: accelerate's cpu_offload or "
                "disk_offload without preload_module_classes, or device_map."
            )


def _above(path: str) -> list[str]:
    """Paths of all that holds a module, the whole model's first."""
    parts = path.split(".")
    return [".".join(parts[:depth]) for depth in range(len(parts))]


def _brings_all(hook: Any) -> bool:
    """Whether a hook of accelerate moves a module with all that is below it."""
    below = getattr(hook, "offload", False) and getattr(hook, "place_submodules", False)
    return bool(below) or type(hook).__name__ == "CpuOffload"
