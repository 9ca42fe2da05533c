"""Peak memory of a case: on a CPU in a process of its own, since a process doesn't give back what it once held.

python -m steerkit.bench.memory '{"model": "tiny", "case": "add_all", "mode": "hook", ...}'
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steerkit.bench.measure import MeasurementError

if TYPE_CHECKING:
    from steerkit.session.model import LiveModel

PLAIN: Final = "none"
_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
_LIBRARY: Final = "libc.so.6"
GIVE_BACK: Final = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
"""Has the C library give back what is freed at once, so that a peak is of what was held and not of what was kept."""


@dataclass(frozen=True)
class MemoryQuestion:
    """What a process is asked.

    Args:
        model: the source.
        device: where it runs.
        dtype: of its weights.
        case: a name of ``CASES``, or ``none``.
        mode: how it is lowered; empty for ``none``.
        batch: prompts.
        length: tokens of each.
    """

    model: str
    device: str
    dtype: str
    case: str
    mode: str
    batch: int
    length: int


def can_measure(device: str) -> bool:
    """Whether this system tells a process's peak."""
    return device.startswith("cuda") or (_CLEAR.exists() and _STATUS.exists())


def peak_in_process_of_its_own(question: MemoryQuestion) -> float:
    """How far memory rises above what is held when attaching begins, in MB, in a fresh process.

    Raises:
        MeasurementError: where that process fails; with what it said.
    """
    command = [sys.executable, "-m", "steerkit.bench.memory", json.dumps(asdict(question))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **GIVE_BACK})
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        said = "\n".join(done.stderr.splitlines()[-3:]) or f"exit code {done.returncode}"
        raise MeasurementError(f"Peak memory of case {question.case!r}, mode {question.mode!r} failed: {said}")
    return float(json.loads(lines[-1])["peak_mb"])


def peak(live: LiveModel, question: MemoryQuestion) -> float:
    """The same in this process, in MB: attach, run the prompts and some steps, detach."""
    import torch

    from steerkit.bench.conditions import Case, build, observe, steered
    from steerkit.bench.workloads import Workload, prompts

    vocabulary = int(live.hf_model.get_output_embeddings().weight.shape[0])
    ids = prompts(question.batch, question.length, vocabulary, live.device)
    workload = Workload("decode", live.hf_model, ids)
    # Looked at and run once without steering, in every process alike: what stays behind from first calls is no case's.
    stream = observe(live, workload)
    condition = Case(PLAIN) if question.case == PLAIN else build(question.case, live, stream, question.batch)
    workload.logits()
    on_gpu = live.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(live.device)
        torch.cuda.reset_peak_memory_stats(live.device)
        before = torch.cuda.memory_allocated(live.device) / 2**20
    else:
        before = resident_after_clearing()
    if condition.case == PLAIN:
        workload.logits()
    else:
        with steered(live, condition, question.mode):
            workload.logits()
    if on_gpu:
        return torch.cuda.max_memory_allocated(live.device) / 2**20 - before
    return status("VmHWM") - before


def resident_after_clearing() -> float:
    """MB that this process holds, once it gave back what was freed and forgot its peak so far."""
    import gc

    gc.collect()
    # Another C library gives back on its own, or not at all.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(_LIBRARY).malloc_trim(0)
    _CLEAR.write_text("5")
    return status("VmRSS")


def status(key: str) -> float:
    """MB of this process, as the system tells them: ``VmRSS`` now, ``VmHWM`` at most."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def _main(text: str) -> None:
    from steerkit.bench.machine import pin
    from steerkit.bench.models import load_subject

    pin()
    question = MemoryQuestion(**json.loads(text))
    found: dict[str, Any] = {
        "peak_mb": peak(load_subject(question.model, device=question.device, dtype=question.dtype), question)
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    _main(sys.argv[1])
