"""What is kept in the cache and is damaged counts as not there, at every door."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerkit.artifacts.answers import AnswersOnDisk
from steerkit.bundled import MANIFEST, read_manifest
from steerkit.engine.loading.weights import _remembered_hash

DAMAGED = [b"", b"{", b"\xff\xfe", b"[]", b"[" * 200_000, b'{"question": 1}', b"null"]


@pytest.mark.parametrize("damaged", DAMAGED, ids=range(len(DAMAGED)))
def test_what_is_damaged_is_not_there(tmp_path: Path, damaged: bytes) -> None:
    kept = AnswersOnDisk(tmp_path / "answers")
    kept.put("a judge", "Is it?", "Yes.")
    assert kept.get("a judge", "Is it?") == "Yes."
    kept.path("a judge", "Is it?").write_bytes(damaged)
    assert kept.get("a judge", "Is it?") is None
    kept.put("a judge", "Is it?", "Yes.")
    assert kept.get("a judge", "Is it?") == "Yes."
    (tmp_path / MANIFEST).write_bytes(damaged)
    assert read_manifest(tmp_path) in (None, {"question": 1})
    assert _remembered_hash(tmp_path / MANIFEST, {"size": 1}) is None


def test_halves_of_answers_go_with_the_next_one(tmp_path: Path) -> None:
    kept = AnswersOnDisk(tmp_path)
    kept.put("a judge", "Is it?", "Yes.")
    half = kept.path("a judge", "Is it?").parent / ".x.json.0123456789abcdef.tmp"
    half.touch()
    kept.put("a judge", "Is it?", "No.")
    assert not half.exists() and kept.get("a judge", "Is it?") == "No."
