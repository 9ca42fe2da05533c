"""Folders of weights on disk: whose process lives keeps its own, and what a killed one left goes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from steerkit.engine.loading.offload_folders import own_folder, remove


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    code = (
        "import sys, time; from steerkit.engine.loading.offload_folders import own_folder; "
        f"folder = own_folder({str(tmp_path)!r}); (folder / 'weights').write_text('w'); print(folder, flush=True); "
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        mine = own_folder(str(tmp_path))
        assert theirs.is_dir() and mine.is_dir() and theirs != mine
        other.send_signal(signal.SIGKILL)
        other.wait()
    again = own_folder(str(tmp_path))
    assert not theirs.exists() and mine.is_dir() and again.is_dir()
    remove(mine)
    remove(again)
    assert list(tmp_path.iterdir()) == []


def test_what_is_somebodys_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.lock").write_text("mine")
    (tmp_path / "results").mkdir()
    remove(own_folder(str(tmp_path)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.lock", "results"]
