"""One of several processes: loads a model in shares and alone, runs the cases, and says what came of each.

    torchrun --nproc-per-node 3 tests/parallel/steps.py FOLDER RESULTS [CASE ...]
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from pathlib import Path

import torch.distributed as dist

from tests.parallel.cases import CASES


def main(folder: str, results: str, *names: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.distributed import DistributedConfig

    from steerkit.session import load_model, wrap

    model = AutoModelForCausalLM.from_pretrained(folder, distributed_config=DistributedConfig(tp_size=3))
    sharded, alone = wrap(model, AutoTokenizer.from_pretrained(folder)), load_model(folder)
    found = {}
    for name in names or CASES:
        began = time.perf_counter()
        try:
            found[name] = {"error": CASES[name](alone, sharded)}
        except Exception:
            found[name] = {"failed": traceback.format_exc()}
        found[name]["seconds"] = time.perf_counter() - began
        every = [None] * dist.get_world_size()
        dist.all_gather_object(every, found[name])
        found[name]["ranks"] = every
    Path(f"{results}.{dist.get_rank()}").write_text(json.dumps(found))
    if dist.get_rank() == 0:
        for name, one in found.items():
            print(f"{name:22} {one['seconds']:6.2f}", one.get("failed") or one["error"])
            for other in one["ranks"]:
                if other.get("failed") and not one.get("failed"):
                    print("   other:", other["failed"])
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
