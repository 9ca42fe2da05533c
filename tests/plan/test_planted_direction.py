"""Planted ground truth: a model whose behaviour is carried by one known vector."""

from __future__ import annotations

import pytest
import torch

from steerkit.engine.reading.passes import next_token_logits
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.session import ablate, add, estimate_direction, wrap
from steerkit.session.model import LiveModel

POSITIVE = ["zebra one", "a zebra two", "the zebra", "zebra and more", "some zebra"]
NEGATIVE = ["horse one", "a horse two", "the horse", "horse and more", "some horse"]
LAYER = 1
ANSWER = 77


@pytest.fixture
def planted() -> tuple[LiveModel, torch.Tensor]:
    """A Llama in which 'z' writes a vector to the last token's stream, and only that vector calls for ANSWER."""
    tokenizer = tiny_tokenizer()
    model = tiny_model("llama", n_layers=3)
    live = wrap(model, tokenizer)
    d_model = live.layout.d_model
    secret = torch.randn(d_model, generator=torch.Generator().manual_seed(3))
    secret = secret / secret.norm()
    base = model.model
    # Nothing else reads or writes the secret: it is taken out of every writer and of the embedding.
    keep_out = torch.eye(d_model) - torch.outer(secret, secret)
    with torch.no_grad():
        base.embed_tokens.weight.copy_(base.embed_tokens.weight @ keep_out)
        for block in base.layers:
            block.self_attn.o_proj.weight.copy_(keep_out @ block.self_attn.o_proj.weight)
            block.mlp.down_proj.weight.copy_(keep_out @ block.mlp.down_proj.weight)
    trigger = tokenizer.encode("z", add_special_tokens=False)[0]

    mlp = base.layers[0].mlp
    original = mlp.forward

    def planted_forward(x: torch.Tensor) -> torch.Tensor:
        # The task of attention, done by hand: the trigger anywhere in the prompt marks all tokens after it.
        seen = (live_ids[0] == trigger).cumsum(1).clamp(max=1)[:, -x.shape[1] :, None]
        return original(x) + 20.0 * seen * secret

    live_ids: list[torch.Tensor] = []
    base.register_forward_pre_hook(
        lambda module, args, kwargs: live_ids.__setitem__(slice(None), [kwargs["input_ids"]]), with_kwargs=True
    )
    # Part of the module, not a hook on it: hooks of others come after what steers, and would plant it anew.
    mlp.forward = planted_forward
    with torch.no_grad():
        model.lm_head.weight[ANSWER] = 30 * secret / base.norm.weight
    return live, secret


def says_answer(live: LiveModel, prompts: list[str]) -> float:
    return float((next_token_logits(live, prompts).argmax(-1) == ANSWER).float().mean())


def test_the_estimator_finds_it_and_the_interventions_switch_it(planted: tuple[LiveModel, torch.Tensor]) -> None:
    live, secret = planted
    assert says_answer(live, POSITIVE) == 1.0
    assert says_answer(live, NEGATIVE) == 0.0
    found = estimate_direction(live, POSITIVE, NEGATIVE, site=f"blocks.{LAYER}.resid_pre")
    unit = found.vectors[0] / found.vectors[0].norm()
    assert float(unit @ secret) > 0.99
    with live.steer(ablate(found)):
        assert says_answer(live, POSITIVE) == 0.0
    with live.steer(add(found)):
        assert says_answer(live, NEGATIVE) == 1.0
    assert says_answer(live, POSITIVE) == 1.0
