"""A checkpoint's folder is whole in its place or not at all, and what a kill leaves goes with the next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from steerkit.baking.place import remove_abandoned, written

WRITER = """
import sys
from pathlib import Path
from steerkit.baking.place import written
with written(Path(sys.argv[1])) as folder:
    (folder / "weights").write_text("half")
    print(folder, flush=True)
    sys.stdin.read()
"""


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_what_ends_well_is_in_its_place_and_holds_what_was_written_alone(tmp_path: Path) -> None:
    with written(tmp_path / "deep" / "out") as folder:
        (folder / "weights").write_text("whole")
    assert left_in(tmp_path) == ["deep", "deep/out", "deep/out/weights"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_ends_otherwise_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error), written(tmp_path / "deep" / "out") as folder:
        (folder / "weights").write_text("half")
        raise error
    assert left_in(tmp_path) == []


def test_what_a_kill_leaves_goes_with_the_next_start_and_nobody_elses(tmp_path: Path) -> None:
    out = tmp_path / "out [1]"
    (tmp_path / ".out [1].mine.tmp").mkdir()
    processes = []
    for _ in range(2):
        command = [sys.executable, "-c", WRITER, str(out)]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    with processes[0] as killed, processes[1] as writes:
        folders = []
        for process in processes:
            assert process.stdout is not None
            folders.append(Path(process.stdout.readline().strip()))
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        assert all((folder / "weights").is_file() for folder in folders)
        remove_abandoned(out)
        assert not folders[0].exists() and (folders[1] / "weights").is_file()
        assert (tmp_path / ".out [1].mine.tmp").is_dir()
        writes.communicate("")
    assert left_in(tmp_path) == [".out [1].mine.tmp", "out [1]", "out [1]/weights"]
