"""``steerkit.json``: where a checkpoint comes from. It holds no time: the same run gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import yaml

import steerkit
from steerkit.artifacts.direction_entries import describe_direction
from steerkit.artifacts.provenance import examples_hash, versions

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.baking.asked import Asked
    from steerkit.baking.check import Compared
    from steerkit.engine.baking.folding import Change
    from steerkit.types import Example

SCHEMA_VERSION: Final = 1


def facts_of_bake(
    asked: Asked,
    change: Change,
    compared: Compared,
    original: Mapping[str, Any],
    weights: str | None,
    examples: Sequence[Example],
) -> dict[str, Any]:
    """Everything that the file holds, as JSON values.

    Args:
        asked: the run and its condition.
        change: what the checkpoint has otherwise.
        compared: the checkpoint against the hooked model.
        original: facts of the model that was folded into.
        weights: hash of the checkpoint's own weights.
        examples: the prompts of the comparison.
    """
    run, loading = asked.run, asked.plan.loading
    return {
        "schema_version": SCHEMA_VERSION,
        "made_by": f"steerkit {steerkit.__version__}",
        "what": "A checkpoint whose weights were changed: a steering condition of a run is folded into them.",
        "run": {
            "name": run.results.name,
            "directory": run.path.resolve().name,
            "run_hash": run.origin.run_hash,
            "recipe_hash": run.origin.recipe_hash,
        },
        "condition": run.conditions[asked.condition.name].model_dump(mode="json"),
        "directions": [_direction(one) for one in asked.directions],
        "source": {
            **{key: original.get(key) for key in ("source", "revision", "adapter", "model_type", "dtype")},
            **{key: original.get(key) for key in ("weights_sha256", "tokenizer_sha256", "chat_template_sha256")},
            "system_prompt": loading.system_prompt,
        },
        "changed": {
            "parameters": list(change.parameters),
            "new_and_zero": list(change.zeros),
            "config": dict(change.settings),
        },
        "weights_sha256": weights,
        "compared_with_hooks": {
            "largest_difference": compared.largest_difference,
            "largest_logit": compared.largest_logit,
            "tolerance": compared.tolerance,
            "rule": compared.rule,
            "prompts": compared.prompts,
            "data": list(compared.data),
            "prompts_sha256": examples_hash(examples),
        },
        "plugins": [dict(one) for one in asked.plan.plugins],
        "versions": versions(),
        "recipe": yaml.safe_load(run.recipe or ""),
    }


def _direction(direction: Direction) -> dict[str, Any]:
    from steerkit.engine.loading.weights import hash_of_tensors

    tensors = {str(site): vectors for site, vectors in direction.items()}
    tensors |= {f"{site} reference_mean": mean for site, mean in direction.reference_means.items()}
    return {**describe_direction(direction).model_dump(mode="json"), "sha256": hash_of_tensors(tensors)}
