"""Where a module's output isn't its contribution, as the page on sites says of names known from elsewhere.

Libraries read what a module of a given name puts out; here it is held beside what the block adds to the stream.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from tests.architectures.conftest import IDS

SIZES = {"vocab_size": 288, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDE = {
    **SIZES,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def run(model_type: str, *paths: str, **settings: Any) -> dict[str, Tensor]:
    """What modules of a tiny model put out, and by ``<path>.input`` what they were given."""
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    seen: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            seen[path] = output[0] if isinstance(output, tuple) else output
            seen[f"{path}.input"] = args[0] if args else next(iter(kwargs.values()))

        return hook

    for path in paths:
        model.get_submodule(path).register_forward_hook(keep(path), with_kwargs=True)
    with torch.no_grad():
        model(input_ids=IDS)
    return seen


def test_olmo2_adds_what_its_post_norm_makes_of_attention() -> None:
    block, attention, norm = "model.layers.1", "model.layers.1.self_attn", "model.layers.1.post_attention_layernorm"
    seen = run("olmo2", block, attention, norm, "model.layers.1.mlp", **WIDE)
    middle = seen["model.layers.1.mlp.input"]
    torch.testing.assert_close(seen[f"{block}.input"] + seen[norm], middle)
    assert not torch.allclose(seen[f"{block}.input"] + seen[attention], middle)


def test_gemma2_adds_what_its_post_norm_makes_of_attention() -> None:
    block, attention = "model.layers.1", "model.layers.1.self_attn"
    norm, before_mlp = f"{block}.post_attention_layernorm", f"{block}.pre_feedforward_layernorm"
    seen = run("gemma2", block, attention, norm, before_mlp, head_dim=8, **WIDE)
    middle = seen[f"{before_mlp}.input"]
    torch.testing.assert_close(seen[f"{block}.input"] + seen[norm], middle)
    assert not torch.allclose(seen[f"{block}.input"] + seen[attention], middle)


def test_gpt2_begins_with_the_sum_of_two_embeddings() -> None:
    seen = run("gpt2", "transformer.wte", "transformer.wpe", "transformer.h.0", **SIZES, n_embd=32, n_layer=2, n_head=4)
    torch.testing.assert_close(seen["transformer.wte"] + seen["transformer.wpe"], seen["transformer.h.0.input"])
    assert not torch.allclose(seen["transformer.wte"], seen["transformer.h.0.input"])


def test_granite_adds_attention_times_its_residual_multiplier() -> None:
    block, attention, norm = "model.layers.1", "model.layers.1.self_attn", "model.layers.1.post_attention_layernorm"
    seen = run("granite", block, attention, norm, residual_multiplier=0.25, **WIDE)
    added = seen[f"{norm}.input"] - seen[f"{block}.input"]
    torch.testing.assert_close(seen[attention] * 0.25, added)
    assert not torch.allclose(seen[attention], added)


@pytest.mark.parametrize("part", ["self_attention", "mlp"])
def test_blooms_modules_put_out_the_stream_with_their_contribution_in_it(part: str) -> None:
    settings = {**SIZES, "hidden_size": 32, "n_layer": 2, "n_head": 4}
    block, norm = "transformer.h.1", "transformer.h.1.post_attention_layernorm"
    seen = run("bloom", block, norm, f"{block}.{part}", f"{block}.self_attention.dense", **settings)
    if part == "self_attention":
        assert torch.equal(seen[f"{block}.{part}"], seen[f"{norm}.input"])
        torch.testing.assert_close(
            seen[f"{block}.input"] + seen[f"{block}.self_attention.dense"], seen[f"{block}.{part}"]
        )
    else:
        assert torch.equal(seen[f"{block}.{part}"], seen[block])
