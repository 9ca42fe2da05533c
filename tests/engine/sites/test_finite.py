"""Weights that aren't finite are what a failed self-test names first."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from steerkit.cli.main import main
from steerkit.engine.sites.finite import not_finite
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.errors import SelfTestError
from steerkit.session import load_model


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj.weight", "lm_head.weight", "model.norm.weight"])
def test_the_tensor_is_named_in_place_of_the_adapter(tmp_path: Path, value: float, name: str) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_parameter(name).view(-1)[3] = value
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(SelfTestError) as caught:
        load_model(str(tmp_path))
    message = str(caught.value)
    assert f"hold NaN or infinite values: {name} (1 of {model.get_parameter(name).numel():,})" in message
    assert "adapter" not in message and "dtype float32" in message


def test_the_command_line_says_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.down_proj.weight").fill_(math.nan)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(SystemExit) as leaving:
        main(["inspect", str(tmp_path)])
    assert leaving.value.code == 3
    assert "model.layers.1.mlp.down_proj.weight (2,048 of 2,048)" in capsys.readouterr().err


def test_large_finite_values_and_buffers() -> None:
    model = torch.nn.Linear(4, 4)
    with torch.no_grad():
        model.weight.fill_(3e38)
    assert not_finite(model) == ()  # their sum is beyond float32
    model.register_buffer("scale", torch.tensor([1.0, math.inf]))
    model.register_buffer("numbers", torch.tensor([1, 2]))
    assert not_finite(model) == ("scale (1 of 2)",)
