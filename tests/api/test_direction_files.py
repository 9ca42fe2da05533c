"""A direction and its file: what is saved is loaded, in the format that runs write, and mistakes are told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from steerkit.api.direction import Direction
from steerkit.artifacts.directions import load_directions, save_directions
from steerkit.errors import SteerkitError
from steerkit.types import Site

HERE, THERE = Site("resid_pre", 1), Site("mlp_out", 2)


def made(name: str = "d") -> Direction:
    vectors = {HERE: torch.tensor([[1.0, 2.0]]), THERE: torch.tensor([[3.0, 4.0], [5.0, 6.0]])}
    return Direction(vectors, None, "instruction", name, {THERE: torch.tensor([7.0, 8.0])}, {"estimator": "e"})


def test_what_is_saved_is_loaded_by_either_door(tmp_path: Path) -> None:
    path = tmp_path / "new" / "d.safetensors"
    made().save(path)
    save_directions(tmp_path / "list.safetensors", [made()])
    assert path.read_bytes() == (tmp_path / "list.safetensors").read_bytes()
    save_directions(tmp_path / "one.safetensors", made())
    save_directions(tmp_path / "named.safetensors", {"d": made()})
    assert path.read_bytes() == (tmp_path / "one.safetensors").read_bytes()
    assert path.read_bytes() == (tmp_path / "named.safetensors").read_bytes()
    for found in (Direction.load(path), Direction.load(str(path), "d"), load_directions(path)["d"]):
        assert (found.sites, found.positions, found.name) == (made().sites, made().positions, "d")
        assert found.by_site[THERE].tolist() == [[3.0, 4.0], [5.0, 6.0]] and dict(found.provenance) == {
            "estimator": "e"
        }
        assert found.reference_means[THERE].tolist() == [7.0, 8.0] and HERE not in found.reference_means


def test_what_was_computed_keeps_where_it_comes_from_in_its_file(tmp_path: Path) -> None:
    computed = (2 * made("a") - made("b")).unit()
    computed.save(tmp_path / "c.safetensors")
    assert dict(Direction.load(tmp_path / "c.safetensors").provenance) == dict(computed.provenance)


MISTAKES: list[tuple[Callable[[Path], object], str]] = [
    (lambda at: made().save(at / "d.gguf"), "its file is called d.safetensors. steerkit.save_directions"),
    (lambda at: made().save(at / "d"), "its file is called d.safetensors"),
    (lambda at: made().save(3), "by its path, direction.save(path), not by an int"),  # type: ignore[arg-type]
    (lambda at: made().save(at / "kept" / "d.safetensors"), "can't be written"),
    (lambda at: made().save(at / "\ud83d.safetensors"), "can't be a path: it holds half of a surrogate pair"),
    (lambda at: Direction.load(at / "none.safetensors"), "none.safetensors isn't there"),
    (lambda at: Direction.load(at), "is no file that can be read"),
    (lambda at: Direction.load(at / "fifo"), "is no file that can be read"),
    (lambda at: Direction.load("d", str(at / "two.safetensors")), "Direction.load takes the file first"),
    (lambda at: Direction.load(at / "two.safetensors"), "holds 2 directions ('one', 'two'). Say which"),
    (lambda at: Direction.load(at / "two.safetensors", "tow"), "has no direction 'tow'. Did you mean 'two'"),
    (lambda at: Direction.load(at / "kept"), "not a safetensors file"),
    (lambda at: Direction.load(at / "kept"), "steerkit.load_directions(path) reads other formats"),
    (lambda at: save_directions([made()], at / "d.safetensors"), "The file comes first: save_directions('"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("mistake", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_mistakes_are_told(mistake: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    save_directions(tmp_path / "two.safetensors", [made("one"), made("two")])
    (tmp_path / "kept").write_text("text")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SteerkitError) as caught:
        mistake(tmp_path)
    assert said in str(caught.value)
