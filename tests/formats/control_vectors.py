"""GGUF files of control vectors as their producers write them, and what adding them comes to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter

from tests.conftest import tiny_live

IDS = torch.randint(6, 262, (2, 7), generator=torch.Generator().manual_seed(3))


def written(path: Path, rows: Mapping[str, np.ndarray], architecture: str = "controlvector", **texts: str) -> Path:
    """A file as the producers write theirs: with the gguf package, and with no word of steerkit."""
    writer = GGUFWriter(path, architecture)
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(rows))
    for name, text in texts.items():
        writer.add_string(f"controlvector.{name}", text)
    for name, row in rows.items():
        writer.add_tensor(name, row)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def row(seed: int, width: int = 32, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(width).astype(dtype)


def shifted(value: torch.Tensor, blocks: Mapping[int, np.ndarray]) -> torch.Tensor:
    """Logits of the tiny Llama with a vector added, by hand, to what comes out of a block."""
    model = tiny_live("llama").model

    def add(vector: np.ndarray) -> Any:
        return lambda module, args, output: (
            (output[0] + torch.from_numpy(vector), *output[1:])
            if isinstance(output, tuple)
            else output + torch.from_numpy(vector)
        )

    handles = [model.model.layers[block].register_forward_hook(add(vector)) for block, vector in blocks.items()]
    try:
        with torch.no_grad():
            logits: torch.Tensor = model(value).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits
