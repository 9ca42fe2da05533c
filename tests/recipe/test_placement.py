"""Where a recipe puts its model: what the keys take, and what is told of what they don't."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from steerkit.errors import RecipeError
from steerkit.recipe.load import draft_recipe, load_recipe
from steerkit.types.placement import METHODS, ModelPlacement


def recipe(tmp_path: Any, **model: Any) -> Any:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"model": {"source": "tiny-random:llama", **model}}), "utf-8")
    return path


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("auto", "auto"),
        ("balanced_low_0", "balanced_low_0"),
        ({"": "cpu", "model.layers.1": "disk"}, {"": "cpu", "model.layers.1": "disk"}),
        ({"model": 0, "lm_head": "cuda:1"}, {"model": "cuda:0", "lm_head": "cuda:1"}),
    ],
)
def test_a_device_map_is_a_strategy_or_devices_by_module(tmp_path: Any, written: Any, read: Any) -> None:
    assert load_recipe(recipe(tmp_path, device_map=written)).recipe.model.placement.device_map == read


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"device_map": "even"}, "expected auto, balanced, balanced_low_0, sequential, or devices by module"),
        ({"device_map": {}}, "or devices by module"),
        ({"device_map": {"model": "gpu"}}, 'the number of a GPU, or disk for model, not "gpu"'),
        ({"device_map": {"": True}}, "for the whole model, not true"),
        ({"tensor_parallel": 0}, "expected a number of at least 1"),
        ({"quantization": "torchao"}, "expected {method: torchao}"),
        ({"quantization": {"bits": 4}}, "expected a method with its options"),
        ({"quantization": {"method": "bitsandbyte"}}, "Did you mean 'bitsandbytes'"),
        ({"quantization": {"method": ["torchao"]}}, "transformers has no quantiser ['torchao']"),
        ({"offload_folder": ""}, "at least 1 character"),
    ],
)
def test_what_is_none_is_told(tmp_path: Any, model: Any, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe(tmp_path, **model))
    (problem,) = (one for one in caught.value.problems if one.where.startswith("model"))
    assert said in problem.message and problem.where == f"model.{next(iter(model))}"


def test_one_process_is_no_tensor_parallelism(tmp_path: Any) -> None:
    assert load_recipe(recipe(tmp_path, tensor_parallel=1)).recipe.model.placement == ModelPlacement()
    assert load_recipe(recipe(tmp_path, tensor_parallel=3)).recipe.model.placement.tensor_parallel == 3


def test_a_resolved_recipe_says_what_was_said_and_no_more(tmp_path: Any) -> None:
    said = {"device_map": {"": "disk"}, "quantization": {"method": "quanto", "weights": "int4"}}
    resolved = draft_recipe(recipe(tmp_path, **said, offload_folder="kept"), ()).resolved()["model"]
    assert {key: resolved[key] for key in said} == said
    assert resolved["offload_folder"] == str(tmp_path / "kept") and "tensor_parallel" not in resolved
    plain = draft_recipe(recipe(tmp_path), ()).resolved()["model"]
    assert not {"device_map", "offload_folder", "tensor_parallel", "quantization"} & plain.keys()


def test_every_quantiser_of_transformers_may_be_named_but_that_of_gguf() -> None:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    known = {name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZATION_CONFIG_MAPPING}
    assert set(METHODS) == known - {"gguf"}
