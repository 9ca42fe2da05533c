"""Layouts of live models in what other libraries wrap around them or put into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.api.architecture import Layout
from steerkit.engine.sites.selftest import self_test
from steerkit.engine.tiny.models import tiny_model
from steerkit_architectures._auto import AutoAdapter

PLAIN = AutoAdapter().layout(tiny_model("llama"))


def proven(model: Any) -> Layout:
    layout = AutoAdapter().layout(model)
    self_test(model, layout).raise_if_failed()
    return layout


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("kind", ["lora", "dora", "ia3"])
def test_adapters_in_the_layers(kind: str) -> None:
    peft = pytest.importorskip("peft")
    targets = ["q_proj", "o_proj", "down_proj"]
    if kind == "ia3":
        settings = peft.IA3Config(target_modules=targets, feedforward_modules=["down_proj"], init_ia3_weights=False)
    else:
        settings = peft.LoraConfig(target_modules=targets, use_dora=kind == "dora", init_lora_weights=False)
    wrapped = peft.get_peft_model(tiny_model("llama"), settings).eval()
    layout = proven(wrapped.get_base_model())
    assert layout.sites() == PLAIN.sites()
    assert all(layout.tap(site) == PLAIN.tap(site) for site in layout.sites())
    # The same from the outside, where paths are longer.
    assert proven(wrapped).base == "base_model.model.model"


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_compiled_modules_are_recorded_eagerly() -> None:
    model = tiny_model("llama")
    model.model.layers[0] = torch.compile(model.model.layers[0])
    model.model.layers[1].mlp.compile()
    assert proven(model) == PLAIN


@pytest.mark.parametrize("to", ["cpu", "disk"])
def test_offloaded_models(to: str, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    model, kept = tiny_model("gemma4_text"), AutoAdapter().layout(tiny_model("gemma4_text"))
    if to == "cpu":
        accelerate.cpu_offload(model, execution_device="cpu", offload_buffers=True)
    else:
        accelerate.disk_offload(model, str(tmp_path), execution_device="cpu", offload_buffers=True)
    assert proven(model) == kept


def test_other_precision_and_inference_mode() -> None:
    assert proven(tiny_model("llama", dtype=torch.bfloat16)) == PLAIN
    with torch.inference_mode():
        assert AutoAdapter().layout(tiny_model("llama")) == PLAIN


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma4_text"])
def test_without_weights_the_layout_is_the_same(kind: str) -> None:
    model: Any = tiny_model(kind)
    expected = AutoAdapter().layout(model)
    assert AutoAdapter().layout(model.to("meta")) == expected
