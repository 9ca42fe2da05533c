"""Hashes of weights: the same for the same bits, another for others, and honest about what they cover."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from steerkit import bundled
from steerkit.engine.loading import weights
from steerkit.engine.loading.weights import hash_of_files, hash_of_tensors


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_content_and_name_count_place_and_order_dont(tmp_path: Path) -> None:
    a, b = write(tmp_path / "x/a", b"1"), write(tmp_path / "x/b", b"2")
    there = [write(tmp_path / "y/b", b"2"), write(tmp_path / "y/a", b"1")]
    assert hash_of_files([a, b]) == hash_of_files(there)
    assert hash_of_files([a, b]) != hash_of_files([a, write(tmp_path / "z/b", b"3")])
    assert hash_of_files([a]) != hash_of_files([write(tmp_path / "z/c", b"1")])
    assert hash_of_files([]) is None


def test_a_large_file_is_sampled_and_the_hash_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "WHOLE", 1000)
    monkeypatch.setattr(weights, "_SAMPLE", 10)
    content = bytearray(2000)
    before = hash_of_files([write(tmp_path / "w", bytes(content))])
    assert before is not None and before.startswith("sha256-sampled:")
    for place in (0, 1999):  # first and last byte are always covered
        changed = bytearray(content)
        changed[place] = 1
        assert hash_of_files([write(tmp_path / "w", bytes(changed))]) != before
    assert hash_of_files([write(tmp_path / "w", bytes(2001))]) != before


def test_what_the_hub_cache_knows_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "WHOLE", 10)
    blob = write(tmp_path / "blobs" / ("0f" * 32), bytes(100))
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    found = hash_of_files([link])
    assert found is not None and found.startswith("sha256:")


def manifest(path: Path, said: object) -> None:
    (path.parent / bundled.MANIFEST).write_text(json.dumps(said))


def test_a_manifest_is_believed_in_our_cache_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "WHOLE", 1)
    said = {"files": {"w": {"bytes": 3, "sha256": "f" * 64}}}
    ours = write(tmp_path / "cache" / "models" / "tiny-v1" / "w", b"abc")
    elsewhere = [
        write(tmp_path / "w", b"abc"),
        write(tmp_path / "cache" / "w", b"abc"),
        write(tmp_path / "models" / "tiny-v1" / "w", b"abc"),
        write(tmp_path / "cache" / "models" / "tiny-v1" / "deeper" / "w", b"abc"),
    ]
    monkeypatch.setattr(weights, "_SAMPLE", 1)
    true = hash_of_files([ours])
    for path in (ours, *elsewhere):
        manifest(path, said)
    assert {hash_of_files([path]) for path in elsewhere} == {true}
    believed = hash_of_files([ours])
    assert believed is not None and believed != true and believed.startswith("sha256:")
    write(ours, b"abcd")
    assert hash_of_files([ours]) == hash_of_files([write(tmp_path / "w", b"abcd")]), "of another size than listed"


@pytest.mark.parametrize("said", [[], {}, {"files": []}, {"files": {"w": 1}}, {"files": {"w": {"bytes": 3}}}])
@pytest.mark.parametrize("folder", ["cache/models/tiny-v1", "mine"])
def test_a_manifest_of_another_form_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: object, folder: str
) -> None:
    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path / "cache"))
    path = write(tmp_path / folder / "w", b"abc")
    true = hash_of_files([path])
    manifest(path, said)
    assert hash_of_files([path]) == true


def test_tensors_count_to_the_bit() -> None:
    tensors = {"a": torch.zeros(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    same = {"b": tensors["b"].clone(), "a": torch.zeros(3, 2).T}
    assert hash_of_tensors(tensors) == hash_of_tensors(same)
    assert hash_of_tensors(tensors) != hash_of_tensors({**tensors, "a": -torch.zeros(2, 3)})
    assert hash_of_tensors(tensors) != hash_of_tensors({**tensors, "a": torch.zeros(3, 2)})
    assert hash_of_tensors(tensors) != hash_of_tensors({**tensors, "b": torch.ones(2, dtype=torch.float16)})
