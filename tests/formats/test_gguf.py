"""Control vectors in GGUF: files of our own making in the layouts of their producers, read at the right blocks."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gguf import GGUFReader

import steerkit
import steerkit_formats.gguf as plugin
from steerkit.api.direction import Direction
from steerkit.errors import ArtifactError
from steerkit.testing import FormatSuite
from steerkit.types import Positions, Site
from tests.conftest import tiny_live
from tests.formats.control_vectors import IDS, row, shifted, written


class _Writes(FormatSuite):
    plugin: ClassVar = plugin

    def directions(self) -> Sequence[Direction]:
        vector = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
        return (Direction(vector, "blocks.3.resid_pre", "-1", "warmth", torch.ones(8), {"estimator": "made_up"}),)


class TestGguf(_Writes):
    name = "gguf"


class TestRepeng(_Writes):
    name = "repeng"


def tensor(seed: int) -> torch.Tensor:
    return torch.from_numpy(row(seed))[None]


def sites(direction: Direction) -> list[str]:
    return [str(site) for site in direction.sites]


def read(path: Path, **how: Any) -> Direction:
    with pytest.warns(UserWarning, match="at which tokens"):
        (found,) = steerkit.load_directions(path, **how).values()
    return found


def easysteer(component: str | None) -> str:
    return json.dumps({"version": 1, "component": component, "metadata": None})


def steered(direction: Direction) -> torch.Tensor:
    live = tiny_live("llama")
    with torch.no_grad(), live.steer(steerkit.add(direction, sites=list(direction.sites))):
        found: torch.Tensor = live.forward(IDS).logits
    return found


@pytest.mark.parametrize(
    ("how", "texts", "block"),
    [
        ({"format": "repeng"}, {}, 2),
        ({"convention": "repeng"}, {}, 2),
        ({"format": "cvector_generator"}, {}, 1),
        ({"convention": "cvector-generator"}, {}, 1),
        ({"format": "easysteer"}, {"method": "diffmean"}, 2),
        ({}, {"method": "diffmean", "easysteer": easysteer("hidden_states")}, 2),
    ],
)
def test_a_vector_is_read_at_the_block_that_its_producer_meant(
    how: dict[str, str], texts: dict[str, str], block: int, tmp_path: Path
) -> None:
    path = written(tmp_path / "v.gguf", {"direction.2": row(0)}, **texts)
    direction = read(path, **how)
    assert sites(direction) == [f"blocks.{block}.resid_post"] and direction.name == "v"
    assert torch.equal(direction.vectors[0], torch.from_numpy(row(0)))
    assert torch.allclose(steered(direction), shifted(IDS, {block: row(0)}), atol=1e-5)
    assert not torch.allclose(steered(direction), shifted(IDS, {3 - block: row(0)}), atol=1e-2)


def test_what_llama_cpp_adds_is_what_is_written(tmp_path: Path) -> None:
    """Converted from steerkit's own file: every vector at its block, where adding the numbers by hand says the same."""
    ours = Direction({"blocks.2.resid_pre": tensor(1), "blocks.2.resid_post": tensor(2)}, name="both")
    path = tmp_path / "v.gguf"
    assert steerkit.save_directions(path, ours, format="gguf") == ()
    tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    assert sorted(tensors) == ["direction.1", "direction.2"]
    assert all(tensor.tensor_type.name == "F32" and list(tensor.shape) == [32] for tensor in tensors.values())
    by_hand = shifted(IDS, {int(name.split(".")[1]): np.array(tensor.data) for name, tensor in tensors.items()})
    assert torch.allclose(steered(ours), by_hand, atol=1e-5)
    back = steerkit.load_directions(path)["both"]
    assert sites(back) == ["blocks.2.resid_pre", "blocks.2.resid_post"]
    assert all(torch.equal(back.by_site[site], vectors) for site, vectors in ours.items())


def test_a_file_that_does_not_say_who_wrote_it_needs_a_convention(tmp_path: Path) -> None:
    path = written(tmp_path / "v.gguf", {"direction.2": row(0)}, method="mean")
    with pytest.raises(ArtifactError, match="convention: repeng, or convention: cvector-generator") as caught:
        steerkit.load_directions(path)
    assert caught.value.exit_code == 2
    ours = tmp_path / "ours.gguf"
    steerkit.save_directions(ours, Direction(torch.ones(1, 8), "blocks.2.resid_post", name="d"), format="gguf")
    with pytest.raises(ArtifactError, match="Leave out the convention"):
        steerkit.load_directions(ours, convention="cvector-generator")
    with pytest.raises(ArtifactError, match="Read it as format gguf"):
        steerkit.load_directions(ours, format="cvector_generator")
    assert sites(steerkit.load_directions(ours, format="repeng")["d"]) == ["blocks.2.resid_post"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"direction.0": row(0), "direction.2": row(1)}, "no control vector at block 0"),
        ({"direction.2": row(0, dtype=np.float16)}, "direction.2 as F16, and a control vector is F32"),
        ({"direction.1": row(0), "direction.2": row(1, 16)}, "widths 32 and 16"),
        ({"direction.2": row(0).reshape(4, 8)}, "with 2 dimensions"),
        ({"direction.2": row(0), "mean": row(1)}, "holds a tensor 'mean'"),
        ({"direction.02": row(0)}, "holds a tensor 'direction.02'"),
        ({"direction.2": np.full(32, np.nan, np.float32)}, "NaN or infinite"),
        ({}, "without a vector"),
    ],
)
@pytest.mark.parametrize("convention", ["repeng", "cvector-generator"])
def test_what_llama_cpp_would_drop_in_silence_is_refused_in_words(
    rows: dict[str, np.ndarray], said: str, convention: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "v.gguf", rows)
    with pytest.raises(ArtifactError, match=said):
        steerkit.load_directions(path, convention=convention)


def test_files_of_easysteer_may_begin_at_block_0_and_be_of_half_precision(tmp_path: Path) -> None:
    rows = {"direction.0": row(0, dtype=np.float16), "direction.3": row(1, dtype=np.float16)}
    path = written(tmp_path / "v.gguf", rows, easysteer=easysteer(None))
    with pytest.warns(UserWarning, match="what was captured"):
        direction = steerkit.load_directions(path)["v"]
    assert sites(direction) == ["blocks.0.resid_post", "blocks.3.resid_post"]
    assert torch.equal(
        direction.by_site[Site.parse("blocks.3.resid_post")][0], torch.from_numpy(rows["direction.3"]).float()
    )
    path = written(tmp_path / "heads.gguf", {"direction.2": row(0)}, easysteer=easysteer("attention_heads"))
    with pytest.raises(ArtifactError, match="component 'attention_heads'"):
        steerkit.load_directions(path)


def test_another_gguf_is_no_control_vector(tmp_path: Path) -> None:
    path = written(tmp_path / "model.gguf", {"direction.2": row(0)}, architecture="llama")
    with pytest.raises(ArtifactError, match="a GGUF of llama"):
        steerkit.load_directions(path, format="gguf")
    (tmp_path / "text.gguf").write_text("GG")
    with pytest.raises(ArtifactError, match="no GGUF file"):
        steerkit.load_directions(tmp_path / "text.gguf", format="gguf")


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ({"blocks.0.resid_post": 1}, "from block 1 on"),
        ({"blocks.1.resid_pre": 1}, "from block 1 on"),
        ({"embed": 1}, "from block 1 on"),
        ({"blocks.2.resid_mid": 1}, "from block 1 on"),
        ({"blocks.2.mlp_out": 1}, "from block 1 on"),
        ({"blocks.2.resid_post": 2}, "2 vectors at blocks.2.resid_post"),
        ({"blocks.2.resid_post": 1, "blocks.3.resid_pre": 1}, "which are one place"),
    ],
)
def test_what_a_control_vector_cannot_hold_is_not_written(vectors: dict[str, int], said: str, tmp_path: Path) -> None:
    direction = Direction({Site.parse(site): torch.ones(rank, 8) for site, rank in vectors.items()}, name="d")
    with pytest.raises(ArtifactError, match=said):
        steerkit.save_directions(tmp_path / "v.gguf", direction, format="gguf")
    assert not list(tmp_path.iterdir())


def test_it_holds_one_direction_and_says_what_it_loses(tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    one = Direction(torch.tensor([[0.1, 2.0]], dtype=torch.float64), "blocks.1.resid_post", "all", "d", torch.ones(2))
    with pytest.raises(ArtifactError, match="2 directions are to be written"):
        steerkit.save_directions(path, {"a": one, "b": one}, format="gguf")
    lost = steerkit.save_directions(path, one, format="gguf")
    assert [sentence.split(",")[0].split(" is")[0] for sentence in lost] == [
        "Vectors at blocks.1.resid_post are kept in float32",
        "A control vector has no place for the reference class's mean.",
    ]
    assert steerkit.load_directions(path)["d"].positions == Positions.parse("all")
    huge = Direction(torch.tensor([[1e300]], dtype=torch.float64), "blocks.1.resid_post", name="d")
    with pytest.raises(ArtifactError, match="not finite in float32"):
        steerkit.save_directions(path, huge, format="gguf")
    with pytest.raises(ArtifactError, match="Leave out the convention"):
        steerkit.save_directions(path, one, format="gguf", options={"convention": "cvector-generator"})
    with pytest.raises(ArtifactError, match="only read, and not written"):
        steerkit.save_directions(path, one, format="cvector_generator")


def test_what_a_file_says_of_itself_must_be_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    steerkit.save_directions(path, Direction(torch.ones(1, 8), "blocks.2.resid_post", name="d"), format="gguf")
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"blocks.2.resid_post"', b'"blocks.3.resid_post"'))
    with pytest.raises(ArtifactError, match="is damaged"):
        steerkit.load_directions(path)
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"not at blocks\.3\.resid_post"):
        steerkit.load_directions(path, site="blocks.3.resid_post")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("of", [0, 8, 9])
def test_an_array_that_is_longer_than_its_file_is_not_waited_for(of: int, order: str, tmp_path: Path) -> None:
    def text(value: bytes) -> bytes:
        return struct.pack(f"{order}Q", len(value)) + value

    said = text(b"general.architecture") + struct.pack(f"{order}I", 8) + text(b"controlvector")
    array = text(b"long") + struct.pack(f"{order}IIQ", 9, of, 2**40)
    path = tmp_path / "long.gguf"
    path.write_bytes(b"GGUF" + struct.pack(f"{order}IQQ", 3, 0, 2) + said + array)
    with pytest.raises(ArtifactError, match="damaged or cut off"):
        steerkit.load_directions(path, format="repeng")
