"""A small recipe that has a part of everything, and what tests of runs look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerkit.artifacts.store import STORE
from steerkit.executors import local
from steerkit.stages import Task, carry_out

RECIPE = """
name: small
seed: 7
model: {source: "tiny-random:llama", dtype: float32}
data:
  warm:
    inline: [sun one, sun two, sun three, sun four, sun five, sun six, sun seven, sun eight]
    split: {train: 4, test: 4}
  cold:
    inline: [ice one, ice two, ice three, ice four, ice five, ice six, ice seven, ice eight]
    split: {train: 4, test: 4}
  text: {inline: ["A plain sentence of some words.", "Another sentence, of other words."]}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
conditions:
  warmer:
    - add: {direction: warmth, coefficient: 3.0}
  without:
    - ablate: {direction: warmth}
  dose:
    interventions:
      - add: {direction: warmth}
    sweep: {coefficient: [-2, 2]}
    control: false
evaluate:
  - refusal_score: {data: [warm.test, cold.test]}
  - kl_divergence: {data: cold.test}
  - refusal_rate: {data: cold.test, max_new_tokens: 4}
  - cross_entropy: {data: text}
control: {random_directions: 2}
report:
  samples: {data: cold.test, n: 2, max_new_tokens: 4}
"""
STABLE = ["recipe.yaml", "plan.json", "directions.safetensors", "results.json", "samples.jsonl", "provenance.json"]


def results_of(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run / "results.json").read_text())
    return loaded


def runs_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != STORE)


def carried(monkeypatch: pytest.MonkeyPatch, dies_at: int = 0) -> list[Task]:
    """The tasks that are carried out from now on; the process is stopped when it begins the ``dies_at``-th unit."""
    done: list[Task] = []
    units: list[int] = []

    def counts(tasks: Any, *args: Any) -> Any:
        units.append(1)
        if len(units) == dies_at:
            raise KeyboardInterrupt
        done.extend(tasks)
        return carry_out(tasks, *args)

    monkeypatch.setattr(local, "carry_out", counts)
    return done
