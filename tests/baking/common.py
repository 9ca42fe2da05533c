"""Runs of tiny models that tests bake conditions of, and what a checkpoint is held against."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import yaml

from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.run import run_recipe
from tests.conftest import KEPT_IN

CONDITIONS: dict[str, Any] = {
    "more": [{"add": {"direction": "warmth", "coefficient": 2.0}}],
    "first": [{"add": {"direction": "warmth", "coefficient": 2.0, "sites": ["blocks.0.resid_pre"]}}],
    "without": [{"ablate": {"direction": "warmth"}}],
    "both": [{"ablate": {"direction": "warmth"}}, {"add": {"direction": "warmth", "coefficient": -1.0}}],
    "gated": [{"add": {"direction": "warmth", "gate": {"direction": "warmth", "above": 0.1}}}],
    "late": [{"add": {"direction": "warmth", "positions": "last"}}],
    "fading": [{"add": {"direction": "warmth", "schedule": "linear(1, 0, 64)"}}],
    "nothing": [{"add": {"direction": "warmth", "coefficient": 0.0}}],
    "set": [{"set_projection": {"direction": "warmth", "value": 1.0}}],
    "told": {"system_prompt": "Be warm.", "interventions": []},
    "told_more": {"system_prompt": "Be warm.", "interventions": [{"add": {"direction": "warmth"}}]},
}
PLAIN = {"attention_bias": False, "mlp_bias": False}


def recipe_of(source: str, **changes: Any) -> dict[str, Any]:
    split = {"train": 4, "validation": 3, "test": 2}
    recipe: dict[str, Any] = {
        "name": "tiny",
        "seed": 3,
        "model": {"source": source, "dtype": "float32"},
        "data": {
            "warm": {"inline": [f"sun {n} " + "warm " * n for n in range(9)], "split": split},
            "cold": {"inline": [f"ice {n} " + "cold " * n for n in range(9)], "split": split},
        },
        "directions": {
            "warmth": {
                "estimator": "mean_difference",
                "positive": "warm.train",
                "negative": "cold.train",
                "site": "blocks.1.resid_pre",
                "positions": "all",
            }
        },
        "conditions": CONDITIONS,
        "evaluate": [{"kl_divergence": {"data": "cold.test"}}],
        "control": {"random_directions": 1},
        "report": {"separation": False},
    }
    return recipe | changes


def saved_model(folder: Path, model_type: str, **overrides: Any) -> str:
    model = tiny_model(model_type, **overrides)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def run_of(recipe: dict[str, Any], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return run_recipe(path, out=folder / "runs")


@cache
def kept_run(model_type: str, **overrides: Any) -> Path:
    """A run with all conditions on a saved model. Nothing may change it: tests that do make a copy."""
    folder = Path(mkdtemp(prefix="run-", dir=KEPT_IN[-1]))
    return run_of(recipe_of(saved_model(folder / "model", model_type, **overrides)), folder)
