from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch

import steerkit
import steerkit_formats.steerkit as plugin
from steerkit.catalog import installed
from steerkit.testing import FormatSuite


class TestConformance(FormatSuite):
    plugin: ClassVar = plugin


@pytest.mark.parametrize(
    ("vectors", "lost"),
    [
        (torch.tensor([[0.1]], dtype=torch.float64), ("d.vectors is kept in float32, which rounds its float64.",)),
        (torch.tensor([[0.5]], dtype=torch.float64), ()),
        (torch.tensor([[0.1]], dtype=torch.bfloat16), ()),
    ],
)
def test_what_float32_rounds_is_said_to_be_lost(vectors: torch.Tensor, lost: tuple[str, ...], tmp_path: Path) -> None:
    path, direction = tmp_path / "d.safetensors", steerkit.Direction(vectors, "embed", name="d")
    for catalog in (None, installed()):
        assert steerkit.save_directions(path, direction, catalog=catalog) == lost
    assert steerkit.save_condition(path, steerkit.ablate(direction), name="c") == lost
    assert torch.equal(steerkit.load_directions(path)["d"].vectors.to(vectors.dtype), vectors) is not bool(lost)
