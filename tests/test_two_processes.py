"""Processes that run one recipe at the same moment: on one store, and in one folder of runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RECIPE = """\
name: shared
model: {source: "tiny-random:llama", chat_template: none}
data:
  warm: {inline: [w1, w2, w3], split: {train: 2, test: 1}}
  cold: {inline: [c1, c2, c3], split: {train: 2, test: 1}}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
conditions:
  warmer: {interventions: [{add: {direction: warmth}}], sweep: {coefficient: [-1, 1]}}
evaluate:
  - cross_entropy: {data: warm.test}
control: {random_directions: 1}
report:
  samples: {data: warm.test, n: 1, max_new_tokens: 4}
"""
RUNS = ("a", "b", "b")
"""Folders of runs. Who finds a run directory held by another process begins one beside it."""


def test_processes_on_one_store_and_in_one_folder_end_with_equal_bytes(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE, "utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "steerkit", "run", recipe, "--threads", "1", "--store", tmp_path / "store"]
    started = [
        subprocess.Popen(
            [*command, "--out", tmp_path / out],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for out in RUNS
    ]
    try:
        for process in started:
            _, said = process.communicate(timeout=120)
            assert process.returncode == 0, said
            assert "Traceback" not in said
    finally:
        for process in started:
            process.kill()
            process.wait()
    found = sorted(tmp_path.glob("[ab]/*/results.json"))
    assert [path.parent.parent.name for path in found] == sorted(RUNS)
    for name in ("results.json", "samples.jsonl", "directions.safetensors", "recipe.yaml", "plan.json"):
        assert len({path.with_name(name).read_bytes() for path in found}) == 1, name
    left = [path for path in tmp_path.rglob("*") if path.suffix in (".tmp", ".part") or path.name == ".lock"]
    assert not [path for path in left if "store" not in path.parts], left
