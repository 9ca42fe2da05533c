"""Planted ground truth: a behaviour that one direction carries and one that three carry look different."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import steerkit_estimators.difference_subspace as plugin
import steerkit_interventions.ablate as intervention
from steerkit.api.direction import Direction
from steerkit.catalog import Catalog
from steerkit.engine.reading.passes import next_token_logits
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.session import estimate_direction, wrap
from steerkit.session.model import LiveModel
from steerkit.stages.condition import random_like
from steerkit.types import Example
from steerkit_interventions._ablate import Ablate

TRIGGERS = ("x", "y", "z")
ANSWERS = (77, 78, 79)
SIZES = (24.0, 20.0, 16.0)
WORDS = ("{} one", "a {} two", "the {}", "{} and more")
HARMLESS = ["horse one", "a horse two", "the horse", "horse and more"]


def planted(carriers: int) -> LiveModel:
    """A Llama in which each trigger writes a vector, and each vector calls for an answer of its own.

    Args:
        carriers: how many distinct vectors the three triggers write: 1 or 3.
    """
    tokenizer = tiny_tokenizer()
    model = tiny_model("llama", n_layers=3)
    live, base = wrap(model, tokenizer), model.model
    d_model = live.layout.d_model
    secrets = torch.linalg.qr(torch.randn(d_model, 3, generator=torch.Generator().manual_seed(3))).Q.T
    keep_out = torch.eye(d_model) - secrets.T @ secrets
    with torch.no_grad():
        base.embed_tokens.weight.copy_(base.embed_tokens.weight @ keep_out)
        for block in base.layers:
            for projection in (block.self_attn.o_proj, block.mlp.down_proj):
                projection.weight.copy_(keep_out @ projection.weight)
                projection.bias.copy_(keep_out @ projection.bias)
    written = [secrets[at % carriers] for at in range(3)]
    ids = [tokenizer.encode(word, add_special_tokens=False)[0] for word in TRIGGERS]
    mlp = base.layers[0].mlp
    original, live_ids = mlp.forward, [torch.zeros(0)]

    def planted_forward(x: torch.Tensor) -> torch.Tensor:
        out = original(x)
        for token, size, vector in zip(ids, SIZES, written, strict=True):
            seen = (live_ids[0] == token).cumsum(1).clamp(max=1)[:, -x.shape[1] :, None]
            out = out + size * seen * vector
        return out

    base.register_forward_pre_hook(
        lambda module, args, kwargs: live_ids.__setitem__(0, kwargs["input_ids"]), with_kwargs=True
    )
    mlp.forward = planted_forward
    with torch.no_grad():
        for answer, secret in zip(ANSWERS, secrets, strict=True):
            model.lm_head.weight[answer] = 8 * secret / base.norm.weight
    return live


PROMPTS = [words.format(trigger) for trigger in TRIGGERS for words in WORDS]


def answering(live: LiveModel, prompts: list[str] = PROMPTS) -> float:
    """On what share of the prompts the behaviour is there."""
    found = next_token_logits(live, prompts).argmax(-1)
    return float(torch.isin(found, torch.tensor(ANSWERS)).float().mean())


def estimated(live: LiveModel, rank: int) -> Direction:
    positive = [
        replace(Example.of(words.format(trigger)), fields={"topic": trigger}) for trigger in TRIGGERS for words in WORDS
    ]
    catalog = Catalog.from_modules(plugin)
    options = {"over": "topic", "rank": rank}
    return estimate_direction(
        live,
        positive,
        HARMLESS,
        site="blocks.1.resid_pre",
        estimator="difference_subspace",
        catalog=catalog,
        options=options,
    )


def curve(live: LiveModel, direction: Direction) -> list[float]:
    """The behaviour when the first 1, 2, … vectors are removed."""
    found = []
    for rank in range(1, direction.rank + 1):
        with live.steer(Ablate(intervention.AblateOptions(rank=rank), direction), mode="hook"):
            found.append(answering(live))
    return found


@pytest.mark.parametrize(("carriers", "expected"), [(1, [0.0, 0.0, 0.0]), (3, [2 / 3, 1 / 3, 0.0])])
def test_the_curve_tells_one_carrier_from_three(carriers: int, expected: list[float]) -> None:
    live = planted(carriers)
    assert answering(live) == 1.0 and answering(live, HARMLESS) == 0.0
    direction = estimated(live, 3)
    assert curve(live, direction) == pytest.approx(expected)
    assert curve(live, random_like(direction, 0, 1)) == [1.0, 1.0, 1.0]
    assert answering(live) == 1.0
