"""Points that are measured on this machine, in one pinned thread: its rates, and models that fit.

python -m benchmarks.scale.points NAME   one model in a process of its own, as JSON
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.scale.models import MEASURED
from benchmarks.scale.simulate import PROMPT, ROWS, Machine

if TYPE_CHECKING:
    from benchmarks.scale.models import Sized

TIMES = 5
STEPS = 4


@dataclass(frozen=True)
class Point:
    """What was measured of a model.

    Args:
        name: the model.
        weights: bytes that the process grew by while the model was built.
        peak: bytes that it grew by further in the prefill.
        step_seconds: of a decode step behind ``PROMPT`` tokens, the median of ``TIMES``.
        prefill_seconds: of ``ROWS`` rows of ``PROMPT`` tokens, likewise.
    """

    name: str
    weights: int
    peak: int
    step_seconds: float
    prefill_seconds: float


def rates() -> Machine:
    """This machine's bandwidth and rate, by the products that models are made of, in one thread and float32."""
    import torch

    from steerkit.engine.footprint.devices import main_memory

    matrix, vector = torch.randn(8192, 8192), torch.randn(8192)
    seconds = _median(lambda: matrix @ vector)
    left, right = torch.randn(4096, 1024), torch.randn(1024, 2816)
    rate = 2 * 4096 * 1024 * 2816 / _median(lambda: left @ right)
    return Machine("this CPU, one thread", matrix.nbytes / seconds, rate, main_memory(), "measured")


def measure(sized: Sized) -> Point:
    """Measure a model in a process of its own, which gives back what it held."""
    command = [sys.executable, "-m", "benchmarks.scale.points", sized.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{sized.name} can't be measured: {done.stderr.strip().splitlines()[-1:]}")
    return Point(**json.loads(done.stdout.splitlines()[-1]))


def _here(sized: Sized) -> Point:
    import torch
    from transformers import AutoModelForCausalLM

    from steerkit.bench.models import draw

    warm: Any = AutoModelForCausalLM.from_config(MEASURED[0].config())  # what is imported and compiled is no model's
    warm(torch.zeros(1, 8, dtype=torch.long), use_cache=True)
    del warm
    before = _resident()
    model: Any = AutoModelForCausalLM.from_config(sized.config(), dtype=torch.float32).eval()
    draw(model, 0, "cpu")
    weights = _resident() - before
    ids = torch.randint(sized.vocabulary, (ROWS, PROMPT), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        held = _resident()
        model(ids, use_cache=True, logits_to_keep=1)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - held
        prefill = _median(lambda: model(ids, use_cache=True, logits_to_keep=1), 3)

        def steps() -> float:
            cache = model(ids[:1], use_cache=True, logits_to_keep=1).past_key_values
            began = time.perf_counter()
            for _ in range(STEPS):
                model(ids[:1, :1], past_key_values=cache, use_cache=True)
            return (time.perf_counter() - began) / STEPS

        step = statistics.median(steps() for _ in range(TIMES))
    return Point(sized.name, weights, peak, step, prefill)


def _resident() -> int:
    import gc

    gc.collect()
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))


def _median(work: Callable[[], object], times: int = TIMES) -> float:
    work()
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def _main(name: str) -> None:
    from steerkit.bench.machine import pin

    pin()
    point = _here(next(one for one in MEASURED if one.name == name))
    print(json.dumps(asdict(point)))


if __name__ == "__main__":
    _main(sys.argv[1])
