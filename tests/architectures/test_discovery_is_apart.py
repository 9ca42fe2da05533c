"""A model that an adapter claims by name is none of discovery's business: nothing of it is so much as imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
import torch
import steerkit

model = steerkit.load_model({source!r}, device="cpu"{adapter})
model.capture([torch.arange(6, 12)], "blocks.1.resid_post")
print(model.adapter_name, *sorted(name for name in sys.modules if name.startswith("steerkit_architectures._")))
"""


def loaded(source: str, adapter: str = "") -> list[str]:
    """The adapter of a model that a process of its own loaded, tested and read, and inner modules of plugins there."""
    code = CODE.format(source=source, adapter=adapter)
    found = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("tiny-random:llama", ["llama", "steerkit_architectures._common", "steerkit_architectures._llama"]),
        ("tiny-random:gemma3", ["gemma", "steerkit_architectures._common", "steerkit_architectures._gemma"]),
    ],
)
def test_a_model_claimed_by_name_imports_no_module_of_discovery(source: str, expected: list[str]) -> None:
    assert loaded(source) == expected
