"""A direction at one site or at several."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from steerkit.api.direction import Direction
from steerkit.errors import AttachError
from steerkit.types import Positions, Site

FIRST, SECOND = Site("resid_pre", 1), Site("resid_pre", 2)


def several() -> Direction:
    vectors = {FIRST: torch.ones(1, 3), "blocks.2.resid_pre": torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]])}
    return Direction(vectors, name="d", positions="last", reference_mean={SECOND: torch.zeros(3)}, provenance={"a": 1})  # type: ignore[dict-item]


def test_at_one_site_it_is_what_it_was() -> None:
    one = Direction(torch.tensor([3, 4]), "blocks.1.resid_pre", reference_mean=torch.ones(2))
    assert (one.site, one.sites, one.is_single, one.rank) == (FIRST, (FIRST,), True, 1)
    assert one.vectors.tolist() == [[3.0, 4.0]] and one.vectors.dtype == torch.float32
    assert one.reference_mean is not None and one.positions == Positions("", (-1,)) and one.name == "direction"
    assert list(one.items()) == [(FIRST, one.vectors)] and one.describe() == "blocks.1.resid_pre"


def test_at_several_sites_each_has_its_own() -> None:
    direction = several()
    assert direction.sites == (FIRST, SECOND) and not direction.is_single
    assert [vectors.shape[0] for _, vectors in direction.items()] == [1, 2]
    second = direction.at("blocks.2.resid_pre")
    assert (second.site, second.rank, second.name, second.positions) == (SECOND, 2, "d", Positions("last"))
    assert second.vectors is direction.by_site[SECOND] and second.reference_mean is not None
    assert direction.at(FIRST).reference_mean is None and direction.at(FIRST).provenance == {"a": 1}
    assert direction.describe() == "blocks.1.resid_pre … blocks.2.resid_pre (2 sites)"


@pytest.mark.parametrize("name", ["site", "vectors", "rank", "reference_mean"])
def test_what_only_one_site_has_says_what_to_write(name: str) -> None:
    with pytest.raises(AttachError, match=r"several sites, .*direction\.at\(\"blocks\.1\.resid_pre\"\).*at: blocks"):
        getattr(several(), name)
    with pytest.raises(AttachError, match=r"no vectors at embed; it has them at blocks\.1\.resid_pre … blocks"):
        several().at("embed")


def test_the_same_with_something_else() -> None:
    direction = several()
    renamed = direction.replace(name="e", provenance={})
    assert (renamed.name, renamed.sites, renamed.provenance) == ("e", direction.sites, {})
    assert renamed.by_site[SECOND] is direction.by_site[SECOND] and SECOND in renamed.reference_means
    other = direction.with_vectors({FIRST: torch.zeros(1, 3)}, "f")
    assert (other.site, other.name, dict(other.reference_means)) == (FIRST, "f", {})
    one = direction.at(FIRST).with_vectors(torch.zeros(2, 3))
    assert (one.site, one.rank, one.name) == (FIRST, 2, "d")
    with pytest.raises(AttachError, match="several sites"):
        direction.with_vectors(torch.zeros(1, 3))


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        several().name = "x"  # type: ignore[misc]
    with pytest.raises(TypeError):
        several().by_site[FIRST] = torch.ones(1, 3)  # type: ignore[index]


def test_shapes_and_sites_that_make_no_direction_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        Direction(torch.ones(1, 2, 3), FIRST)
    with pytest.raises(ValueError, match="shape"):
        Direction(torch.ones(0, 3), FIRST)
    with pytest.raises(ValueError, match="and their site"):
        Direction(torch.ones(3))
    with pytest.raises(ValueError, match="and their site"):
        Direction({FIRST: torch.ones(3)}, FIRST)
    with pytest.raises(ValueError, match="at each site once"):
        Direction({FIRST: torch.ones(3), "blocks.1.resid_pre": torch.ones(3)})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="one site at least"):
        Direction({})
    with pytest.raises(ValueError, match="means by site"):
        Direction({FIRST: torch.ones(3), SECOND: torch.ones(3)}, reference_mean=torch.ones(3))
    with pytest.raises(ValueError, match="means by site"):
        Direction({FIRST: torch.ones(3)}, reference_mean={SECOND: torch.ones(3)})
