"""One of several processes: loads a model in shares and alone, runs the cases, and writes what came of each.

torchrun --nproc-per-node 3 tests/parallel/steps.py FOLDER RESULTS [CASE ...]
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tests.parallel.cases import ALIKE, CASES


def main(folder: str, results: str, *names: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.distributed import DistributedConfig

    from steerkit.session import load_model, wrap

    cut = load_model(folder, tensor_parallel=3, self_test=False)  # which is a case of its own
    alone = load_model(folder, self_test=False)
    found = {name: told(name, alone, cut) for name in CASES if name in (names or CASES)}
    files = alone.model.config._name_or_path
    gathered: Any = AutoModelForCausalLM.from_pretrained(files, distributed_config=DistributedConfig(fsdp_size=3))
    whole = wrap(gathered, AutoTokenizer.from_pretrained(files))
    found |= {
        f"fsdp_{name}": told(name, alone, whole) for name in ALIKE if f"fsdp_{name}" in (names or [f"fsdp_{name}"])
    }
    if dist.get_rank() == 0:
        Path(results).write_text(json.dumps(found))
    dist.destroy_process_group()


def told(name: str, alone: Any, shared: Any) -> list[dict[str, Any]]:
    """What a case came to in each process."""
    began = time.perf_counter()
    here: dict[str, Any] = {}
    try:
        here["error"] = {**CASES, **ALIKE}[name](alone, shared)
    except Exception:
        here["failed"] = traceback.format_exc()
    here["seconds"] = time.perf_counter() - began
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, here)
    return every


if __name__ == "__main__":
    main(*sys.argv[1:])
