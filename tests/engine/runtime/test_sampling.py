"""Samples: of the right distribution, and the same bytes for the same key in any company."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from steerkit.engine.reading.passes import sampled_completions
from steerkit.engine.runtime.sampling import pick, uniform
from steerkit.errors import DataError
from steerkit.session.model import LiveModel


def test_tokens_come_as_often_as_their_probability_says() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    draws = 20_000
    at = [uniform("key", step) for step in range(draws)]
    for temperature in (0.5, 1.0, 2.0):
        counts = Counter(pick(logits.expand(draws, 4), at, temperature, 1.0).tolist())
        expected = (logits.double() / temperature).softmax(-1).tolist()
        assert [counts[token] / draws for token in range(4)] == pytest.approx(expected, abs=0.015)


def test_the_nucleus_is_the_fewest_likeliest_tokens() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()[None]
    grid = [place / 100 for place in range(100)]

    def drawn(top_p: float) -> set[int]:
        return set(pick(logits.expand(100, 4), grid, 1.0, top_p).tolist())

    assert drawn(0.39) == {3}
    assert drawn(0.41) == drawn(0.69) == {2, 3}
    assert drawn(0.71) == {1, 2, 3}
    assert drawn(1.0) == {0, 1, 2, 3}


def test_the_ends_of_the_distribution_are_inside() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    assert pick(logits, [0.0], 1.0, 1.0).tolist() == [1]
    assert pick(logits, [1 - 2.0**-53], 1.0, 1.0).tolist() == [1]
    tokens = [pick(torch.zeros(1, 4), [place], 1.0, 1.0).item() for place in (0.0, 0.2499, 0.25, 0.999999)]
    assert tokens == [0, 0, 1, 3]


def test_a_row_keeps_its_tokens_in_any_company(llama: LiveModel) -> None:
    prompts = [llama.chat.render(text) for text in ("one", "two words", "three words now")]
    keys = [f"key {place}" for place in range(3)]

    def sample(rows: list[int], **settings: float) -> list[list[int]]:
        made = {"temperature": 1.0, "top_p": 0.9, **settings}
        return sampled_completions(
            llama, [prompts[row] for row in rows], [keys[row] for row in rows], max_new_tokens=8, **made
        )

    whole = sample([0, 1, 2])
    torch.manual_seed(99)  # whoever draws from the global generator differs now
    torch.rand(5)
    assert sample([0, 1, 2]) == whole
    assert sample([2, 0]) == [whole[2], whole[0]]
    assert sample([1]) == [whole[1]]
    assert sample([0, 1, 2], temperature=3.0) != whole
    greedy = llama.complete(prompts, max_new_tokens=8)
    assert sample([0, 1, 2], temperature=1e-4) == greedy
    with pytest.raises(DataError, match="temperature above 0"):
        sample([0], temperature=0.0)
