from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError

import steerkit_interventions.affine_concept_editing as plugin
from steerkit.api.direction import Direction
from steerkit.api.intervention import Placement
from steerkit.engine.lowering.algebra import apply_update
from steerkit.errors import AttachError, DataError
from steerkit.testing import InterventionSuite
from steerkit.testing.intervention import seen, small_model, steered, tiny_layout
from steerkit.types import Site
from steerkit_interventions._affine_concept_editing import AffineConceptEditing

SITE = Site("resid_pre", 1)
LAYOUT = tiny_layout()
MEAN = 3 * torch.randn(32, generator=torch.Generator().manual_seed(9))


class WithMean(InterventionSuite):
    plugin = plugin
    # Coefficient 0 gives the reference class's mean, which isn't nothing.
    zero = None

    def direction(self, number: int = 0) -> Direction:
        made = super().direction(number)
        assert made is not None
        return Direction(made.vectors, made.site, name=made.name, reference_mean=MEAN)


class TestOneVector(WithMean):
    settings: ClassVar[dict[str, Any]] = {"coefficient": 0.7}

    def definition(self, x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        # The paper's formula, term by term.
        r = vectors[0]
        projected = (x @ r)[..., None] * r / (r @ r)
        reference = (MEAN.double() @ r) * r / (r @ r)
        return x - projected + reference + 0.7 * r


class TestReferenceClassOfASubspace(WithMean):
    rank = 3
    settings: ClassVar[dict[str, Any]] = {"coefficient": 0.0}

    def definition(self, x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        away = (x - MEAN.double()).reshape(-1, x.shape[-1])
        solved = torch.linalg.lstsq(vectors.T, away.T, driver="gelsd").solution
        return x - (vectors.T @ solved).T.reshape(x.shape)


class TestACoefficientForEachVector(WithMean):
    rank = 2
    settings: ClassVar[dict[str, Any]] = {"coefficient": [1.0, -2.0]}

    def definition(self, x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        projector = vectors.T @ torch.linalg.inv(vectors @ vectors.T) @ vectors
        return x - (x - MEAN.double()) @ projector + vectors[0] - 2.0 * vectors[1]


def editing(direction: Direction, coefficient: object = 1.0) -> AffineConceptEditing:
    return AffineConceptEditing(plugin.AffineConceptEditingOptions(coefficient=coefficient), direction)


def classes() -> tuple[torch.Tensor, torch.Tensor, Direction]:
    generator = torch.Generator().manual_seed(3)
    negative, positive = 5 * torch.randn(2, 16, generator=generator, dtype=torch.float64)
    return negative, positive, Direction(positive - negative, SITE, name="d", reference_mean=negative)


def test_each_class_mean_is_left_where_the_coefficient_puts_its_class() -> None:
    negative, positive, direction = classes()
    kept = apply_update(editing(direction, 0.0).update(SITE, LAYOUT), negative)
    assert torch.allclose(kept, negative, rtol=0, atol=1e-12)
    kept = apply_update(editing(direction, 1.0).update(SITE, LAYOUT), positive)
    assert torch.allclose(kept, positive, rtol=0, atol=1e-12)


@pytest.mark.parametrize("coefficient", [-0.5, 0.0, 0.25, 1.0, 2.0])
def test_whatever_came_in_lies_between_the_classes_as_told(coefficient: float) -> None:
    negative, positive, direction = classes()
    x = torch.randn(7, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    new = apply_update(editing(direction, coefficient).update(SITE, LAYOUT), x)
    axis = positive - negative
    expected = (1 - coefficient) * (negative @ axis) + coefficient * (positive @ axis)
    assert torch.allclose(new @ axis, expected.expand(7), rtol=1e-12)
    # What is orthogonal to the direction stays.
    assert torch.allclose((new - x) - ((new - x) @ axis)[:, None] * axis / (axis @ axis), torch.zeros(7, 16).double())


def test_the_default_adds_the_direction_once() -> None:
    assert plugin.AffineConceptEditingOptions().coefficient == 1.0


def test_dependent_vectors_are_removed_once_and_added_each() -> None:
    direction = Direction(torch.tensor([[2.0, 0, 0], [1.0, 0, 0]]), SITE, reference_mean=torch.tensor([4.0, 5.0, 6.0]))
    update = editing(direction).update(SITE, LAYOUT)
    assert update.reads is not None and update.reads.shape == (1, 3)
    assert torch.allclose(apply_update(update, torch.tensor([9.0, 8.0, 7.0])), torch.tensor([7.0, 8.0, 7.0]))


@pytest.mark.parametrize(
    ("own", "acts"),
    [
        ("blocks.2.resid_pre", "blocks.2.resid_pre"),
        ("blocks.0.resid_post", "blocks.1.resid_pre"),
        ("embed", "blocks.0.resid_pre"),
    ],
)
def test_default_site_is_the_place_of_the_reference_mean(own: str, acts: str) -> None:
    direction = Direction(torch.ones(1, 32), Site.parse(own), reference_mean=torch.zeros(32))
    assert editing(direction).default_sites(tiny_layout()) == (Site.parse(acts),)


@pytest.mark.parametrize("own", ["blocks.2.resid_post", "blocks.1.mlp_out", "blocks.1.attn_out", "blocks.1.resid_mid"])
def test_a_mean_of_another_place_needs_named_sites(own: str) -> None:
    direction = Direction(torch.ones(1, 32), Site.parse(own), reference_mean=torch.zeros(32), name="d")
    with pytest.raises(AttachError, match=f"direction 'd' .* estimated at {own}. .* name the resid_pre sites"):
        editing(direction).default_sites(tiny_layout())
    options = plugin.AffineConceptEditingOptions()
    named = Placement(AffineConceptEditing(options, direction), (Site("resid_pre", 0), SITE))
    assert named.sites_on(tiny_layout()) == (Site("resid_pre", 0), SITE)


@pytest.mark.parametrize("site", ["embed", "blocks.1.attn_out", "blocks.1.mlp_out", "blocks.1.resid_mid"])
def test_only_the_whole_stream_takes_a_constant(site: str) -> None:
    direction = Direction(torch.ones(1, 32), SITE, reference_mean=torch.zeros(32))
    layer = max(Site.parse(site).layer, 0)
    with pytest.raises(AttachError, match=f"can't act at {site}: .* add up .* blocks.{layer}.resid_pre"):
        editing(direction).update(Site.parse(site), LAYOUT)


def test_at_every_resid_pre_the_constant_does_not_add_up() -> None:
    model, layout = small_model(), tiny_layout()
    direction = Direction(torch.randn(32, generator=torch.Generator().manual_seed(2)), SITE, reference_mean=MEAN)
    made = AffineConceptEditing(plugin.AffineConceptEditingOptions(), direction)
    everywhere = Placement(made, layout.sites_of("resid_pre"))
    unit = direction.vectors[0] / direction.vectors[0].norm()
    for site in layout.sites_of("resid_pre"):
        with steered(model, [everywhere]):
            found = seen(model, layout.tap(site)) @ unit
        expected = MEAN @ unit + direction.vectors[0].norm()
        assert torch.allclose(found, expected.expand_as(found), atol=1e-4)


def test_a_direction_without_a_reference_mean_is_refused() -> None:
    with pytest.raises(DataError, match=r"'d' has no reference mean.*estimate_direction.*reference_mean=\.\.\."):
        editing(Direction(torch.ones(1, 4), SITE, name="d")).update(SITE, LAYOUT)


@pytest.mark.parametrize(
    ("mean", "said"),
    [
        (torch.ones(5), r"reference mean of direction 'd' has shape \[5\], and its vectors have width 4"),
        (torch.ones(1, 4), r"has shape \[1, 4\]"),
        (torch.tensor([1.0, float("nan"), 0, 0]), "reference mean of direction 'd' holds NaN or infinite values"),
    ],
)
def test_a_reference_mean_that_does_not_fit_is_refused(mean: torch.Tensor, said: str) -> None:
    with pytest.raises(DataError, match=said):
        editing(Direction(torch.ones(1, 4), SITE, name="d", reference_mean=mean)).update(SITE, LAYOUT)


def test_a_zero_vector_is_refused_also_with_coefficient_zero() -> None:
    with pytest.raises(DataError, match="affine_concept_editing: vector 0 of direction 'd' is zero"):
        editing(Direction(torch.zeros(1, 4), SITE, name="d", reference_mean=torch.ones(4)), 0.0).update(
            SITE, tiny_layout()
        )


def test_a_list_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(AttachError, match="affine_concept_editing: 2 coefficients for direction 'd' of rank 1"):
        editing(Direction(torch.ones(1, 4), SITE, name="d", reference_mean=torch.ones(4)), [1.0, 2.0]).update(
            SITE, tiny_layout()
        )


@pytest.mark.parametrize("coefficient", [float("nan"), [1.0, float("inf")], "one", True, [], None])
def test_bad_coefficients_say_what_to_write(coefficient: object) -> None:
    with pytest.raises(ValidationError, match=r"write a number such as 4\.0") as caught:
        plugin.AffineConceptEditingOptions(coefficient=coefficient)
    assert caught.value.error_count() == 1
