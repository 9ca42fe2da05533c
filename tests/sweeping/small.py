"""A recipe that takes a moment, a model that is refused, and what tests of sweeps look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECIPE = """
name: small
seed: 7
model: {source: "tiny-random:llama", dtype: float32}
data:
  warm: {inline: [sun one, sun two, sun three, sun four, sun five, sun six], split: {train: 3, test: 3}}
  cold: {inline: [ice one, ice two, ice three, ice four, ice five, ice six], split: {train: 3, test: 3}}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
conditions:
  warmer: [{add: {direction: warmth, coefficient: 3.0}}]
  colder: {interventions: [{add: {direction: warmth, coefficient: -3.0}}], control: false}
evaluate:
  - refusal_score: {data: cold.test}
  - kl_divergence: {data: cold.test}
control: {random_directions: 2}
report: {title: Warm words}
"""
REFUSED = "tiny-random:rwkv-rescaled"
MODELS = ["tiny-random:llama", REFUSED, "tiny-random:gpt2"]


def listed(folder: Path) -> dict[str, Any]:
    """``sweep.json``."""
    loaded: dict[str, Any] = json.loads((folder / "sweep.json").read_text("utf-8"))
    return loaded


def states(folder: Path) -> dict[str, str]:
    """The state of each member, by its settings."""
    return {
        ", ".join(f"{key}={value}" for key, value in one["settings"].items()): one["state"]
        for one in listed(folder)["members"]
    }
