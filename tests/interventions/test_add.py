from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import steerkit_interventions.add as plugin
from steerkit.api.direction import Direction
from steerkit.engine.lowering.algebra import apply_update
from steerkit.errors import AttachError
from steerkit.testing import InterventionSuite
from steerkit.testing.intervention import tiny_layout
from steerkit.types import Site
from steerkit_interventions._add import Add

SITE = Site("resid_pre", 1)
LAYOUT = tiny_layout()


class TestOneVector(InterventionSuite):
    plugin = plugin
    settings: ClassVar[dict[str, Any]] = {"coefficient": 2.5}

    def definition(self, x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return x + 2.5 * vectors[0]


class TestSeveralVectors(InterventionSuite):
    plugin = plugin
    rank = 3
    settings: ClassVar[dict[str, Any]] = {"coefficient": [1.0, -2.0, 0.5]}

    def definition(self, x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return x + vectors[0] - 2.0 * vectors[1] + 0.5 * vectors[2]


def add(vectors: list[list[float]], coefficient: object = 1.0) -> Add:
    return Add(plugin.AddOptions(coefficient=coefficient), Direction(torch.tensor(vectors), SITE))


def test_the_direction_is_added_raw() -> None:
    update = add([[3.0, 4.0]]).update(SITE, LAYOUT)
    assert update is not None
    assert apply_update(update, torch.tensor([[1.0, 1.0], [0.0, -1.0]])).tolist() == [[4.0, 5.0], [3.0, 3.0]]


def test_one_number_multiplies_every_vector() -> None:
    update = add([[1.0, 0.0], [0.0, 2.0]], -2.0).update(SITE, LAYOUT)
    assert update is not None and update.bias is not None
    assert update.bias.tolist() == [-2.0, -4.0]


@pytest.mark.parametrize("zero", [0, 0.0, -0.0, [0.0, 0.0]])
def test_zero_is_no_update(zero: object) -> None:
    assert add([[1.0, 0.0], [0.0, 2.0]], zero).update(SITE, LAYOUT) is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-8, 8).filter(bool), min_size=1, max_size=4), st.integers(0, 2**31))
def test_agrees_with_the_formula_written_as_a_loop(coefficients: list[float], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(coefficients), 5, generator=generator, dtype=torch.float64)
    x = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    update = Add(plugin.AddOptions(coefficient=tuple(coefficients)), Direction(vectors, SITE)).update(
        SITE, tiny_layout()
    )
    assert update is not None
    literal = x.clone()
    for coefficient, vector in zip(coefficients, vectors, strict=True):
        literal = literal + coefficient * vector
    assert torch.allclose(apply_update(update, x), literal, rtol=0, atol=1e-12)


def test_default_site_is_where_the_direction_was_estimated() -> None:
    assert add([[1.0]]).default_sites(None) == (SITE,)  # type: ignore[arg-type]


def test_gradients_reach_the_direction() -> None:
    vectors = torch.ones(1, 4, requires_grad=True)
    update = Add(plugin.AddOptions(coefficient=3.0), Direction(vectors, SITE)).update(SITE, LAYOUT)
    assert update is not None
    apply_update(update, torch.zeros(2, 4)).sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.tolist() == [[6.0] * 4]


def test_a_list_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(AttachError, match="2 coefficients for direction 'direction' of rank 1"):
        add([[1.0]], [1.0, 2.0]).update(SITE, LAYOUT)


@pytest.mark.parametrize(
    ("coefficient", "said"),
    [
        (float("nan"), "nan is not finite"),
        ([1.0, float("inf")], "is not finite"),
        ("four", "'four' is not a coefficient"),
        (True, "True is not a coefficient"),
        ([], r"\[\] is not a coefficient"),
        (None, "None is not a coefficient"),
    ],
)
def test_bad_coefficients_say_what_to_write(coefficient: object, said: str) -> None:
    with pytest.raises(ValidationError, match=said) as caught:
        plugin.AddOptions(coefficient=coefficient)
    assert caught.value.error_count() == 1
