"""The store: what is read is what was written, whole, whoever wrote it."""

from __future__ import annotations

import shutil
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


def test_what_is_damaged_is_told_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(KEY, b"some content")
    assert store.get(KEY) and store.discarded == []
    entry(store).write_bytes(b"other")
    assert store.get(KEY) is None and store.get(KEY) is None
    assert store.discarded == [
        f"{entry(store)} can't be read (it isn't what was written): it is discarded and computed again"
    ]


def test_an_entry_in_the_place_of_another_is_not_believed(tmp_path: Path) -> None:
    store, other = Store(tmp_path), "f" * 64
    store.put(KEY, b"some content")
    (tmp_path / "ff").mkdir()
    shutil.copy(entry(store), tmp_path / "ff" / other)
    assert store.get(other) is None
    store.put(other, b"its own")
    assert (store.get(KEY), store.get(other)) == (b"some content", b"its own")


@pytest.mark.parametrize("place", [KEY[:2], f"{KEY[:2]}/{KEY}"])
def test_what_lies_where_an_entry_belongs_gives_way(tmp_path: Path, place: str) -> None:
    """A file in a folder's place and a folder in a file's would otherwise block the key for good."""
    store, there = Store(tmp_path), tmp_path / place
    if "/" in place:
        there.mkdir(parents=True)
        (there / "x").touch()
    else:
        there.touch()
    assert store.get(KEY) is None and len(store.discarded) == 1
    store.put(KEY, b"some content")
    assert store.get(KEY) == b"some content"
