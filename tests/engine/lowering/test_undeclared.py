"""Ten types that nobody declared, as they are discovered: what is generated doesn't depend on a cache."""

from __future__ import annotations

import pytest

import steerkit
from tests.engine.conditions import vectors

TYPES = ("gpt2", "opt", "falcon", "bloom", "phi", "mistral", "mixtral", "granite", "olmo2", "mamba")
PROMPTS = ["ab", "a longer prompt, with words"]


@pytest.mark.parametrize("model_type", TYPES)
def test_steered_text_is_the_same_with_and_without_a_cache(model_type: str) -> None:
    live = steerkit.load_model(f"tiny-random:{model_type}", adapter="auto")
    first, second = vectors(32, 2, 1)
    taken = steerkit.ablate(steerkit.Direction(first[None], "blocks.1.resid_pre"))
    added = steerkit.add(
        steerkit.Direction(second[None], "blocks.2.resid_pre"), coefficient=40.0, positions="generated"
    )
    plain = live.complete(PROMPTS, max_new_tokens=12)
    for mode in ("auto", "hook"):
        with live.steer(taken, added, mode=mode):
            cached = live.complete(PROMPTS, max_new_tokens=12)
            assert cached == live.complete(PROMPTS, max_new_tokens=12, use_cache=False), mode
        assert cached != plain
