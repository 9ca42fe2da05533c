"""What training prompts foretell: by literal loops, with planted data, and from the passes that are made anyway."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from steerkit.api.estimator import ClassStatistics
from steerkit.engine.measuring.predictors import agreement, predict
from steerkit.engine.measuring.separation import d_prime
from steerkit.engine.reading import requests
from steerkit.engine.reading.capture import capture
from steerkit.session import estimate_direction
from steerkit.session.model import LiveModel
from steerkit.types import Example, Message, Positions, Site

SITE = Site.parse("blocks.1.resid_pre")
WARM = ["the sun is out", "a warm day today", "sun and sand", "summer heat is here"]
COLD = ["ice on the lake", "a cold night", "snow and wind again"]


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())


def test_agreement_is_the_mean_cosine_with_the_mean() -> None:
    high, low = draw(0, 5, 7) + 1, draw(1, 4, 7) + 1000  # far from the origin: what is common is no agreement
    gaps = [one - other for one in high for other in low]
    mean = torch.stack(gaps).mean(0)
    expected = sum(cosine(gap, mean) for gap in gaps) / len(gaps)
    assert agreement(high, low, paired=False) == pytest.approx(expected, rel=1e-9)
    paired = high[:4] - low
    expected = sum(cosine(gap, paired.mean(0)) for gap in paired) / 4
    assert agreement(high[:4], low, paired=True) == pytest.approx(expected, rel=1e-9)


def test_planted_agreement() -> None:
    push, low = draw(2, 6), draw(3, 8, 6)
    assert agreement(low + push, low, paired=True) == pytest.approx(1.0)
    assert agreement(low + draw(4, 8, 6), low, paired=True) < 0.7  # type: ignore[operator]
    # Half of the pairs go the other way at half the length: (1 - 1) / 2.
    signs = torch.tensor([1.0, -0.5] * 4, dtype=torch.float64)[:, None]
    assert agreement(low + signs * push, low, paired=True) == pytest.approx(0.0, abs=1e-12)
    assert agreement(low, low.clone(), paired=True) is None, "one mean"


def test_a_difference_without_length_is_left_out() -> None:
    low = draw(5, 2, 4)
    assert agreement(torch.stack([low[0], low[1] + 1]), low, paired=True) == pytest.approx(1.0)


def statistics(rows: torch.Tensor) -> ClassStatistics:
    return ClassStatistics(len(rows), rows.mean(0), None, rows.float(), torch.ones(len(rows), dtype=torch.int64))


def examples(pairs: list[int | None]) -> tuple[Example, ...]:
    return tuple(Example((Message("user", f"{at}"),), pair=pair) for at, pair in enumerate(pairs))


def test_pairs_are_told_by_their_numbers_in_any_order() -> None:
    low, push = draw(6, 3, 5), draw(7, 5)
    read = {SITE: {"positive": statistics(low + push), "negative": statistics(low[[2, 0, 1]])}}
    vectors = {SITE: push[None].float()}
    classes: dict[str, Any] = {"positive": examples([4, 5, 6]), "negative": examples([6, 4, 5])}
    (found,) = predict(vectors, read, classes).values()
    assert found.paired and found.agreement == pytest.approx(1.0, abs=1e-6)
    classes = {"positive": examples([None] * 3), "negative": examples([None] * 3)}
    (found,) = predict(vectors, read, classes).values()
    assert not found.paired and found.agreement is not None and found.agreement < 0.99
    assert predict(vectors, {SITE: {"a": read[SITE]["positive"]}}, classes) == {}


def test_separability_is_d_prime_along_the_direction_itself() -> None:
    high, low, vector = draw(8, 6, 5) + 2, draw(9, 4, 5), draw(10, 5)
    read = {SITE: {"positive": statistics(high), "negative": statistics(low)}}
    (found,) = predict({SITE: vector[None]}, read, {}).values()
    unit = vector / vector.norm()
    assert found.d_prime == pytest.approx(d_prime(high @ unit, low @ unit), rel=1e-5)
    assert not math.isclose(found.d_prime or 0, d_prime(high[:, 0], low[:, 0]) or 0)


def test_an_estimate_carries_them_and_costs_no_pass(llama: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(requests, "capture", lambda *a, **k: calls.append(k["kind"]) or capture(*a, **k))
    direction = estimate_direction(llama, positive=WARM, negative=COLD, site=SITE, positions="instruction")
    assert calls == ["mean", "mean"], "one pass for each class, and its sums as ever"
    key = (SITE, Positions("instruction"))
    high, low = (capture(llama, texts, [SITE], [key[1]], kind="rows")[key].prompt_means() for texts in (WARM, COLD))
    unit = direction.vectors[0].double() / direction.vectors[0].double().norm()
    said = direction.provenance["predictors"][str(SITE)]
    assert said["d_prime"] == pytest.approx(d_prime(high @ unit, low @ unit), rel=1e-3)
    assert said["agreement"] == pytest.approx(agreement(high, low, paired=False), rel=1e-4)
    assert said["paired"] is False


def test_the_sums_keep_their_bits(llama: LiveModel) -> None:
    places = [Positions("instruction"), Positions("", (-1,))]
    plain = capture(llama, WARM, [SITE], places, kind="moments")
    beside = capture(llama, WARM, [SITE], places, kind="moments", by_prompt=True)
    rows = capture(llama, WARM, [SITE], places, kind="rows")
    for key, one in plain.items():
        other = beside[key]
        assert one.mean.equal(other.mean) and one.count == other.count and one.rows is None
        assert one.second_moment is not None and one.second_moment.equal(other.second_moment)
        torch.testing.assert_close(other.prompt_means(), rows[key].prompt_means(), rtol=1e-6, atol=1e-6)
