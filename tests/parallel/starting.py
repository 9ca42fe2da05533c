"""Three processes by torchrun, as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def started(script: str, *arguments: Any, seconds: float = 280, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script of this repository, or ``-m`` a module, in three processes, each with one thread."""
    own = {"OMP_NUM_THREADS": "1", "STEERKIT_PARALLEL_LIMIT": "120", **environment}
    path = os.pathsep.join([str(ROOT), str(ROOT / "plugins"), *filter(None, [os.environ.get("PYTHONPATH")])])
    named = script.split() if script.startswith("-m ") else [script]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3", *named, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **own, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
