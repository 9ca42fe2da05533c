"""One of several processes of a run, in which the one of a rank fails in the middle of a pass.

    torchrun --nproc-per-node 3 tests/parallel/failing.py HOW RANK RECIPE OUT

HOW is ``raise`` (an error that no other process has), ``kill``, ``hang``, or ``all`` (every process has the error).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from torch import nn


def main(how: str, rank: str, recipe: str, out: str) -> None:
    from steerkit.cli.start import main as command
    from steerkit.errors import DataError
    from steerkit.executors import ranks

    carry, passes = ranks.run_unit, []

    def fails(module: nn.Module, *_: Any) -> None:
        passes.append(module)
        if len(passes) < 2:
            return
        if how == "raise":
            raise MemoryError("no room for 8 GiB")
        if how == "all":
            raise DataError("No prompt is any good.")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            time.sleep(1)

    def failing(unit: Any, bench: Any) -> Any:
        if not passes and (how == "all" or int(os.environ["RANK"]) == int(rank)):
            live = bench._live
            live.model.get_submodule(live.layout.blocks[0].module).register_forward_pre_hook(fails)
        return carry(unit, bench)

    ranks.run_unit = failing
    sys.argv = ["steerkit", "run", recipe, "--set", "model.tensor_parallel=3", "--out", out]
    command()


if __name__ == "__main__":
    main(*sys.argv[1:])
