"""Halves of files: those that nobody writes any more go, and those that somebody writes stay."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from steerkit.artifacts import files
from steerkit.artifacts.files import HALVES, remove_halves, write_whole


def killed_while_writing(path: Path) -> None:
    """A process that is killed when all is written and nothing moved."""
    child = os.fork()
    if not child:
        files.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        write_whole(path, b"half")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_what_a_killed_process_was_writing_goes(tmp_path: Path) -> None:
    for place in ("a.json", "below/b.json"):
        killed_while_writing(tmp_path / place)
    assert len(list(tmp_path.rglob(HALVES))) == 2
    assert remove_halves(tmp_path, deep=False) == 1 and remove_halves(tmp_path) == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["below"]
    assert remove_halves(tmp_path / "nowhere") == 0


def test_what_is_being_written_stays(tmp_path: Path) -> None:
    removed = []
    sync = os.fsync

    def meanwhile(number: int) -> None:
        removed.append(remove_halves(tmp_path))
        sync(number)

    files.os.fsync = meanwhile
    try:
        write_whole(tmp_path / "a.json", b"whole")
    finally:
        files.os.fsync = sync
    assert removed == [0] and [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"whole"


def test_writers_and_removers_at_once_lose_nothing(tmp_path: Path) -> None:
    failed: list[BaseException] = []
    stop = threading.Event()

    def write(name: str) -> None:
        try:
            for number in range(60):
                write_whole(tmp_path / name, f"{number}".encode())
        except BaseException as error:
            failed.append(error)

    def remove() -> None:
        while not stop.is_set():
            remove_halves(tmp_path)

    removers = [threading.Thread(target=remove) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(f"{number}.txt",)) for number in range(4)]
    for thread in (*removers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in removers:
        thread.join()
    assert not failed
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {f"{n}.txt": "59" for n in range(4)}
