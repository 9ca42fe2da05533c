"""The store: what is read is what was written, whole, whoever wrote it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from steerkit.artifacts.store import Store
from steerkit.errors import ArtifactError

KEY = "0123456789abcdef" * 4


def entry(store: Store) -> Path:
    (path,) = (path for path in store.folder.rglob("*") if path.is_file())
    return path


@pytest.mark.parametrize("content", [b"", b"\n", b"abc", bytes(range(256)) * 40])
def test_what_is_put_comes_back(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path / "store")
    assert store.get(KEY) is None
    store.put(KEY, content)
    assert store.get(KEY) == content
    assert Store(tmp_path / "store").get(KEY) == content


def test_what_is_damaged_is_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(KEY, b"some content")
    whole = entry(store).read_bytes()
    for damaged in (b"", whole[:-1], whole[:64], whole + b"x", whole[:-1] + b"T", b"0" + whole[1:]):
        if damaged != whole:
            entry(store).write_bytes(damaged)
            assert store.get(KEY) is None, damaged
    store.put(KEY, b"some content")
    assert store.get(KEY) == b"some content"


def test_many_writers_of_one_key_leave_one_whole_entry(tmp_path: Path) -> None:
    store, content = Store(tmp_path), bytes(100_000)
    seen: list[bytes | None] = []

    def write() -> None:
        for _ in range(10):
            store.put(KEY, content)
            seen.append(store.get(KEY))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [content] * 40 and entry(store).name == KEY


def test_a_key_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no key"):
        Store(tmp_path).get("../" * 20 + "etc")


def test_a_store_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="--store"):
        Store(tmp_path / "file").put(KEY, b"x")
