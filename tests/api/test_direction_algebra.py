"""Arithmetic with directions against the same arithmetic on their tensors, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from steerkit.api.direction import Direction
from steerkit.errors import AttachError, DirectionError, SiteError, SteerkitError, UnknownNameError
from steerkit.types import Positions, Site

FIRST, SECOND, THIRD = (Site("resid_pre", layer) for layer in (1, 2, 3))
HEAD = Site("head_out", 1, 0)


def drawn(seed: int, sites: tuple[Site, ...] = (FIRST,), rank: int = 1, **more: Any) -> Direction:
    source = torch.Generator().manual_seed(seed)
    vectors = {site: torch.randn(rank, 6, generator=source) for site in sites}
    means = {site: torch.randn(6, generator=source) for site in sites}
    settings = {"reference_mean": means, "name": f"d{seed}", "provenance": {"estimator": "e", "seed": seed}, **more}
    return Direction(vectors, **settings)


@pytest.mark.parametrize("sites", [(FIRST,), (FIRST, SECOND)])
@pytest.mark.parametrize("rank", [1, 3])
def test_sums_and_multiples_are_those_of_the_vectors(sites: tuple[Site, ...], rank: int) -> None:
    a, b = drawn(1, sites, rank, positions="instruction"), drawn(2, tuple(reversed(sites)), rank)
    for found, expected in (
        (-a, lambda x, y: -x),
        (2 * a, lambda x, y: 2 * x),
        (a * 2, lambda x, y: 2 * x),
        (a / 4, lambda x, y: x / 4),
        (a + b, lambda x, y: x + y),
        (a - b, lambda x, y: x - y),
        (sum([a, b]), lambda x, y: x + y),
        (3 * (a - b) / 2, lambda x, y: 3 * (x - y) / 2),
    ):
        assert isinstance(found, Direction)
        assert found.sites == a.sites and found.positions == Positions.parse("instruction")
        for site in sites:
            assert torch.allclose(found.by_site[site], expected(a.by_site[site], b.by_site[site]), atol=1e-6)


def test_units_norms_and_cosines_are_the_textbook_ones() -> None:
    a = Direction(torch.tensor([3.0, 4.0, 0.0]), FIRST, name="a", reference_mean=torch.ones(3))
    b = Direction(torch.tensor([0.0, 2.0, 0.0]), FIRST, name="b")
    assert a.norm == 5.0 and (-2 * a).norm == 10.0 and a.norms == {FIRST: (5.0,)}
    assert a.unit().vectors.tolist() == [pytest.approx([0.6, 0.8, 0.0])]
    assert a.cosine(b) == pytest.approx(0.8) and a.cosine(-b) == pytest.approx(-0.8)
    assert a.cosine(b.replace(vectors=torch.tensor([[0.0, 1e-30, 0.0]]))) == pytest.approx(0.8)
    assert a.cosine(3 * a) == 1.0, "rounding never takes it past 1"
    assert a.without(b).vectors.tolist() == [[3.0, 0.0, 0.0]]
    for made in (a.unit(), 2 * a, a.without(b)):
        assert made.reference_mean is a.reference_mean, "the class's mean is where it was"


def test_several_vectors_are_each_of_norm_1_and_lose_a_whole_span() -> None:
    a, b = drawn(1, rank=2), drawn(2, rank=3)
    assert a.unit().norms[FIRST] == pytest.approx((1.0, 1.0))
    left = a.without(b).vectors.double()
    q = torch.linalg.qr(b.vectors.double().T).Q
    assert torch.allclose(left, a.vectors.double() @ (torch.eye(6).double() - q @ q.T), atol=1e-6)
    twice = Direction(torch.cat([b.vectors[:1], 2 * b.vectors[:1]]), FIRST)
    assert torch.allclose(a.without(twice).vectors, a.without(Direction(b.vectors[0], FIRST)).vectors, atol=1e-6)


def test_sites_go_with_their_own_and_one_site_of_the_stream_goes_with_every_one() -> None:
    many, other, one = drawn(1, (FIRST, SECOND)), drawn(2, (SECOND, THIRD)), drawn(3, (THIRD,))
    assert many.cosines(other) == {SECOND: many.at(SECOND).cosine(other.at(SECOND))}
    expected = {site: many.at(site).cosine(one) for site in (FIRST, SECOND)}
    assert many.cosines(one) == expected and one.cosines(many) == expected
    left = many.without(one)
    assert left.sites == many.sites
    assert all(abs(cosine) < 1e-6 for cosine in left.cosines(one).values())
    own = many.without(drawn(4, (FIRST, SECOND, THIRD)))
    assert abs(own.at(SECOND).cosine(drawn(4, (FIRST, SECOND, THIRD)).at(SECOND))) < 1e-6


def test_several_of_many_sites_can_be_taken() -> None:
    many, other = drawn(1, (FIRST, SECOND, THIRD)), drawn(2, (SECOND, FIRST))
    with pytest.raises(DirectionError, match=r"direction\.at\('blocks\.1\.resid_pre', 'blocks\.2\.resid_pre'\)"):
        many + other
    both = many.at("blocks.1.resid_pre", SECOND)
    assert both.sites == (FIRST, SECOND) and both.by_site[SECOND] is many.by_site[SECOND]
    assert dict(both.reference_means) == {site: many.reference_means[site] for site in both.sites}
    assert (both + other).sites == (FIRST, SECOND) and many.at(FIRST, FIRST).is_single
    with pytest.raises(AttachError, match=r"no vectors at blocks\.3\.resid_pre"):
        both.at(FIRST, THIRD)


def test_numbers_are_kept_in_float32_or_wider_and_gradients_flow() -> None:
    half = Direction(torch.tensor([1.0, 2.0], dtype=torch.bfloat16), FIRST)
    wide = Direction(torch.tensor([1e-9, 1.0], dtype=torch.float64), FIRST)
    assert {(2 * half).vectors.dtype, half.unit().vectors.dtype, (half + half).vectors.dtype} == {torch.float32}
    assert half.without(wide).vectors.dtype == torch.float32
    assert {(half + wide).vectors.dtype, (-wide).vectors.dtype, wide.unit().vectors.dtype} == {torch.float64}
    assert (half + wide).vectors.tolist() == [[1.0 + 1e-9, 3.0]]
    learned = torch.tensor([[3.0, 4.0]], requires_grad=True)
    factor = torch.tensor(2.0, requires_grad=True)
    of = Direction(learned, FIRST)
    (factor * of + of.unit() - half).without(half).vectors.sum().backward()  # type: ignore[no-untyped-call]
    assert factor.grad is not None and learned.grad is not None and bool((learned.grad != 0).any())


@pytest.mark.parametrize("two", [2, 2.0, np.float64(2), np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2)])
def test_a_number_is_a_number_whoever_made_it(two: Any) -> None:
    direction = drawn(1)
    for found in (two * direction, direction * two):
        assert isinstance(found, Direction) and torch.equal(found.vectors, 2 * direction.vectors)


A, B = drawn(1), drawn(2)
REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: A * True, "multiplied by one finite number, not by a bool"),
    (lambda: A * float("nan"), "one finite number, not by nan"),
    (lambda: A * 10**400, "one finite number, not by 1000"),
    (lambda: A * "2", "one finite number, not by a str"),  # type: ignore[operator]
    (lambda: np.ones(3) * A, "one finite number, not by a ndarray"),
    (lambda: torch.ones(3) * A, "not by a tensor of shape [3]"),
    (lambda: torch.tensor(float("inf")) * A, "not by inf"),
    (lambda: A * B, "first.cosine(second)"),  # type: ignore[operator]
    (lambda: A * 1e-300, "1e-300 times direction 'd1' is less than float32 can hold at blocks.1.resid_pre"),
    (lambda: A / 0, "divided by one finite number that isn't 0"),
    (lambda: A + 1, "added to a direction, not an int. Numbers become one by steerkit.Direction.from_vector"),  # type: ignore[operator]
    (lambda: A - [1.0], "not a list"),  # type: ignore[operator]
    (lambda: A + drawn(3, (SECOND,)), "no site in common. If one is meant at the other's site, say so"),
    (lambda: drawn(1, (FIRST, SECOND)) + A, "Take both where they both are: direction.at('blocks.1.resid_pre')"),
    (lambda: A + drawn(3, rank=2), "has 1 vector at blocks.1.resid_pre and 'd3' has 2"),
    (lambda: A + Direction(torch.ones(4), FIRST), "has width 6 at blocks.1.resid_pre and 'direction' has 4"),
    (lambda: A.without(Direction(torch.ones(4), FIRST)), "has width 6 at blocks.1.resid_pre and 'direction' has 4"),
    (lambda: A.without(3 * A), "Nothing is left at blocks.1.resid_pre: direction 'd1' lies in the span of '3*d1'"),
    (lambda: A.without(0 * B), "'0*d2' has a vector without length at blocks.1.resid_pre"),
    (lambda: A.without(Direction(torch.ones(6), HEAD)), "no site in common"),
    (lambda: (0 * A).unit(), "has a vector without length"),
    (lambda: A.cosine(0 * B), "has a vector without length"),
    (lambda: A.cosine(drawn(3, rank=2)), "'d3' has 2 vectors at blocks.1.resid_pre, and a cosine is of one with one"),
    (lambda: A.cosine(Direction(torch.ones(6), HEAD)), "no site in common"),
    (lambda: A.cosine(drawn(3, (FIRST, SECOND))), "Use direction.cosines(other), or direction.at(site)"),
    (lambda: A.cosine([1.0] * 6), "compared with a direction, not a list"),  # type: ignore[arg-type]
    (lambda: drawn(3, rank=2).norm, "has 2 vectors at blocks.1.resid_pre, each with a norm of its own"),
    (lambda: Direction("embed", torch.ones(3)), "The vectors come first, then their site: Direction(vectors, 'embed')"),  # type: ignore[arg-type]
    (lambda: Direction.from_vector("embed", [1.0]), "the numbers come first, then their site"),  # type: ignore[arg-type]
    (lambda: Direction.from_vector([[1, 2], [3]], "embed"), "rows of one length"),
    (lambda: Direction.from_vector([1e300], "embed"), "holds NaN or infinite values"),
    (lambda: Direction.from_vector([1j], "embed"), "real numbers, as a list, an array or a tensor, not of complex"),
    (lambda: Direction.from_vector([True], "embed"), "not of list of bool"),
    (lambda: Direction.from_vector(["a"], "embed"), "real numbers"),
    (lambda: Direction.from_vector([], "embed"), "not [1, 0]"),
    (lambda: Direction.from_vector([1.0, 2.0]), "vectors and their site"),
    (lambda: Direction.from_vector(torch.ones(2) > 0, "embed"), "not of torch.bool"),
]


@pytest.mark.parametrize(("mistake", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_has_no_meaning_is_refused_in_a_sentence(mistake: Callable[[], object], said: str) -> None:
    with pytest.raises(SteerkitError) as caught:
        mistake()
    assert said in str(caught.value)


def test_what_one_site_has_is_refused_of_several_as_before() -> None:
    with pytest.raises(AttachError, match="several sites"):
        drawn(1, (FIRST, SECOND)).norm  # noqa: B018
    with pytest.raises(SiteError, match="is not a site"):
        Direction.from_vector([1.0], "blocks.1")
    with pytest.raises(UnknownNameError, match=r"Did you mean 'name'\? Available: name, positions"):
        Direction.from_vector([1.0], "embed", nmae="x")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ([1, 2.5], "list [2]"),
        ((1, 2.5), "tuple [2]"),
        (np.array([1, 2.5]), "numpy float64 [2]"),
        (np.array([1, 2.5], dtype=np.float16), "numpy float16 [2]"),
        (torch.tensor([1, 2.5], dtype=torch.bfloat16), "torch bfloat16 [2]"),
        (torch.tensor([1, 2.5], requires_grad=True), "torch float32 [2]"),
    ],
)
def test_numbers_become_a_direction_that_says_so(numbers: Any, told: str) -> None:
    made = Direction.from_vector(numbers, site=FIRST, positions=-2, name="n", provenance={"paper": "x"})
    assert made.vectors.tolist() == [[1.0, 2.5]] and made.vectors.dtype == torch.float32
    assert not made.vectors.requires_grad and (made.site, made.name) == (FIRST, "n")
    assert made.provenance == {"made": "from_vector", "given": told, "paper": "x"} and made.reference_mean is None


def test_numbers_by_site_and_their_mean_are_copies() -> None:
    own = np.ones((2, 3))
    made = Direction.from_vector({FIRST: own, "blocks.2.resid_pre": [[1, 2, 3]]}, reference_mean={FIRST: [1, 2, 3]})
    own[:] = 7
    assert made.by_site[FIRST].tolist() == [[1.0] * 3] * 2 and made.sites == (FIRST, SECOND)
    assert made.reference_means[FIRST].tolist() == [1.0, 2.0, 3.0]
    given = torch.ones(3)
    copied = Direction.from_vector(given, "embed")
    given.zero_()
    assert copied.vectors.tolist() == [[1.0] * 3]


def test_provenance_tells_what_a_direction_was_made_of() -> None:
    a, b = drawn(1), drawn(2)
    told = (2 * (a - b) + a).provenance
    assert told["made"] == "combination" and "estimator" not in told
    assert [(part["name"], part["times"]) for part in told["of"]] == [("d1", 3.0), ("d2", -2.0)]
    assert told["of"][1]["provenance"] == {"estimator": "e", "seed": 2} and told["of"][0]["positions"] == "-1"
    other = drawn(3, name="d1", provenance=a.provenance)
    assert len((a + other).provenance["of"]) == 2, "of one name, and not the same vectors"
    apart = a.without(b).unit().provenance
    assert apart["made"] == "unit" and apart["of"][0]["provenance"]["made"] == "without"
    assert apart["of"][0]["provenance"]["removed"][0]["name"] == "d2"
    assert a.without(b).name == "d1 without d2" and (-a).name == "-d1" and (2 * (a + b)).name == "2*(d1 + d2)"


def test_a_mean_of_the_reference_class_stays_where_both_have_it() -> None:
    a, b = drawn(1), drawn(2)
    assert (a + b).reference_mean is None, "they were read beside different classes"
    same = b.replace(vectors={FIRST: b.vectors})
    assert (b + same).reference_mean is not None and torch.equal((b + same).reference_mean, b.reference_mean)  # type: ignore[arg-type]


def test_provenance_that_anybody_wrote_is_carried_along() -> None:
    deep: dict[str, Any] = {}
    for _ in range(300):
        deep = {"made": "unit", "of": [{"name": "x", "provenance": deep}]}
    for odd in (
        {"made": "combination", "of": 3},
        {"made": "combination", "of": [3]},
        {"made": "combination", "of": [{"times": "2"}]},
        {"made": "combination", "of": [], "more": "x"},
        deep,
    ):
        direction = A.replace(provenance=odd)
        for computed in (2 * direction, direction + B, direction.unit(), direction.without(B)):
            assert computed.provenance["of"][0]["name"] == "d1" and repr(computed)
            json.dumps(dict(computed.provenance))


def test_a_loop_of_a_thousand_operations_has_a_provenance_of_some_kilobytes() -> None:
    nested = summed = doubled = drawn(1)
    for step in range(300):
        other = Direction.from_vector(np.eye(6)[step % 6] + step, FIRST, name=f"n{step}")
        nested, summed = (nested + 0.1 * other).unit().without(drawn(2)), summed + other
        doubled = 0.5 * doubled + 0.5 * doubled
    for made in (nested, summed, doubled):
        assert len(json.dumps(dict(made.provenance))) < 30_000 and len(made.name) <= 80
    assert summed.provenance["more"] == 301 - 32
    assert doubled.provenance["of"][0]["times"] == pytest.approx(1.0) and len(doubled.provenance["of"]) == 1


def test_a_divisor_may_carry_a_gradient() -> None:
    scale = torch.tensor(2.0, requires_grad=True)
    vectors = (A / scale).vectors
    vectors.sum().backward()
    assert scale.grad is not None and torch.allclose(vectors.detach() * 2, A.vectors.float())
