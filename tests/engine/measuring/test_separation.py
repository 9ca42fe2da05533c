"""Separation by layer: the measures by hand, and one value per prompt however many tokens are read."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from steerkit.api.estimator import ClassStatistics, Estimate, EstimationRequest, Estimator
from steerkit.api.hookspecs import EstimatorNeeds, NoOptions
from steerkit.engine.measuring.separation import (
    Separation,
    _separation_at_site,
    auroc,
    d_prime,
    discriminant,
    separation,
)
from steerkit.errors import DataError
from steerkit.session.model import LiveModel
from steerkit.types import Positions, Site, as_examples

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


def test_classes_that_vary_by_rounding_alone_have_no_d_prime() -> None:
    """Two clusters of one vector each: what float64 leaves of their variance isn't divided by."""
    left = torch.tensor([0.3, 0.3 + 2**-54, 0.3], dtype=torch.float64)
    assert float(left.var()) > 0 and d_prime(left + 1, left) is None
    assert d_prime(left + 1 + torch.tensor([0.0, 1e-3, 0.0]), left) is not None


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
        EstimatorNeeds(),
        {"positive": as_examples(WARM[:2]), "negative": as_examples(COLD[:2])},
        {"positive": as_examples(WARM), "negative": as_examples(COLD[:3])},
        Positions.parse(role),
    )
    assert [row.layer for row in found] == list(range(llama.layout.n_layers + 1))
    assert {(row.n_positive, row.n_negative) for row in found} == {(4, 3)}
    measured = [row for row in found if row.auroc is not None]
    assert len(measured) >= llama.layout.n_layers
    # The last template token is the same in every prompt, so nothing tells the classes apart before block 0.
    assert (found[0].auroc is None) == (role == "-1")
    assert all((row.reason == "") == (row.auroc is not None) for row in found)


class Planted(Estimator[NoOptions]):
    """Gives the same vectors at every site, whatever it is shown."""

    def __init__(self, vectors: dict[str, torch.Tensor]) -> None:
        super().__init__(NoOptions())
        self.vectors = vectors

    def estimate(self, request: EstimationRequest) -> Estimate:
        (site,) = request.sites
        mean = request.statistics[site]["positive"].mean - request.statistics[site]["negative"].mean
        return Estimate({site: self.vectors["at"] if "at" in self.vectors else self.made(mean)})

    def made(self, mean: torch.Tensor) -> torch.Tensor:
        # The first vector is a nuisance, at right angles to all that tells the classes apart.
        nuisance = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0), dtype=mean.dtype)
        nuisance -= mean * (mean @ nuisance) / (mean @ mean).clamp(min=1e-12)
        return torch.stack([nuisance, mean + nuisance])


def apart(live: LiveModel, estimator: Estimator, needs: EstimatorNeeds | None = None) -> list:
    classes = {"positive": as_examples(WARM), "negative": as_examples(COLD)}
    positions = Positions.parse("instruction")
    return separation(live, estimator, needs or EstimatorNeeds(), classes, classes, positions, progress=False)


def test_a_direction_of_rank_2_is_measured_by_its_whole_span(llama: LiveModel) -> None:
    from steerkit_estimators._mean_difference import MeanDifference
    from steerkit_estimators.mean_difference import MeanDifferenceOptions

    single = apart(llama, MeanDifference(MeanDifferenceOptions()))
    both = apart(llama, Planted({}))
    for one, two in zip(single, both, strict=True):
        assert one.auroc is not None and two.auroc is not None
        # The span holds the mean difference, and the training rows are those that are seen.
        assert two.auroc >= one.auroc - 1e-9
        assert (one.rank, two.rank) == (1, 2)


def test_fishers_discriminant_by_hand() -> None:
    torch.manual_seed(0)
    noise = torch.randn(400, 3, dtype=torch.float64) * torch.tensor([5.0, 1.0, 1.0], dtype=torch.float64)
    gap = torch.tensor([2.0, 1.0, 7.0], dtype=torch.float64)
    positive, negative = noise[:200] + gap, noise[200:]
    span = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    found = discriminant(span, positive, negative)
    assert found is not None
    within = (torch.cov(positive.T) + torch.cov(negative.T))[:2, :2] / 2
    expected = torch.linalg.solve(within, (positive.mean(0) - negative.mean(0))[:2])
    assert torch.allclose(found[:2], expected / expected.norm(), atol=1e-4)
    assert found[2] == 0
    assert discriminant(span, positive, positive) is None
    # One example a class, no spread at all: what tells them apart is the difference.
    assert discriminant(span, positive[:1], negative[:1]) is not None


def test_projections_that_differ_by_rounding_alone_are_told() -> None:
    generator = torch.Generator().manual_seed(0)
    same = torch.randn(1, 16, generator=generator) * 50
    noise = torch.randn(2, 6, 16, generator=generator)

    def measured(size: float) -> Separation:
        read = {
            name: ClassStatistics(6, rows.double().mean(0), None, rows, torch.ones(6, dtype=torch.long))
            for name, rows in zip(("positive", "negative"), (same + noise * size).float(), strict=True)
        }
        vectors = (read["positive"].mean - read["negative"].mean)[None]
        return _separation_at_site(Site("resid_pre", 0), 0, vectors, read, read)

    of_noise, of_more, of_nothing = measured(2e-5), measured(2e-2), measured(0.0)
    assert of_noise.only_rounding is True and of_noise.auroc is not None
    assert of_more.only_rounding is None and of_more.auroc is not None
    assert of_nothing.only_rounding is None and of_nothing.reason == "the estimate is zero there."


class Refuses(Estimator[NoOptions]):
    """The difference of means; raises where there is none, as some estimators do."""

    def estimate(self, request: EstimationRequest) -> Estimate:
        (site,) = request.sites
        mean = request.statistics[site]["positive"].mean - request.statistics[site]["negative"].mean
        if not bool(mean.any()):
            raise DataError("Check that positive and negative name different prompts.")
        return Estimate({site: mean[None]})


@pytest.mark.parametrize("refuses", [True, False])
def test_before_the_first_block_a_token_of_the_template_is_said_to_be_no_mistake(
    llama: LiveModel, refuses: bool
) -> None:
    from steerkit_estimators._mean_difference import MeanDifference
    from steerkit_estimators.mean_difference import MeanDifferenceOptions

    estimator: Estimator[Any] = Refuses(NoOptions()) if refuses else MeanDifference(MeanDifferenceOptions())

    def rows(positive: list[str], negative: list[str], where: str) -> list[Separation]:
        classes = {"positive": as_examples(positive), "negative": as_examples(negative)}
        positions = Positions.parse(where)
        return separation(llama, estimator, EstimatorNeeds(), classes, classes, positions, progress=False)

    first, *further = rows(WARM, COLD, "-1")
    assert first.auroc is None and first.reason.startswith("the token read there is the same in every prompt")
    assert "no mistake" in first.reason and all(row.auroc is not None and not row.reason for row in further)
    # Where the classes are alike and their prompts differ, it is a mistake.
    alike, *_ = rows(WARM, WARM, "instruction[-1]")
    assert alike.auroc is None and alike.reason and "no mistake" not in alike.reason


def test_a_zero_estimate_is_not_measured_and_says_so(llama: LiveModel) -> None:
    rows = apart(llama, Planted({"at": torch.zeros(1, llama.layout.d_model)}))
    assert {(row.auroc, row.d_prime, row.norm, row.reason) for row in rows} == {
        (None, None, 0.0, "the estimate is zero there.")
    }


def test_an_estimator_that_chooses_its_own_sites_is_not_measured_layer_by_layer(llama: LiveModel) -> None:
    rows = apart(llama, Planted({}), EstimatorNeeds(sites=("blocks.1.resid_pre",)))
    assert {row.auroc for row in rows} == {None}
    assert all("one site after the other" in row.reason for row in rows)
