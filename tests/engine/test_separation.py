"""Separation by layer: the measures by hand, and one value per prompt however many tokens are read."""

from __future__ import annotations

import math

import pytest
import torch

from steerkit.api.estimator import ClassStatistics
from steerkit.engine.measuring.separation import auroc, d_prime, separation
from steerkit.session.model import LiveModel
from steerkit.types import Positions

WARM = ["the sun is out", "a warm day today", "sun and sand", "summer heat is here"]
COLD = ["ice on the lake", "a cold night", "snow and wind again", "winter frost"]


def test_auroc_counts_pairs_and_halves_ties() -> None:
    high, low = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([1.0, 0.0])
    pairs = [(a > b) + 0.5 * (a == b) for a in high.tolist() for b in low.tolist()]
    assert auroc(high, low) == pytest.approx(sum(pairs) / len(pairs))


def test_d_prime_by_hand() -> None:
    high, low = torch.tensor([3.0, 5.0]), torch.tensor([0.0, 1.0, 2.0])
    assert d_prime(high, low) == pytest.approx((4 - 1) / math.sqrt((2 + 1) / 2))
    assert d_prime(high[:1], low) is None
    assert d_prime(torch.ones(2), torch.zeros(2)) is None


def test_prompt_means_are_over_each_prompts_own_tokens() -> None:
    rows = torch.tensor([[1.0, 0.0], [3.0, 0.0], [10.0, 2.0]])
    statistics = ClassStatistics(3, rows.double().mean(0), None, rows, torch.tensor([2, 1]))
    assert statistics.prompt_means().tolist() == [[2.0, 0.0], [10.0, 2.0]]
    with pytest.raises(ValueError, match="rows"):
        ClassStatistics(1, rows[0]).prompt_means()


@pytest.mark.parametrize("role", ["instruction", "-1"])
def test_every_layer_is_measured_on_prompts(llama: LiveModel, role: str) -> None:
    from steerkit_estimators._mean_difference import MeanDifference
    from steerkit_estimators.mean_difference import MeanDifferenceOptions

    found = separation(
        llama,
        MeanDifference(MeanDifferenceOptions()),
        "mean",
        {"positive": WARM[:2], "negative": COLD[:2]},
        {"positive": WARM, "negative": COLD[:3]},
        Positions.parse(role),
    )
    assert [row.layer for row in found] == list(range(llama.layout.n_layers + 1))
    assert {(row.n_positive, row.n_negative) for row in found} == {(4, 3)}
    measured = [row for row in found if row.auroc is not None]
    assert len(measured) >= llama.layout.n_layers
    # The last template token is the same in every prompt, so nothing tells the classes apart before block 0.
    assert (found[0].auroc is None) == (role == "-1")
