from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

import steerkit_estimators.difference_subspace as plugin
from steerkit.api.architecture import Block, Layout, Tap
from steerkit.api.estimator import ClassStatistics, Estimate, EstimationRequest, Series
from steerkit.engine.reading.requests import estimate_checked
from steerkit.errors import DataError, PluginError
from steerkit.testing import EstimatorSuite
from steerkit.types import Example, Positions, Site
from steerkit_estimators._difference_subspace import DifferenceSubspace
from steerkit_estimators._mean_difference import MeanDifference
from steerkit_estimators.mean_difference import MeanDifferenceOptions

SITE = Site("resid_pre", 0)
D = 12
LAYOUT = Layout(D, "model", Tap("embed"), tuple(Block(f"blocks.{n}", ()) for n in range(4)), "norm", "head")
AXES = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q.T


class TestOverPositions(EstimatorSuite):
    plugin = plugin


class TestOverCategories(EstimatorSuite):
    """All examples are of one topic, so that there is one difference."""

    plugin = plugin
    settings: ClassVar[dict[str, Any]] = {"over": "topic"}

    def examples(self) -> dict[str, tuple[Example, ...]]:
        plain = super().examples()
        return {label: tuple(replace(one, fields={"topic": "all"}) for one in given) for label, given in plain.items()}


def statistics(rows: torch.Tensor, tokens: list[int] | None = None) -> ClassStatistics:
    counts = torch.tensor(tokens) if tokens else torch.ones(len(rows), dtype=torch.long)
    return ClassStatistics(len(rows), rows.double().mean(0), None, rows, counts)


def topics(*names: str | None) -> tuple[Example, ...]:
    plain = (Example.of(f"prompt {at}") for at in range(len(names)))
    return tuple(replace(one, fields={"topic": name} if name else {}) for one, name in zip(plain, names, strict=True))


def request(
    positive: ClassStatistics, negative: ClassStatistics, examples: dict[str, tuple[Example, ...]] | None = None
) -> EstimationRequest:
    classes = {"positive": positive, "negative": negative}
    return EstimationRequest(
        (SITE,), Positions("post_instruction"), LAYOUT, statistics={SITE: classes}, examples=examples or {}
    )


def estimate(asked: EstimationRequest, **options: object) -> Estimate:
    return DifferenceSubspace(plugin.DifferenceSubspaceOptions(**options)).estimate(asked)  # type: ignore[arg-type]


def by_topic(differences: list[torch.Tensor], each: int = 3) -> EstimationRequest:
    """Three examples of each topic around a common centre, and a reference class of other topics."""
    noise = torch.randn(len(differences) * each, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = noise.unflatten(0, (-1, each))
    noise = (noise - noise.mean(1, keepdim=True)).flatten(0, 1)  # no noise in the means, so that they are exact
    centre = AXES[-1] * 7
    rows = torch.stack([one for one in differences for _ in range(each)]) + noise + centre
    names = [f"topic {at}" for at in range(len(differences)) for _ in range(each)]
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(2)).tolist()
    examples = {"positive": topics(*(names[at] for at in order)), "negative": topics("cooking", "travel")}
    reference = torch.stack([centre + AXES[5], centre - AXES[5]])
    return request(statistics(rows[order]), statistics(reference), examples)


def test_directions_come_in_the_order_of_what_they_make_up_and_as_long_as_differences_are_along_them() -> None:
    found = estimate(by_topic([AXES[0] * 3, AXES[1] * -5, AXES[2] * 2]), over="topic", rank=3)
    expected = torch.stack([AXES[1] * -5, AXES[0] * 3, AXES[2] * 2]) / 3**0.5
    assert torch.allclose(found.vectors[SITE], expected, atol=1e-9)
    squares = torch.tensor([25.0, 9.0, 4.0], dtype=torch.float64)
    told = found.diagnostics["share of the differences' squares"]
    assert isinstance(told, Series) and told.over == "vector" and told.at == (1, 2, 3)
    assert torch.allclose(torch.tensor(told.values, dtype=torch.float64), squares / squares.sum())


def test_what_all_differences_have_in_common_is_one_direction() -> None:
    """A behaviour that one direction carries leaves nothing for a second one."""
    same = by_topic([AXES[3] * 4] * 5)
    found = estimate(same, over="topic").vectors[SITE]
    assert torch.allclose(found, AXES[3:4] * 4, atol=1e-9)
    with pytest.raises(DataError, match=r"5 differences over topic span 1 direction.*Write rank: 1 at most"):
        estimate(same, over="topic", rank=2)


def test_topics_of_both_classes_are_compared_each_with_its_own() -> None:
    names = ("sea", "sky", "sea", "sky")
    shift = torch.stack([AXES[8] * 9, AXES[9] * 9, AXES[8] * 9, AXES[9] * 9])  # what topics differ in, in both classes
    gap = torch.stack([AXES[0] * 2, AXES[1] * 1] * 2)
    asked = request(
        statistics(shift + gap), statistics(shift), {"positive": topics(*names), "negative": topics(*names)}
    )
    found = estimate(asked, over="topic", rank=2).vectors[SITE]
    assert torch.allclose(found, torch.stack([AXES[0] * 2, AXES[1]]) / 2**0.5, atol=1e-9)


def test_over_positions_each_token_is_a_difference() -> None:
    at_tokens = torch.stack([AXES[0] * 3, AXES[1] * 1])
    shift = torch.randn(4, 1, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    negative = (shift + torch.zeros(4, 2, D)).flatten(0, 1)
    positive = (shift + at_tokens).flatten(0, 1)
    asked = request(statistics(positive, [2] * 4), statistics(negative, [2] * 4))
    found = estimate(asked, rank=2).vectors[SITE]
    assert torch.allclose(found, at_tokens / 2**0.5, atol=1e-9)


def test_one_difference_is_the_mean_difference() -> None:
    rows = torch.randn(2, 9, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    asked = request(statistics(rows[0]), statistics(rows[1]))
    plain = MeanDifference(MeanDifferenceOptions()).estimate(asked).vectors[SITE]
    assert torch.allclose(estimate(asked).vectors[SITE], plain, atol=1e-12)


def test_positions_that_are_other_numbers_of_tokens_are_refused() -> None:
    rows = torch.randn(5, D, generator=torch.Generator().manual_seed(4))
    with pytest.raises(DataError, match="2 to 3 tokens of a prompt"):
        estimate(request(statistics(rows, [2, 3]), statistics(rows[:4], [2, 2])))


def test_an_example_without_the_field_is_refused_and_told_beforehand() -> None:
    asked = by_topic([AXES[0], AXES[1]], each=1)
    lacking = replace(asked, examples={**asked.examples, "positive": topics("sea", None)})
    with pytest.raises(DataError, match="a positive example has no field 'topic'"):
        estimate(lacking, over="topic")
    lacks: Callable[..., Any] = plugin.steerkit_estimators()[0].lacks

    def told(over: str, rank: int = 1) -> Any:
        return lacks(plugin.DifferenceSubspaceOptions(over=over, rank=rank), asked.examples)

    assert told("topic", 2) is None and told("positions", 99) is None
    assert told("topic", 3).option == "rank" and "2 values of 'topic'" in told("topic", 3).what
    assert told("topics").option == "over" and "Did you mean 'topic'?" in told("topics").what


def test_an_estimator_gives_as_many_vectors_as_its_needs_say() -> None:
    asked = by_topic([AXES[0] * 3, AXES[1]])
    solver = DifferenceSubspace(plugin.DifferenceSubspaceOptions(over="topic", rank=2))
    needs = plugin.steerkit_estimators()[0].needs(solver.options)
    assert needs.rank == 2
    assert estimate_checked(solver, asked, needs).vectors[SITE].shape == (2, D)
    with pytest.raises(PluginError, match="gave 2 vectors at a site, and its needs say 3"):
        estimate_checked(solver, asked, replace(needs, rank=3))
