"""From starting Python to the first steered token, against plain transformers to its first token."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steerkit.bench.measure import MeasurementError, Sample, bootstrap_median

if TYPE_CHECKING:
    from steerkit.session.model import LiveModel

# Both set one thread, load the same folder, and make one token of the same text.
PLAIN: Final = """
import sys, torch
torch.set_num_threads(1)
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
ids = tokenizer("The sea is", return_tensors="pt")
found = model.generate(**ids, max_new_tokens=1, do_sample=False)
assert found.shape[1] == ids["input_ids"].shape[1] + 1
"""

STEERED: Final = """
import sys, torch
torch.set_num_threads(1)
import steerkit
live = steerkit.load_model(sys.argv[1], device="cpu", chat_template="none")
vector = torch.ones(1, live.layout.d_model)
direction = steerkit.Direction(vector, "blocks.1.resid_pre")
with live.steer(steerkit.add(direction)):
    found = live.complete(["The sea is"], max_new_tokens=1)
assert len(found) == 1
"""


@dataclass(frozen=True)
class ColdStart:
    """Seconds of fresh processes, in pairs. By CPU time, since a shared machine starts processes when it likes.

    Args:
        plain: of plain transformers, median.
        extra: of the first steered token on top of it, median of the differences of pairs.
        low: lower end of the bootstrap 95 % interval of ``extra``.
        high: upper end.
        extra_wall: like ``extra``, by wall time.
        plain_samples: every one.
        steered_samples: the one beside each.
    """

    plain: float
    extra: float
    low: float
    high: float
    extra_wall: float
    plain_samples: tuple[Sample, ...]
    steered_samples: tuple[Sample, ...]


def cold_start(live: LiveModel, repeats: int, progress: Callable[[int, int], object]) -> ColdStart:
    """Save the model to a folder and start processes on it, in pairs; the first pair only warms the disk's cache.

    Raises:
        MeasurementError: where a process fails; with what it said.
    """
    from steerkit.engine.loading.quiet import quiet_transformers

    if live.tokenizer is None:
        raise MeasurementError("The cold start is measured with a text, and this model has no tokenizer.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with quiet_transformers():
            live.hf_model.save_pretrained(folder)
        live.tokenizer.save_pretrained(folder)
        pairs = []
        for number in range(repeats + 1):
            progress(number, repeats + 1)
            scripts = (PLAIN, STEERED) if number % 2 else (STEERED, PLAIN)
            taken = {script: seconds_of(script, folder) for script in scripts}
            pairs.append((taken[PLAIN], taken[STEERED]))
        progress(repeats + 1, repeats + 1)
    return summarise(pairs[1:])


def summarise(pairs: Sequence[tuple[Sample, Sample]]) -> ColdStart:
    """Medians and interval of ``(plain, steered)`` pairs."""
    plain, steered = zip(*pairs, strict=True)
    differences = [own.cpu - beside.cpu for beside, own in pairs]
    low, high = bootstrap_median(differences)
    return ColdStart(
        statistics.median(sample.cpu for sample in plain),
        statistics.median(differences),
        low,
        high,
        statistics.median(own.wall - beside.wall for beside, own in pairs),
        plain,
        steered,
    )


def seconds_of(script: str, folder: Path) -> Sample:
    """What a fresh Python takes that runs a script on a folder."""
    wall, cpu = time.perf_counter(), _cpu_of_children()
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False)
    taken = Sample(_cpu_of_children() - cpu, time.perf_counter() - wall)
    if done.returncode != 0:
        said = "\n".join(done.stderr.splitlines()[-3:]) or f"exit code {done.returncode}"
        which = "plain transformers" if script == PLAIN else "steerkit"
        raise MeasurementError(f"The cold start of {which} failed: {said}")
    return taken


def _cpu_of_children() -> float:
    """Seconds of all processes that were started here and have ended."""
    times = os.times()
    return times.children_user + times.children_system
