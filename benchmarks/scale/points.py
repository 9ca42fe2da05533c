"""Points that are measured on this machine, in one pinned thread: models that fit, each beside the machine's rates.

Machines are shared and noisy, so of every time the least of several counts, and rates are measured in turn with the
model's own passes.

python -m benchmarks.scale.points NAME   one model in a process of its own, as JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.scale.models import MEASURED
from benchmarks.scale.simulate import PROMPT, ROWS, Machine
from steerkit.bench.memory import GIVE_BACK, resident_after_clearing, status

if TYPE_CHECKING:
    from benchmarks.scale.models import Sized

TIMES: Final = 3
STEPS: Final = 4
ROUNDS: Final = 2


@dataclass(frozen=True)
class Point:
    """What was measured of a model, and of the machine beside it.

    Args:
        name: the model.
        weights: bytes that the process grew by while the model was built.
        peak: bytes that it grew by further in the prefill, at its fullest.
        step_seconds: of a decode step behind ``PROMPT`` tokens, the least.
        prefill_seconds: of ``ROWS`` rows of ``PROMPT`` tokens, the least.
        bandwidth: bytes a second of a product of a matrix and a vector, the most.
        rate: operations a second of a product of ``ROWS * PROMPT`` tokens with a matrix of the model's sizes, the most.
    """

    name: str
    weights: int
    peak: int
    step_seconds: float
    prefill_seconds: float
    bandwidth: float
    rate: float

    @property
    def machine(self) -> Machine:
        """The rates beside it."""
        from steerkit.engine.footprint.devices import main_memory

        return Machine("this CPU, one thread", self.bandwidth, self.rate, main_memory(), "measured")


def measure(sized: Sized) -> Point:
    """Measure a model in a process of its own, which gives back what it held."""
    command = [sys.executable, "-m", "benchmarks.scale.points", sized.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **GIVE_BACK})
    if done.returncode != 0:
        raise SystemExit(f"{sized.name} can't be measured: {done.stderr.strip().splitlines()[-1:]}")
    return Point(**json.loads(done.stdout.splitlines()[-1]))


def _here(sized: Sized) -> Point:
    import torch
    from transformers import AutoModelForCausalLM

    from steerkit.bench.models import draw

    warm: Any = AutoModelForCausalLM.from_config(MEASURED[0].config())  # what is imported is no model's
    warm(torch.zeros(1, 8, dtype=torch.long), use_cache=True)
    del warm
    before = resident_after_clearing()
    model: Any = AutoModelForCausalLM.from_config(sized.config(), dtype=torch.float32).eval()
    draw(model, 0, "cpu")
    weights = round((resident_after_clearing() - before) * 2**20)
    ids = torch.randint(sized.vocabulary, (ROWS, PROMPT), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        held = resident_after_clearing()
        model(ids, use_cache=True, logits_to_keep=1)
        peak = round((status("VmHWM") - held) * 2**20)
        step = prefill = float("inf")
        bandwidth = rate = 0.0
        for _ in range(ROUNDS):
            found = _rates(sized)
            bandwidth, rate = max(bandwidth, found[0]), max(rate, found[1])
            began = time.perf_counter()
            model(ids, use_cache=True, logits_to_keep=1)
            prefill = min(prefill, time.perf_counter() - began)
            step = min(step, *(_step(model, ids) for _ in range(TIMES)))
    return Point(sized.name, weights, peak, step, prefill, bandwidth, rate)


def _step(model: Any, ids: Any) -> float:
    cache = model(ids[:1], use_cache=True, logits_to_keep=1).past_key_values
    began = time.perf_counter()
    for _ in range(STEPS):
        model(ids[:1, :1], past_key_values=cache, use_cache=True)
    return (time.perf_counter() - began) / STEPS


def _rates(sized: Sized) -> tuple[float, float]:
    """Bytes and operations a second, by the products that models are made of."""
    import torch

    matrix, vector = torch.randn(8192, 8192), torch.randn(8192)
    bandwidth = matrix.nbytes / _least(lambda: matrix @ vector)
    left, right = torch.randn(ROWS * PROMPT, sized.width), torch.randn(sized.inner, sized.width)
    operations = 2 * left.shape[0] * right.numel()
    return bandwidth, operations / _least(lambda: torch.nn.functional.linear(left, right), 2)


def _least(work: Callable[[], object], times: int = TIMES) -> float:
    work()
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def _main(name: str) -> None:
    from steerkit.bench.machine import pin

    pin()
    point = _here(next(one for one in MEASURED if one.name == name))
    print(json.dumps(asdict(point)))


if __name__ == "__main__":
    _main(sys.argv[1])
