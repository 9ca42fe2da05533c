"""Caches of states, which don't tell how many tokens they were made of, are followed from the start or refused."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

import steerkit
from steerkit.api.intervention import Affine
from steerkit.errors import PositionError
from steerkit.session.model import LiveModel
from tests.engine.conditions import Given, vectors

IDS = torch.randint(6, 200, (1, 6), generator=torch.Generator().manual_seed(0))
EDIT = Given({"blocks.1.resid_post": Affine(bias=vectors(32, 1)[0])}, "generated")


@pytest.fixture(params=["mamba", "mamba2"])
def live(request: pytest.FixtureRequest) -> LiveModel:
    return steerkit.load_model(f"tiny-random:{request.param}")


def test_steps_behind_a_cache_are_edited_at_their_own_places(live: LiveModel) -> None:
    cache = DynamicCache(config=live.model.config)
    with torch.no_grad(), live.steer(EDIT):
        whole = live.forward(IDS, prompt_lengths=[4]).logits
        parts = [live.forward(IDS[:, :4], prompt_lengths=[4], use_cache=True, cache_params=cache).logits]
        for place in (4, 5):
            step, seen = IDS[:, place : place + 1], torch.ones(1, 1)
            parts.append(live.forward(step, seen, prompt_lengths=[4], use_cache=True, cache_params=cache).logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=1e-4)
    assert (whole - live.forward(IDS).logits).abs().max() > 1e-3


def test_a_state_that_the_model_began_itself_is_refused(live: LiveModel) -> None:
    with torch.no_grad(), live.steer(EDIT):
        begun = live.forward(IDS[:, :4], prompt_lengths=[4], use_cache=True).cache_params
        with pytest.raises(PositionError, match="pass a new one from the start"):
            live.forward(IDS[:, 4:5], torch.ones(1, 1), prompt_lengths=[4], use_cache=True, cache_params=begun)
