from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import steerkit_interventions.ablate as plugin
from steerkit.api.direction import Direction
from steerkit.api.intervention import Affine, Placement
from steerkit.engine.lowering.algebra import apply_update
from steerkit.errors import AttachError, DataError
from steerkit.stages.condition import random_like
from steerkit.testing import InterventionSuite
from steerkit.testing.intervention import seen, small_model, steered, tiny_layout
from steerkit.types import Positions, Site
from steerkit_interventions._ablate import Ablate

SITE = Site("resid_pre", 1)
LAYOUT = tiny_layout()


def project_out(x: torch.Tensor, vectors: torch.Tensor, fraction: float = 1.0) -> torch.Tensor:
    """The component in the span by least squares, which shares nothing with the implementation."""
    solved = torch.linalg.lstsq(vectors.T, x.reshape(-1, x.shape[-1]).T, driver="gelsd").solution
    return x - fraction * (vectors.T @ solved).T.reshape(x.shape)


class TestOneVector(InterventionSuite):
    plugin = plugin

    def definition(self, x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        # The paper's formula, with its epsilon.
        unit = vectors[0] / (vectors[0].norm() + 1e-8)
        return x - (x @ unit)[..., None] * unit


class TestHalfOfASubspace(InterventionSuite):
    plugin = plugin
    rank = 3
    settings: ClassVar[dict[str, Any]] = {"coefficient": 0.5}

    def definition(self, x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return project_out(x, vectors, 0.5)


def ablate(vectors: torch.Tensor, coefficient: float = 1.0) -> Ablate:
    return Ablate(plugin.AblateOptions(coefficient=coefficient), Direction(vectors, SITE, name="d"))


def applied(made: Ablate, x: torch.Tensor) -> torch.Tensor:
    update = made.update(SITE, LAYOUT)
    assert update is not None
    return apply_update(update, x)


def test_the_norm_plays_no_part() -> None:
    x = torch.tensor([[3.0, 5.0, 1.0]])
    for norm in (1e-3, 1.0, 1e3):
        assert torch.allclose(applied(ablate(torch.tensor([[0.0, norm, 0.0]])), x), torch.tensor([[3.0, 0.0, 1.0]]))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4),
    st.floats(-2, 3).filter(lambda value: abs(value) > 1e-3),
    st.lists(st.floats(-3, 3), min_size=4, max_size=4),
    st.integers(0, 2**31),
)
def test_agrees_with_least_squares(rank: int, fraction: float, magnitudes: list[float], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q[:rank]
    # Well-conditioned but not orthogonal, with norms that differ by up to six orders.
    mixed = basis + 0.3 * torch.randn(rank, rank, generator=generator, dtype=torch.float64).tanh() @ basis
    vectors = mixed * 10.0 ** torch.tensor(magnitudes[:rank], dtype=torch.float64)[:, None]
    x = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    if float(torch.linalg.svdvals(mixed / mixed.norm(dim=1, keepdim=True)).min()) < 1e-2:
        return
    assert torch.allclose(applied(ablate(vectors, fraction), x), project_out(x, mixed, fraction), rtol=0, atol=1e-9)


def test_reads_are_orthonormal_and_do_it_once() -> None:
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    update = ablate(vectors).update(SITE, LAYOUT)
    assert update is not None and update.reads is not None
    assert torch.allclose(update.reads @ update.reads.T, torch.eye(3), atol=1e-6)
    once = apply_update(update, torch.randn(4, 16, generator=torch.Generator().manual_seed(1)))
    assert torch.allclose(apply_update(update, once), once, atol=1e-6)


def test_dependent_vectors_reduce_the_rank() -> None:
    pair = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    dependent = torch.stack([pair[0], pair[1], 2 * pair[0] - 0.1 * pair[1], 1e4 * pair[1]])
    update, plain = ablate(dependent).update(SITE, LAYOUT), ablate(pair).update(SITE, LAYOUT)
    assert update is not None and update.reads is not None and update.reads.shape == (2, 16)
    assert plain is not None
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(apply_update(update, x), apply_update(plain, x), atol=1e-5)


def test_a_small_vector_is_not_a_dependent_one() -> None:
    update = ablate(torch.tensor([[1e6, 0.0, 0.0], [0.0, 1e-6, 0.0]])).update(SITE, LAYOUT)
    assert update is not None and update.reads is not None and update.reads.shape == (2, 3)


def test_two_mirrors() -> None:
    assert torch.allclose(
        applied(ablate(torch.tensor([[0.0, 7.0]]), 2.0), torch.tensor([[1.0, 2.0]])), torch.tensor([[1.0, -2.0]])
    )


def test_zero_is_no_update_even_of_a_zero_vector() -> None:
    assert ablate(torch.zeros(1, 4), 0.0).update(SITE, LAYOUT) is None


@pytest.mark.parametrize(
    ("row", "said"), [(torch.zeros(4), "is zero"), (torch.tensor([1.0, float("nan"), 0, 0]), "is NaN or infinite")]
)
def test_vectors_that_span_nothing_are_refused(row: torch.Tensor, said: str) -> None:
    made = ablate(torch.ones(2, 4))
    made.direction.vectors[1] = row  # after it was made, as a step of training may: no direction is made of NaN
    with pytest.raises(DataError, match=f"vector 1 of direction 'd' {said}"):
        made.update(SITE, LAYOUT)


def test_default_sites_are_everything_that_writes() -> None:
    layout = tiny_layout()
    assert ablate(torch.ones(1, 32)).default_sites(layout) == layout.writer_sites()
    assert len(layout.writer_sites()) == 2 * layout.n_layers + 1


def test_at_every_writer_nothing_of_the_span_is_left_in_any_stream() -> None:
    model, layout = small_model(), tiny_layout()
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(4))
    basis = torch.linalg.qr(vectors.T).Q
    for site in layout.sites():
        with steered(model, [ablate(vectors)]):
            left = seen(model, layout.tap(site)) @ basis
        assert float(left.abs().max()) < 1e-4, f"{site} still holds some of the span."


@pytest.mark.parametrize("coefficient", [float("nan"), float("inf"), "one", True, None])
def test_bad_coefficients_are_refused(coefficient: object) -> None:
    with pytest.raises(ValidationError):
        plugin.AblateOptions(coefficient=coefficient)


def test_the_first_vectors_of_a_direction_are_removed_and_no_more() -> None:
    vectors = torch.randn(3, LAYOUT.d_model, generator=torch.Generator().manual_seed(5))
    x = torch.randn(2, 4, LAYOUT.d_model, generator=torch.Generator().manual_seed(6))
    for rank in (1, 2, 3):
        made = Ablate(plugin.AblateOptions(rank=rank), Direction(vectors, SITE, name="d"))
        assert torch.allclose(applied(made, x), project_out(x, vectors[:rank]), atol=1e-5)
    with pytest.raises(AttachError, match=r"rank 4 of direction 'd', which has 3 at blocks.1.resid_pre"):
        applied(Ablate(plugin.AblateOptions(rank=4), Direction(vectors, SITE, name="d")), x)


def test_a_control_removes_as_many_random_directions() -> None:
    direction = Direction(torch.randn(4, LAYOUT.d_model, generator=torch.Generator().manual_seed(7)), SITE, name="d")
    placement = Placement(Ablate(plugin.AblateOptions(rank=2), direction), None, Positions("all"))
    stand_in = random_like(direction, 0, 1)
    update = placement.with_directions({"d": stand_in}).intervention.update(SITE, LAYOUT)
    assert isinstance(update, Affine) and update.reads is not None and update.reads.shape[0] == 2
    x = torch.randn(2, 4, LAYOUT.d_model, generator=torch.Generator().manual_seed(8))
    assert torch.allclose(apply_update(update, x), project_out(x, stand_in.vectors[:2]), atol=1e-5)
