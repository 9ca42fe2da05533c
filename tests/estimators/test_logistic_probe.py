from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

import steerkit_estimators._logistic_probe as implementation
import steerkit_estimators.logistic_probe as plugin
from steerkit.api.architecture import Block, Layout, Tap
from steerkit.api.estimator import ClassStatistics, Estimate, EstimationRequest, Series
from steerkit.api.hookspecs import EstimatorNeeds
from steerkit.engine.reading.requests import estimate_where_possible
from steerkit.errors import DataError
from steerkit.testing import EstimatorSuite
from steerkit.types import Positions, Site
from steerkit_estimators._logistic_probe import LogisticProbe

SITE = Site("resid_pre", 0)
D = 12
LAYOUT = Layout(D, "model", Tap("embed"), tuple(Block(f"blocks.{n}", ()) for n in range(4)), "norm", "head")


class TestConformance(EstimatorSuite):
    plugin = plugin


def statistics(rows: torch.Tensor, tokens: list[int] | None = None) -> ClassStatistics:
    counts = torch.tensor(tokens) if tokens else torch.ones(len(rows), dtype=torch.long)
    return ClassStatistics(len(rows), rows.double().mean(0), None, rows, counts)


def estimate(positive: torch.Tensor, negative: torch.Tensor, seed: int = 0, **options: object) -> Estimate:
    classes = {"positive": statistics(positive), "negative": statistics(negative)}
    request = EstimationRequest((SITE,), Positions("last"), LAYOUT, seed, statistics={SITE: classes})
    return LogisticProbe(plugin.LogisticProbeOptions(**options)).estimate(request)  # type: ignore[arg-type]


def samples(n: int = 60, apart: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(D, D, generator=generator) * torch.logspace(-1, 1, D)
    noise = torch.randn(2, n, D, generator=generator) @ mixing.T
    gap = mixing @ torch.ones(D) * apart
    return noise[0] + gap, noise[1]


def test_equals_a_plain_regression_on_standardised_features_mapped_back() -> None:
    positive, negative = samples(n=40)
    found = estimate(positive, negative, regularisation=(0.01,)).vectors[SITE][0].numpy()
    rows = torch.cat([positive, negative]).double().numpy()
    spread = np.sqrt((positive.double().numpy().var(0) + negative.double().numpy().var(0)) / 2)
    model = LogisticRegression(C=0.01, class_weight="balanced", tol=1e-10, max_iter=100_000)
    model.fit((rows - rows.mean(0)) / spread, [1] * 40 + [0] * 40)
    weights = model.coef_[0] / spread
    unit = weights / np.linalg.norm(weights)
    expected = unit * (unit @ (positive.double().mean(0) - negative.double().mean(0)).numpy())
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_adding_it_once_carries_one_class_mean_to_the_other_along_it() -> None:
    positive, negative = samples()
    vector = estimate(positive, negative).vectors[SITE][0]
    unit = vector / vector.norm()
    gap = (positive.double().mean(0) - negative.double().mean(0)) @ unit
    assert float(vector.norm()) == pytest.approx(float(gap))
    assert float(gap) > 0


def test_reads_the_class_through_a_nuisance_that_the_mean_difference_follows() -> None:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(2, 400, D, generator=generator)
    # A loud feature that differs a little between the classes by chance of its size, and a quiet one that tells them.
    noise[..., 0] *= 100
    noise[..., 1] *= 0.1
    positive, negative = noise[0].clone(), noise[1]
    positive[:, 1] += 1.0
    quiet = torch.zeros(D, dtype=torch.float64)
    quiet[1] = 1
    probe = estimate(positive, negative).vectors[SITE][0]
    difference = positive.double().mean(0) - negative.double().mean(0)
    assert float(probe @ quiet / probe.norm()) > 0.95
    assert float(difference @ quiet / difference.norm()) < 0.5


def test_says_how_accurate_it_is_on_examples_that_it_did_not_see() -> None:
    told = estimate(*samples(apart=0.8)).diagnostics["cross-validated accuracy"]
    assert isinstance(told, Series)
    assert told.at == (str(SITE),) and told.over == "site"
    assert told.values[0] > 0.8
    # Of noise in as many dimensions as examples nothing can be read, though a regression on them would be perfect.
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2, 10, D, generator=generator)
    guessed = estimate(noise[0], noise[1]).diagnostics["cross-validated accuracy"]
    assert isinstance(guessed, Series)
    assert guessed.values[0] < 0.8


def test_of_equally_accurate_penalties_the_strongest_is_taken() -> None:
    positive, negative = samples(apart=50.0)
    chosen = estimate(positive, negative, regularisation=(1.0, 1e-3, 10.0)).diagnostics["regularisation C"]
    assert isinstance(chosen, Series)
    assert chosen.values == (1e-3,)


def test_the_seed_deals_the_folds_and_nothing_else_is_drawn() -> None:
    positive, negative = samples(apart=0.2)
    first, again = estimate(positive, negative, seed=5), estimate(positive, negative, seed=5)
    assert torch.equal(first.vectors[SITE], again.vectors[SITE])
    accuracies = {
        estimate(positive, negative, seed=seed).diagnostics_as_json()["cross-validated accuracy"]["values"][0]
        for seed in range(4)
    }
    assert len(accuracies) > 1


def test_an_example_of_several_tokens_is_one_row() -> None:
    positive, negative = samples(n=30)
    doubled = torch.stack([positive + 3, positive - 3], 1).reshape(-1, D)
    classes = {"positive": statistics(doubled, [2] * 30), "negative": statistics(negative)}
    request = EstimationRequest((SITE,), Positions("last"), LAYOUT, statistics={SITE: classes})
    found = LogisticProbe(plugin.LogisticProbeOptions()).estimate(request).vectors[SITE]
    assert torch.allclose(found, estimate(positive, negative).vectors[SITE], rtol=1e-3)


def test_one_example_is_too_few() -> None:
    positive, negative = samples(n=8)
    with pytest.raises(DataError, match="the positive class has 1 example"):
        estimate(positive[:1], negative)


def several(n: int, fails: int | None = None) -> EstimationRequest:
    """A request at some sites; at one of them both classes may be alike."""
    generator = torch.Generator().manual_seed(2)
    read = {}
    for layer in range(n):
        rows = torch.randn(2, 12, D, generator=generator)
        rows[0, :, 0] += 2
        read[Site("resid_pre", layer)] = {
            "positive": statistics(rows[0]),
            "negative": statistics(rows[0] if layer == fails else rows[1]),
        }
    return EstimationRequest(tuple(read), Positions("last"), LAYOUT, statistics=read)


def test_says_how_many_sites_are_done() -> None:
    told: list[tuple[int, int]] = []
    request = replace(several(3), progress=lambda done, of: told.append((done, of)))
    LogisticProbe(plugin.LogisticProbeOptions()).estimate(request)
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_it_works_on_one_thread_and_gives_the_others_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    seen: list[list[int]] = []
    fitted = implementation._fitted
    monkeypatch.setattr(implementation, "_fitted", lambda *given: seen.append(threads()) or fitted(*given))
    with threadpool_limits(2):
        before = threads()
        LogisticProbe(plugin.LogisticProbeOptions()).estimate(several(1))
        assert threads() == before
    assert seen and {n for pools in seen for n in pools} == {1}


def test_no_weaker_penalty_is_tried_where_a_stronger_one_makes_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[float] = []
    fitted = implementation._fitted
    monkeypatch.setattr(implementation, "_fitted", lambda *given: tried.append(given[-1]) or fitted(*given))
    positive, negative = samples(apart=50.0)
    found = estimate(positive, negative, regularisation=(1.0, 1e-3, 10.0), folds=4)
    assert tried == [1e-3] * 5  # four folds, and all of them
    assert found.diagnostics_as_json()["cross-validated accuracy"]["values"] == [1.0]


def test_a_site_without_a_direction_costs_the_others_no_second_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = LogisticProbe(plugin.LogisticProbeOptions())
    fitted: list[Site] = []
    one = probe._probe
    monkeypatch.setattr(probe, "_probe", lambda classes, site, seed: fitted.append(site) or one(classes, site, seed))
    request = several(4, fails=2)
    found, left_out = estimate_where_possible(probe, request, EstimatorNeeds(statistics="rows"), set())
    assert list(left_out) == ["blocks.2.resid_pre"] and len(found.vectors) == 3
    assert sorted(site.layer or 0 for site in fitted) == [0, 1, 2, 2, 3]
    # What is remembered is what was shown: other rows, or another seed, are fitted anew.
    fitted.clear()
    again = LogisticProbe(plugin.LogisticProbeOptions()).estimate(several(1))
    assert torch.equal(found.vectors[SITE], again.vectors[SITE])
    probe.estimate(replace(several(1), seed=3))
    assert fitted == [SITE]
