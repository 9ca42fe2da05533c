"""What a model takes and how fast it can be at best, from its shape and the rates of a machine.

A decode step reads every weight once (of the embedding a row) and the keys and values before it; a prefill computes.
Neither is faster than the slower of what it reads over the machine's bandwidth and what it computes over its rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.scale.models import Sized

PROMPT, ROWS = 256, 16
"""A batch of 4,096 tokens, the budget of recipes."""


@dataclass(frozen=True)
class Machine:
    """Rates of a machine.

    Args:
        name: what it is.
        bandwidth: bytes a second, read from memory by a product of a matrix and a vector.
        rate: floating-point operations a second in products of large matrices.
        memory: bytes.
        source: who says so: ``measured``, or a vendor's data sheet.
    """

    name: str
    bandwidth: float
    rate: float
    memory: float
    source: str


GPUS = (
    Machine("H100 80 GB SXM", 3.35e12, 989e12, 80 * 2**30, "NVIDIA's data sheet, dense bfloat16"),
    Machine("H200 141 GB", 4.8e12, 989e12, 141e9, "NVIDIA's data sheet, dense bfloat16"),
)


@dataclass(frozen=True)
class Simulated:
    """What follows from a shape.

    Args:
        parameters: weights, each shared one once.
        weights: their bytes.
        cache: bytes of keys and values of ``ROWS`` rows of ``PROMPT`` tokens.
        work: bytes that their prefill holds beside.
        step_bytes: read in a decode step of one row behind ``PROMPT`` tokens.
        step_operations: computed in it.
        prefill_operations: computed in the prefill.
        gpus: of 80 GB that hold it with all of this.
        shared_out: the share of weights that tensor parallelism splits; None for no plan.
    """

    parameters: int
    weights: int
    cache: int
    work: int
    step_bytes: int
    step_operations: int
    prefill_operations: int
    gpus: int
    shared_out: float | None

    def step_seconds(self, machine: Machine) -> float:
        """Of one decode step at best."""
        return max(self.step_bytes / machine.bandwidth, self.step_operations / machine.rate)

    def prefill_seconds(self, machine: Machine) -> float:
        """Of the prefill at best."""
        return max(self.weights / machine.bandwidth, self.prefill_operations / machine.rate)


def simulate(sized: Sized, dtype: str, rows: int = ROWS, columns: int = PROMPT) -> Simulated:
    """Build a model on the meta device and count.

    Args:
        sized: the shape.
        dtype: of the weights.
        rows: of the batch that is read.
        columns: tokens of each.
    """
    import torch

    from steerkit.engine.footprint.fitting import GPU, needed
    from steerkit.engine.footprint.model import Shape, footprint

    model: Any = sized.empty(getattr(torch, dtype))
    shape = Shape(rows, columns)
    found = footprint(model, [shape])
    embedding = model.get_input_embeddings().weight
    tied = model.get_output_embeddings().weight is embedding
    own_cache = found.passes[shape].cache // rows
    return Simulated(
        parameters=found.n_parameters,
        weights=found.weight_bytes,
        cache=found.cache_bytes,
        work=found.work_bytes,
        step_bytes=found.weight_bytes - (0 if tied else embedding.nbytes) + own_cache,
        step_operations=_operations(model, 1, 1, columns),
        prefill_operations=_operations(model, rows, columns, 0),
        gpus=needed(found, GPU),
        shared_out=found.shared_out,
    )


def _operations(model: Any, rows: int, columns: int, before: int) -> int:
    """Floating-point operations of products in a call, a multiplication and an addition counted as two."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad():
        cache = None
        if before:
            ids = torch.zeros(rows, before, dtype=torch.long, device="meta")
            cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
        ids = torch.zeros(rows, columns, dtype=torch.long, device="meta")
        with FlopCounterMode(display=False) as counter:
            model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return int(counter.get_total_flops())
