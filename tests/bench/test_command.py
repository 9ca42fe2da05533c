"""``steerkit bench`` from the command line to the file."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.bench import study as studies
from steerkit.bench.coldstart import PLAIN, seconds_of
from steerkit.bench.front import Asked
from steerkit.bench.measure import MeasurementError
from steerkit.bench.memory import MemoryQuestion, can_measure, peak_in_process_of_its_own
from steerkit.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *arguments])
    said = capsys.readouterr()
    return int(caught.value.code or 0), said.out, said.err


def test_a_quick_look_at_a_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    threads = torch.get_num_threads()
    code, out, err = run(
        capsys, "tiny-random:llama", "--quick", "--repeats", "2", "--json", str(path), "--device", "cpu"
    )
    assert code == 0, err
    assert "tiny-random:llama, decode, batch 1, eager calls" in out and str(path) in out
    said = err.splitlines()
    beforehand = next(n for n, line in enumerate(said) if re.fullmatch(r"tiny-random:llama: about \d+ s in all", line))
    first = next(n for n, line in enumerate(said) if line.startswith("checking decode, batch 1"))
    assert beforehand < first and re.search(r"batch 1 \((about \d+ s left|longer than estimated)\)$", said[first])
    found: dict[str, Any] = json.loads(path.read_text())
    seen = {(one["phase"], one["batch"], one["case"], one["mode"], one["n"]) for one in found["records"]}
    assert len(seen) == 2 * 7 * 2 and ("decode", 1, "rows", "hook", 2) in seen
    (one,) = found["studies"]
    assert one["idle_is_nothing"] is True and one["peak_memory_mb"] is None and one["bars"] == []
    assert all(entry["error"] <= entry["allowed"] for part in one["parts"] for entry in part["logits"])
    assert path.with_suffix(".html").exists()
    assert torch.get_num_threads() == threads
    assert cores is None or os.sched_getaffinity(0) == cores


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cases", "add_everything"), "Unknown case 'add_everything'"),
        (("--modes", "folds"), "Did you mean 'fold'"),
        (("--phases", "train"), "Unknown phase"),
        (("--modes", "hook,by_hand", "--compiled"), "by_hand is measured in eager calls"),
        (("--repeats", "0"), "at least one pair"),
        (("--batches", "1,none"), "write numbers of rows"),
        (("--device", "tpu"), "not a device"),
    ],
)
def test_what_cant_be_is_said_and_exits_with_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = run(capsys, "tiny", *arguments)
    assert code == 2 and said in err and "Traceback" not in err and out == ""


def test_a_case_that_fails_ends_the_study_with_its_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise MeasurementError("Case 'add_one, hook' failed: RuntimeError: boom. Nothing is recorded for it.")

    monkeypatch.setattr(studies, "measure_pairs", fails)
    path = tmp_path / "out.json"
    code, _, err = run(capsys, "tiny-random:llama", "--quick", "--cases", "add_one", "--json", str(path))
    assert code == 2 and "add_one, hook" in err
    assert not path.exists()


def test_options_become_settings() -> None:
    found = Asked(cases="rows, idle", modes="hook", phases="prefill", batches="1,4", repeats=9).settings("tiny")
    assert (found.cases, found.modes, found.phases, found.batches) == (
        ("idle", "rows"),
        ("hook",),
        ("prefill",),
        (1, 4),
    )
    assert found.repeats == 9 and found.memory and found.prefill == (8, 256)
    quick = Asked(quick=True).settings("tiny")
    assert not quick.memory and quick.repeats < 9 <= Asked().settings("tiny").repeats


@pytest.mark.skipif(not can_measure("cpu"), reason="this system doesn't tell a process's peak memory")
def test_peak_memory_is_that_of_a_process_of_its_own() -> None:
    def asked(case: str, mode: str) -> float:
        return peak_in_process_of_its_own(MemoryQuestion("tiny-random:llama", "cpu", "auto", case, mode, 2, 16))

    assert asked("add_all", "hook") > 0


def test_a_process_that_fails_says_what_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(MeasurementError, match="'add_all', mode 'hook' failed: exit code 1"):
        peak_in_process_of_its_own(MemoryQuestion("tiny", "cpu", "auto", "add_all", "hook", 2, 16))
    with pytest.raises(MeasurementError, match="cold start of plain transformers failed"):
        seconds_of(PLAIN, Path("nowhere"))
