"""Which settings of a config declare a bias: found by building, for any family."""

from __future__ import annotations

import pytest

from steerkit.engine.baking.biases import declare_biases
from steerkit.engine.tiny.models import tiny_model
from steerkit.errors import AttachError

PLAIN = {"attention_bias": False, "mlp_bias": False}
DOWN, OUT = "model.layers.1.mlp.down_proj", "model.layers.0.self_attn.o_proj"


def test_only_the_settings_that_are_needed_are_chosen() -> None:
    model = tiny_model("llama", **PLAIN)
    before = model.config.to_dict()
    assert declare_biases(model, []) == ({}, ())
    settings, paths = declare_biases(model, [DOWN])
    assert settings == {"mlp_bias": True} and {path.rpartition(".")[2] for path in paths} == {
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    settings, paths = declare_biases(model, [OUT])
    assert settings == {"attention_bias": True} and len(paths) == 3 * 4
    settings, paths = declare_biases(model, [OUT, DOWN])
    assert settings == {"attention_bias": True, "mlp_bias": True} and len(paths) == 3 * 7
    assert model.config.to_dict() == before


@pytest.mark.parametrize(
    ("model_type", "path"),
    [
        ("qwen2", DOWN),
        ("qwen2", OUT),
        ("qwen3", DOWN),
        ("gemma", DOWN),
        ("qwen3_5", "model.language_model.layers.0.mlp.down_proj"),
    ],
)
def test_what_no_setting_declares_is_refused(model_type: str, path: str) -> None:
    model = tiny_model(model_type)
    with pytest.raises(AttachError, match=f"{path}, which has none, and no setting of a .*Config declares one"):
        declare_biases(model, [path])


def test_a_part_that_nothing_declares_is_named_with_how_many_more() -> None:
    with pytest.raises(AttachError, match="down_proj and 1 more, which has none"):
        declare_biases(tiny_model("qwen3"), [OUT, DOWN, DOWN.replace("1", "2")])
