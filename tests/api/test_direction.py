"""A direction at one site or at several."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.api.direction import Direction
from steerkit.errors import ArtifactError, AttachError, DirectionError, UnknownNameError
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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_vector_are_refused_when_it_is_made(value: float) -> None:
    with pytest.raises(DirectionError, match=r"Direction 'd' at blocks\.2\.resid_pre holds NaN or infinite values"):
        Direction({FIRST: torch.ones(3), SECOND: torch.tensor([1.0, value, 0.0])}, name="d")
    with pytest.raises(DirectionError, match="holds NaN or infinite values"):
        Direction(torch.ones(3), FIRST).with_vectors(torch.full((1, 3), value))
    learned = torch.ones(1, 3, requires_grad=True)
    assert Direction(learned, FIRST).vectors is learned
    assert Direction(torch.empty(1, 3, device="meta"), FIRST).rank == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"name": 3}, "name is a text that it goes by, not 3"),
        ({"name": ""}, "name is a text that it goes by, not ''"),
        ({"provenance": 3}, "Provenance is a mapping from names to JSON values, not a int"),
        ({"reference_mean": [1.0]}, r"reference mean of direction 'direction' at blocks\.\d+\.\w+ is a tensor"),
        ({"vectors": torch.ones(3, dtype=torch.complex64)}, "real numbers"),
        ({"vectors": [1.0, 2.0]}, "not a list"),
    ],
)
def test_words_that_make_no_direction_are_refused(words: Any, said: str) -> None:
    with pytest.raises(DirectionError, match=said):
        Direction(**{"vectors": torch.ones(3), "site": FIRST, **words})


def test_a_misspelt_keyword_gets_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match=r"Direction\.replace has no argument 'nme'\. Did you mean 'name'\?"):
        several().replace(nme="x")  # type: ignore[call-arg]
    with pytest.raises(UnknownNameError, match=r"^Direction has no argument 'sight'\. Did you mean 'site'\?"):
        Direction(torch.ones(3), sight=FIRST)  # type: ignore[call-arg]
    assert str(inspect.signature(Direction)).startswith("(vectors:")


def test_complex_numbers_are_refused_wherever_they_come_in(tmp_path: Path) -> None:
    """An imaginary part would be lost."""
    from safetensors.torch import save_file

    from steerkit.api.intervention import Affine
    from steerkit.artifacts.directions import load_directions, save_directions
    from steerkit.session import add
    from tests.engine.conditions import Given, differential_model

    real, site = torch.ones(1, 32), "blocks.0.resid_pre"
    for dtype in (torch.complex64, torch.complex128):
        with pytest.raises(DirectionError, match="not of complex"):
            Direction(real.to(dtype), site)
        with pytest.raises(DirectionError, match=r"reference mean .* not of complex"):
            Direction(real, site, reference_mean=real[0].to(dtype))
        with pytest.raises(DirectionError, match="not of complex"):
            Direction(real, site).with_vectors(real.to(dtype))
        live = differential_model("llama")
        for update in (Affine(bias=real[0].to(dtype)), Affine(real.to(dtype), real), Affine(real, real.to(dtype))):
            with pytest.raises(AttachError, match="of complex numbers"), live.steer(Given({site: update})):
                pass
    with differential_model("llama").steer(add(Direction(real, site))):
        pass
    save_directions(tmp_path / "d.safetensors", [Direction(real, site, name="d")])
    from safetensors import safe_open

    with safe_open(tmp_path / "d.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file({"d.vectors": real.to(torch.complex64)}, tmp_path / "d.safetensors", metadata=metadata)
    with pytest.raises(ArtifactError, match="complex"):
        load_directions(tmp_path / "d.safetensors")
