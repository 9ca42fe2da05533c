"""Tiny models with the layouts of the adapters that claim them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from steerkit.engine.tiny.models import tiny_model
from steerkit_architectures._gemma import GemmaAdapter
from steerkit_architectures._llama import LlamaAdapter
from steerkit_architectures._qwen import Qwen1Adapter, QwenAdapter
from steerkit_architectures._yi import YiAdapter

if TYPE_CHECKING:
    from steerkit.api.architecture import ArchitectureAdapter, Layout

IDS = torch.randint(6, 288, (2, 6), generator=torch.Generator().manual_seed(5))

NAMED: dict[str, type[ArchitectureAdapter]] = {
    "llama": LlamaAdapter,
    "diffllama": LlamaAdapter,
    "yi": YiAdapter,
    "qwen": Qwen1Adapter,
}


def built(model_type: str, **settings: Any) -> tuple[Any, Layout]:
    """A tiny model and its layout."""
    model = tiny_model(model_type, **settings)
    adapter = NAMED.get(model_type) or (QwenAdapter if model_type.startswith("qwen") else GemmaAdapter)
    return model, adapter().layout(model)
