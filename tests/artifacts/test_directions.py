from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as checked
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from steerkit.api.direction import Direction
from steerkit.artifacts import files
from steerkit.artifacts.directions import load_directions, save_directions
from steerkit.errors import ArtifactError
from steerkit.types import EMBED, Positions, Site
from steerkit_formats import _steerkit as module


def direction(name: str = "warmth", rank: int = 1, **changes: Any) -> Direction:
    generator = torch.Generator().manual_seed(rank)
    given_parts: dict[str, Any] = {
        "vectors": torch.randn(rank, 8, generator=generator),
        "site": Site("resid_pre", 14),
        "positions": Positions.parse("post_instruction[-1]"),
        "name": name,
        "reference_mean": torch.randn(8, generator=generator),
        "provenance": {"estimator": "mean_difference", "options": {}, "data": ["warm.train", 32], "half": 0.5},
    }
    return Direction(**{**given_parts, **changes})


def spoilt(*values: float) -> Direction:
    """A direction whose vectors were written to after it was made, since none is made of such values."""
    made = direction()
    made.vectors[0, : len(values)] = torch.tensor(values)
    return made


def same(one: Direction, other: Direction) -> bool:
    means = (one.reference_mean, other.reference_mean)
    equal_means = means == (None, None) if None in means else torch.equal(*means)  # type: ignore[arg-type]
    return (
        torch.equal(one.vectors, other.vectors)
        and equal_means
        and (one.site, one.positions, one.name) == (other.site, other.positions, other.name)
        and dict(one.provenance) == dict(other.provenance)
    )


def header_of(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        return json.loads(file.metadata()[module.HEADER]), tensors


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "directions.safetensors"
    given_directions = [
        direction("warmth"),
        direction("plane", rank=3, reference_mean=None, site=Site(EMBED), positions=Positions("all")),
        direction("a.vectors", provenance={}),
    ]
    save_directions(path, given_directions)
    found = load_directions(path)
    assert list(found) == ["warmth", "plane", "a.vectors"]
    assert all(same(found[item.name], item) for item in given_directions)
    assert [item.name for item in path.parent.iterdir()] == ["directions.safetensors"]


POSITIONS = st.one_of(
    st.sampled_from(["all", "prompt", "generated", "last", "instruction", "post_instruction"]),
    st.lists(st.integers(-9, 9), min_size=1, max_size=3),
    st.tuples(st.sampled_from(["", "prompt", "instruction"]), st.integers(-5, 5), st.integers(-5, 5)).map(
        lambda parts: "{}[{}:{}]".format(*parts)
    ),
)


@checked(max_examples=40, deadline=None)
@given(POSITIONS, st.text(min_size=1, max_size=8), st.integers(0, 99))
def test_every_site_position_and_name_comes_back(
    tmp_path_factory: pytest.TempPathFactory, positions: Any, name: str, layer: int
) -> None:
    path = tmp_path_factory.mktemp("directions") / "d.safetensors"
    item = direction(name, positions=Positions.parse(positions), site=Site("mlp_out", layer))
    save_directions(path, [item])
    assert same(load_directions(path)[name], item)


def test_in_a_mapping_each_goes_by_its_key(tmp_path: Path) -> None:
    one = direction()
    save_directions(tmp_path / "d.safetensors", {"first": one, one.name: one})
    found = load_directions(tmp_path / "d.safetensors")
    assert list(found) == ["first", one.name] and found["first"].name == "first"
    assert torch.equal(found["first"].vectors, one.vectors)


def test_other_dtypes_and_views_are_written_as_float32(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    wide = torch.arange(12, dtype=torch.float64).reshape(2, 6)[:, ::2].requires_grad_()
    save_directions(
        path, [direction(vectors=wide, reference_mean=wide[0]), direction("b", vectors=wide, reference_mean=None)]
    )
    found = load_directions(path)["warmth"]
    assert found.vectors.tolist() == [[0, 2, 4], [6, 8, 10]]
    assert found.vectors.dtype == torch.float32 and not found.vectors.requires_grad


def test_the_same_directions_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    code = """
import sys, torch
from steerkit.api.direction import Direction
from steerkit.artifacts.directions import save_directions
from steerkit.types import Site
items = [Direction(torch.arange(6.).reshape(2, 3), Site("resid_pre", 1), name=name, reference_mean=torch.ones(3),
                   provenance={"b": 1, "a": [2]}) for name in ("one", "two", "three")]
save_directions(sys.argv[1], items)
"""
    paths = [tmp_path / f"{index}.safetensors" for index in range(2)]
    for path in paths:
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_an_older_file_is_replaced_and_a_failed_write_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d.safetensors"
    save_directions(path, [direction("old")])
    save_directions(path, [direction("new")])
    assert list(load_directions(path)) == ["new"]
    with path.open("rb") as reader:
        before = path.read_bytes()
        save_directions(path, [direction("new", rank=2)])
        assert reader.read() == before  # whoever reads while it is written sees one file or the other

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        save_directions(path, [direction("third")])
    assert list(load_directions(path)) == ["new"]
    assert [item.name for item in tmp_path.iterdir()] == ["d.safetensors"]


@pytest.mark.parametrize(
    ("directions", "said"),
    [
        ([], "there is no direction"),
        ([direction("a"), direction("a", rank=2)], "two directions are called 'a'"),
        ([spoilt(float("nan"))], "warmth.vectors holds NaN"),
        ([direction(vectors=torch.full((1, 8), 1e39, dtype=torch.float64))], "warmth.vectors holds NaN or infinite"),
        ([direction(reference_mean=torch.full((8,), float("inf")))], "warmth.reference_mean holds NaN or infinite"),
        ([spoilt(float("inf"), -float("inf"))], "warmth.vectors holds NaN or infinite"),
        ([direction(reference_mean=torch.ones(5))], r"reference_mean has shape \[5\]"),
        ([direction(provenance={"when": {1, 2}})], "provenance may hold JSON values only"),
        ([direction(provenance={"score": float("nan")})], "provenance may hold JSON values only"),
    ],
)
def test_what_is_not_written(tmp_path: Path, directions: list[Direction], said: str) -> None:
    path = tmp_path / "d.safetensors"
    with pytest.raises(ArtifactError, match=said):
        save_directions(path, directions)
    assert not path.exists()


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('a pickle was read')",))


def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    for data in (pickle.dumps(Bomb(), protocol=2), pickle.dumps(Bomb())):
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match="is a pickle, and steerkit reads none"):
            load_directions(path)
    torch.save({"warmth": torch.ones(2)}, path)
    with pytest.raises(ArtifactError, match="is a pickle, and steerkit reads none"):
        load_directions(path)


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    # The first byte of a safetensors file is the lowest of its header's length, here 0x80.
    path = tmp_path / "d.safetensors"
    for padding in range(256):
        item = direction(provenance={"padding": "x" * padding})
        save_directions(path, [item])
        if path.read_bytes()[0] == 0x80:
            assert same(load_directions(path)["warmth"], item)
            return
    raise AssertionError("No padding gave such a length.")


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    with pytest.raises(ArtifactError, match=r"can't be read \(No such file"):
        load_directions(path)
    save_directions(path, [direction()])
    data = path.read_bytes()
    for damaged in (b"", data[:5], data[:40], data[:-4], data + b"more", b"hello, world, this is no tensor at all"):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="is damaged or not a safetensors file"):
            load_directions(path)
    save_file({"weight": torch.ones(2), "bias": torch.ones(3)}, path)  # as a checkpoint has them
    with pytest.raises(ArtifactError, match="holds no directions of steerkit's"):
        load_directions(path)
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(ArtifactError, match="doesn't say at which site direction 'weight' was estimated"):
        load_directions(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 3}, "has schema version 3, and this steerkit reads 1 to 2"),
        ({"directions": None}, "lists no directions"),
        ({"directions": [{"name": "warmth"}]}, "a direction in it can't be read"),
        ({"directions": [{"name": "other", "site": "embed", "positions": "all", "provenance": {}}]}, "can't be read"),
        ({"directions": [{"name": "warmth", "site": "x", "positions": "all", "provenance": {}}]}, "can't be read"),
        ({"directions": ["warmth"]}, "can't be read"),
    ],
)
def test_headers_that_do_not_fit(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "d.safetensors"
    save_directions(path, [direction()])
    header, tensors = header_of(path)
    path.write_bytes(save(tensors, metadata={module.HEADER: json.dumps({**header, **change})}))
    with pytest.raises(ArtifactError, match=said):
        load_directions(path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("warmth.vectors", torch.full((1, 8), float("nan")), "warmth.vectors holds NaN"),
        ("warmth.vectors", torch.ones(1, 2, 4), "shape"),
        ("warmth.reference_mean", torch.ones(5), r"has shape \[5\]"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, key: str, value: torch.Tensor, said: str) -> None:
    path = tmp_path / "d.safetensors"
    save_directions(path, [direction()])
    header, tensors = header_of(path)
    path.write_bytes(save({**tensors, key: value}, metadata={module.HEADER: json.dumps(header)}))
    with pytest.raises(ArtifactError, match=said) as caught:
        load_directions(path)
    assert str(caught.value).startswith(f"{path}")


# Several sites, older files, and files that lack something


def several() -> Direction:
    sites = [Site("resid_pre", layer) for layer in (3, 1, 2)]
    vectors = {site: torch.full((2, 8), float(site.layer)) for site in sites}
    return direction("deep", vectors=vectors, site=None, reference_mean={sites[1]: torch.ones(8)})


def test_several_sites_come_back_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_directions(path, [several(), direction()])
    found = load_directions(path)
    deep = found["deep"]
    assert [str(site) for site in deep.sites] == [f"blocks.{layer}.resid_pre" for layer in (3, 1, 2)]
    assert all(torch.equal(vectors, several().by_site[site]) for site, vectors in deep.items())
    assert list(deep.reference_means) == [Site("resid_pre", 1)] and dict(deep.provenance) == dict(several().provenance)
    assert same(found["warmth"], direction())
    header, tensors = header_of(path)
    assert (
        header["schema_version"] == 2 and "deep.vectors@blocks.3.resid_pre" in tensors and "warmth.vectors" in tensors
    )


def test_heads_come_back(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_directions(path, [direction(site="blocks.3.head_out[5]", vectors=torch.ones(1, 4), reference_mean=None)])
    assert load_directions(path)["warmth"].site == Site("head_out", 3, 5)


def test_files_of_version_1_are_read(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    entry = {"name": "old", "site": "blocks.2.mlp_out", "positions": "last", "provenance": {"estimator": "x"}}
    header = {"schema_version": 1, "directions": [entry]}
    tensors = {"old.vectors": torch.ones(1, 4), "old.reference_mean": torch.zeros(4)}
    path.write_bytes(save(tensors, metadata={module.HEADER: json.dumps(header)}))
    old = load_directions(path)["old"]
    assert (old.site, old.positions, old.provenance) == (Site("mlp_out", 2), Positions("last"), {"estimator": "x"})
    assert old.vectors.tolist() == [[1, 1, 1, 1]] and old.reference_mean is not None


def without_a_site(path: Path) -> None:
    save_directions(path, [direction()])
    header, tensors = header_of(path)
    header["directions"][0] |= {"sites": None, "positions": None}
    path.write_bytes(save(tensors, metadata={module.HEADER: json.dumps(header)}))


def test_what_a_file_lacks_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    without_a_site(path)
    with pytest.raises(ArtifactError, match=r"doesn't say at which site direction 'warmth' .* Give it as site"):
        load_directions(path)
    found = load_directions(path, site="blocks.4.resid_mid", positions="instruction")["warmth"]
    assert (found.site, found.positions) == (Site("resid_mid", 4), Positions("instruction"))
    assert load_directions(path, site="embed")["warmth"].positions == Positions("", (-1,))


def test_what_a_file_says_is_not_overruled(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_directions(path, [direction()])
    assert same(
        load_directions(path, site="blocks.14.resid_pre", positions="post_instruction[-1]")["warmth"], direction()
    )
    with pytest.raises(ArtifactError, match=r"estimated at blocks\.14\.resid_pre, not at embed"):
        load_directions(path, site="embed")
    with pytest.raises(ArtifactError, match=r"positions 'post_instruction\[-1\]', not 'prompt\[-1\]'"):
        load_directions(path, positions="last")
    save_directions(path, [several()])
    assert load_directions(path, site="blocks.*.resid_pre")["deep"].sites == several().sites
    for other in ("blocks.*.resid_post", "blocks.1-2.resid_pre", "blocks.1.resid_pre"):
        with pytest.raises(ArtifactError, match=r"estimated at blocks\.3\.resid_pre to blocks\.2\.resid_pre, not at"):
            load_directions(path, site=other)


def test_a_mean_of_another_width_names_its_site(tmp_path: Path) -> None:
    odd = direction(
        "odd", vectors=dict(several().items()), site=None, reference_mean={several().sites[0]: torch.ones(3)}
    )
    with pytest.raises(ArtifactError, match=r"odd\.reference_mean@blocks\.3\.resid_pre has shape \[3\]"):
        save_directions(tmp_path / "d.safetensors", [odd])


@pytest.mark.parametrize("name", ["d", "d.pt", "d.json", "d.safetensors.bak", "d."])
def test_a_file_is_named_as_its_format_is(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"whose files end in \.safetensors\. Write to .*\.safetensors"):
        save_directions(tmp_path / name, [direction()])
    assert not list(tmp_path.iterdir())
    save_directions(tmp_path / "D.SafeTensors", [direction()])
