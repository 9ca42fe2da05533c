"""Hashes of weights: the same for the same bits, another for others, and honest about what they cover."""

from __future__ import annotations

import hashlib
import json
import os
import time
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


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path / "cache"))


def aged(path: Path) -> Path:
    """A file that nobody has written for a minute."""
    before = time.time() - 60
    os.utime(path, (before, before))
    return path


@pytest.mark.parametrize("place", [0, 4321, 1_999_999])
def test_every_byte_counts(tmp_path: Path, place: int) -> None:
    content = bytearray(2_000_000)
    before = hash_of_files([write(tmp_path / "w", bytes(content))])
    content[place] = 1
    assert hash_of_files([write(tmp_path / "w", bytes(content))]) != before


def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []
    original = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: counted.append(1) or original(*args))
    return counted


def test_a_file_is_read_once_for_each_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = reads(monkeypatch)
    monkeypatch.setattr(weights, "_SETTLED", -1)  # the time at which a file was made can't be set
    path = aged(write(tmp_path / "w", b"abc"))
    first = hash_of_files([path])
    assert hash_of_files([path]) == first and len(counted) == 1
    # Another content of the same size, with the times that the file had before.
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    time.sleep(0.02)
    path.write_bytes(b"abd")
    os.utime(path, ns=times)
    assert hash_of_files([path]) != first and len(counted) == 2
    for note in (tmp_path / "cache" / "hashes").iterdir():
        note.write_text("[]" if len(counted) == 2 else "{")
    assert hash_of_files([path]) != first and len(counted) == 3


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a tick of the clock a file may change again and look the same."""
    counted = reads(monkeypatch)
    path = write(tmp_path / "w", b"abc")
    assert hash_of_files([path]) == hash_of_files([path]) and len(counted) == 2


@pytest.mark.parametrize("folder", ["cache/models/tiny-v1", "mine"])
def test_nobody_is_believed_what_a_file_holds(tmp_path: Path, folder: str) -> None:
    """Neither a manifest beside it, nor the name that a cache gave it."""
    path = write(tmp_path / folder / "w", b"abc")
    true = hash_of_files([path])
    said = {"files": {"w": {"bytes": 3, "sha256": "f" * 64}}}
    (path.parent / bundled.MANIFEST).write_text(json.dumps(said))
    assert hash_of_files([path]) == true
    blob = write(tmp_path / "blobs" / ("0f" * 32), b"abc")
    link = tmp_path / "w"
    link.symlink_to(blob)
    assert hash_of_files([link]) == true


def test_tensors_count_to_the_bit() -> None:
    tensors = {"a": torch.zeros(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    same = {"b": tensors["b"].clone(), "a": torch.zeros(3, 2).T}
    assert hash_of_tensors(tensors) == hash_of_tensors(same)
    assert hash_of_tensors(tensors) != hash_of_tensors({**tensors, "a": -torch.zeros(2, 3)})
    assert hash_of_tensors(tensors) != hash_of_tensors({**tensors, "a": torch.zeros(3, 2)})
    assert hash_of_tensors(tensors) != hash_of_tensors({**tensors, "b": torch.ones(2, dtype=torch.float16)})
