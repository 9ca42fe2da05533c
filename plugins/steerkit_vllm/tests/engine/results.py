"""What was measured, kept with where it was."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[4] / "benchmarks" / "results" / "vllm-cpu.json"
"""Beside the other benchmarks' results; STEERKIT_VLLM_RESULTS names another file."""


def keep(section: str, value: Any) -> None:
    """Put a measurement into the file, in place of an older one."""
    import torch
    import transformers
    import vllm

    path = Path(os.environ.get("STEERKIT_VLLM_RESULTS", FILE))
    told = json.loads(path.read_text()) if path.exists() else {}
    told["machine"] = {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "model": "smollm2-135m-instruct",
        "dtype": "float32",
    }
    told[section] = value
    path.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
