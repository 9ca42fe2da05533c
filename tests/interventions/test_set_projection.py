from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import steerkit_interventions.affine_concept_editing as affine
import steerkit_interventions.set_projection as plugin
from steerkit.api.direction import Direction
from steerkit.engine.lowering.algebra import apply_update
from steerkit.errors import AttachError, DataError
from steerkit.testing import InterventionSuite
from steerkit.testing.intervention import tiny_layout
from steerkit.types import Site
from steerkit_interventions._affine_concept_editing import AffineConceptEditing
from steerkit_interventions._set_projection import SetProjection

SITE = Site("resid_pre", 1)
LAYOUT = tiny_layout()


class TestOneVector(InterventionSuite):
    plugin = plugin
    # A value of 0 removes the component, which isn't nothing.
    zero = None
    settings: ClassVar[dict[str, Any]] = {"value": -3.0}

    def definition(self, x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        unit = vectors[0] / vectors[0].norm()
        return x + (-3.0 - x @ unit)[..., None] * unit


class TestNormsOfTheDirection(InterventionSuite):
    plugin = plugin
    zero = None
    settings: ClassVar[dict[str, Any]] = {"value": 1.5, "units": "direction"}

    def definition(self, x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        v = vectors[0]
        return x - (x @ v)[..., None] * v / (v @ v) + 1.5 * v


class TestSeveralVectors(InterventionSuite):
    plugin = plugin
    zero = None
    rank = 3
    settings: ClassVar[dict[str, Any]] = {"value": [2.0, 0.0, -1.0]}

    def definition(self, x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        unit = vectors / vectors.norm(dim=1, keepdim=True)
        # The least change after which x·u_k = τ_k.
        dual = torch.linalg.pinv(unit).T
        return x + (torch.tensor([2.0, 0.0, -1.0], dtype=x.dtype) - x @ unit.T) @ dual


def set_projection(vectors: torch.Tensor, value: object, units: Any = "stream") -> SetProjection:
    options = plugin.SetProjectionOptions(value=value, units=units)
    return SetProjection(options, Direction(vectors, SITE, name="d"))


def test_by_hand() -> None:
    update = set_projection(torch.tensor([[0.0, 5.0]]), 2.0).update(SITE, LAYOUT)
    assert apply_update(update, torch.tensor([[1.0, 7.0], [3.0, -4.0]])).tolist() == [[1.0, 2.0], [3.0, 2.0]]


def test_oblique_vectors_by_hand() -> None:
    # u₂ is the diagonal: x·u₂ = 0 and x·u₁ = 1 in the plane hold at (1, −1) only.
    update = set_projection(torch.tensor([[2.0, 0, 0], [3.0, 3.0, 0]]), [1.0, 0.0]).update(SITE, LAYOUT)
    assert torch.allclose(apply_update(update, torch.tensor([9.0, 8.0, 7.0])), torch.tensor([1.0, -1.0, 7.0]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=1, max_size=4), st.booleans(), st.integers(0, 2**31))
def test_every_projection_has_its_value_and_the_rest_stays(values: list[float], norms: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(values), 8, generator=generator, dtype=torch.float64)
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    if float(torch.linalg.svdvals(unit).min()) < 1e-2:
        return
    x = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    new = apply_update(set_projection(vectors, values, "direction" if norms else "stream").update(SITE, LAYOUT), x)
    expected = torch.tensor(values, dtype=torch.float64) * (vectors.norm(dim=1) if norms else 1.0)
    assert torch.allclose(new @ unit.T, expected.expand(5, -1), rtol=1e-9, atol=1e-9)
    rest = torch.linalg.svd(unit).Vh[len(values) :]
    assert torch.allclose(new @ rest.T, x @ rest.T, rtol=1e-9, atol=1e-9)


def test_one_number_is_for_every_vector() -> None:
    update = set_projection(3 * torch.eye(3)[:2], 2.0).update(SITE, LAYOUT)
    assert torch.allclose(apply_update(update, torch.tensor([7.0, 8.0, 9.0])), torch.tensor([2.0, 2.0, 9.0]))


def test_zero_removes_the_component_without_a_constant() -> None:
    update = set_projection(torch.tensor([[3.0, 0.0]]), 0).update(SITE, LAYOUT)
    assert update.bias is None
    assert apply_update(update, torch.tensor([4.0, 5.0])).tolist() == [0.0, 5.0]


def test_affine_concept_editing_sets_a_projection_too() -> None:
    generator = torch.Generator().manual_seed(5)
    vector, mean, x = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    direction = Direction(vector, SITE, reference_mean=mean)
    edited = AffineConceptEditing(affine.AffineConceptEditingOptions(coefficient=0.3), direction).update(
        SITE, tiny_layout()
    )
    value = float(mean @ vector / vector.norm() + 0.3 * vector.norm())
    update = set_projection(vector, value).update(SITE, LAYOUT)
    assert torch.allclose(apply_update(update, x), apply_update(edited, x), rtol=0, atol=1e-12)


def test_default_site_is_where_the_direction_was_estimated() -> None:
    assert set_projection(torch.ones(1, 4), 1.0).default_sites(None) == (SITE,)  # type: ignore[arg-type]


def test_dependent_vectors_are_refused() -> None:
    dependent = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0], [2.0, 5.0, 6.0]])
    with pytest.raises(DataError, match="set_projection: the 3 vectors of direction 'd' are linearly dependent"):
        set_projection(dependent, 1.0).update(SITE, LAYOUT)


@pytest.mark.parametrize(
    ("row", "said"), [(torch.zeros(4), "is zero"), (torch.tensor([1.0, float("inf"), 0, 0]), "is NaN or infinite")]
)
def test_vectors_that_span_nothing_are_refused(row: torch.Tensor, said: str) -> None:
    made = set_projection(torch.ones(2, 4), 1.0)
    made.direction.vectors[1] = row  # after it was made: no direction is made of infinite values
    with pytest.raises(DataError, match=f"set_projection: vector 1 of direction 'd' {said}"):
        made.update(SITE, LAYOUT)


def test_a_list_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(AttachError, match="set_projection: 2 values for direction 'd' of rank 1"):
        set_projection(torch.ones(1, 4), [1.0, 2.0]).update(SITE, LAYOUT)


@pytest.mark.parametrize("value", [float("nan"), [1.0, float("inf")], "one", True, [], None])
def test_bad_values_say_what_to_write(value: object) -> None:
    with pytest.raises(ValidationError, match=r"write a number such as 4\.0") as caught:
        plugin.SetProjectionOptions(value=value)
    assert caught.value.error_count() == 1


def test_the_value_is_required_and_units_are_two() -> None:
    with pytest.raises(ValidationError, match="value"):
        plugin.SetProjectionOptions()
    with pytest.raises(ValidationError, match="'stream' or 'direction'"):
        plugin.SetProjectionOptions(value=1.0, units="norm")
