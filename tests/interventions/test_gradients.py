"""Every first-party intervention is differentiable in its direction."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from steerkit.api.direction import Direction
from steerkit.api.intervention import Intervention
from steerkit.engine.lowering.algebra import apply_update
from steerkit.errors import DataError
from steerkit.testing.intervention import tiny_layout
from steerkit.types import Site
from steerkit_interventions._ablate import Ablate
from steerkit_interventions._add import Add
from steerkit_interventions._affine_concept_editing import AffineConceptEditing
from steerkit_interventions._set_projection import SetProjection
from steerkit_interventions.ablate import AblateOptions
from steerkit_interventions.add import AddOptions
from steerkit_interventions.affine_concept_editing import AffineConceptEditingOptions
from steerkit_interventions.set_projection import SetProjectionOptions

SITE = Site("resid_pre", 1)
LAYOUT = tiny_layout()
Make = Callable[[Direction], Intervention]

MAKERS: dict[str, Make] = {
    "add": lambda direction: Add(AddOptions(coefficient=-1.5), direction),
    "ablate": lambda direction: Ablate(AblateOptions(coefficient=0.8), direction),
    "affine_concept_editing": lambda direction: AffineConceptEditing(
        AffineConceptEditingOptions(coefficient=0.4), direction
    ),
    "set_projection": lambda direction: SetProjection(SetProjectionOptions(value=2.5), direction),
    "set_projection_in_norms": lambda direction: SetProjection(
        SetProjectionOptions(value=-0.5, units="direction"), direction
    ),
}
SPANS = [name for name in MAKERS if name != "add"]


def vectors_of(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    random = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    return {
        "one": random[:1],
        "oblique": random * torch.tensor([[0.1], [1.0], [10.0]], dtype=torch.float64),
        "orthonormal": torch.linalg.qr(random.T).Q.T.contiguous(),
        "axes": 2 * torch.eye(6, dtype=torch.float64)[:3],
    }[kind]


def random(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def result(made: Intervention, x: Tensor) -> Tensor:
    update = made.update(SITE, LAYOUT)
    assert update is not None
    return apply_update(update, x)


@pytest.mark.parametrize("kind", ["one", "oblique", "orthonormal", "axes"])
@pytest.mark.parametrize("name", MAKERS)
def test_gradients_are_those_of_finite_differences(name: str, kind: str) -> None:
    def function(vectors: Tensor, mean: Tensor, x: Tensor) -> Tensor:
        return result(MAKERS[name](Direction(vectors, SITE, reference_mean=mean)), x)

    inputs = [vectors_of(kind), random(6), random(4, 6, seed=3)]
    assert torch.autograd.gradcheck(function, [value.clone().requires_grad_() for value in inputs])


@pytest.mark.parametrize("name", MAKERS)
def test_the_gradient_is_not_a_constant_zero(name: str) -> None:
    vectors = vectors_of("oblique").requires_grad_()
    result(MAKERS[name](Direction(vectors, SITE, reference_mean=random(6))), random(4, 6)).square().sum().backward()
    assert vectors.grad is not None and bool((vectors.grad.abs().sum(1) > 1e-3).all())


@pytest.mark.parametrize("kind", ["one", "oblique"])
@pytest.mark.parametrize("name", MAKERS)
def test_one_intervention_serves_many_steps_of_an_optimiser(name: str, kind: str) -> None:
    vectors = vectors_of(kind).requires_grad_()
    made, x = MAKERS[name](Direction(vectors, SITE, reference_mean=random(6))), random(4, 6)
    with torch.no_grad():
        before = result(made, x)
    # A graph that were kept would be freed by the first pass, and what it gave would be old after the step.
    for _ in range(2):
        loss = result(made, x).sum() + result(made, x).square().sum()
        loss.backward()
    with torch.no_grad():
        vectors -= 0.1 * random(*vectors.shape, seed=5)
        after = result(made, x)
    fresh = MAKERS[name](Direction(vectors.detach().clone(), SITE, reference_mean=random(6)))
    assert torch.equal(after, result(fresh, x)) and not torch.allclose(after, before)


def test_a_reference_mean_can_be_learned_alone() -> None:
    mean = random(6).requires_grad_()
    made, x = MAKERS["affine_concept_editing"](Direction(vectors_of("one"), SITE, reference_mean=mean)), random(4, 6)
    for _ in range(2):
        result(made, x).square().sum().backward()
    before = result(made, x)
    with torch.no_grad():
        mean += random(6, seed=5)
    assert mean.grad is not None and not torch.allclose(result(made, x), before)


@pytest.mark.parametrize("name", SPANS)
def test_constants_are_worked_out_once_for_all_sites(name: str) -> None:
    made = MAKERS[name](Direction(vectors_of("oblique"), SITE, reference_mean=random(6)))
    assert made.update(SITE, LAYOUT) is made.update(Site("resid_pre", 2), LAYOUT)


@pytest.mark.parametrize("name", SPANS)
def test_wanting_a_gradient_changes_no_result(name: str) -> None:
    for kind in ("one", "oblique", "orthonormal"):
        vectors, x = vectors_of(kind), random(4, 6)
        plain = MAKERS[name](Direction(vectors, SITE, reference_mean=random(6)))
        learned = MAKERS[name](Direction(vectors.clone().requires_grad_(), SITE, reference_mean=random(6)))
        assert torch.equal(result(plain, x), result(learned, x).detach())


@pytest.mark.parametrize("name", SPANS)
def test_dependent_vectors_have_no_gradient(name: str) -> None:
    vectors = torch.tensor([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]], requires_grad=True)
    direction = Direction(vectors, SITE, name="d", reference_mean=torch.ones(3))
    with pytest.raises(DataError, match=r"vectors of direction 'd' are linearly dependent, .* Leave out"):
        MAKERS[name](direction).update(SITE, LAYOUT)
