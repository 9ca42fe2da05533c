"""Whole recipes on models that nobody declared: image-text, adapted, quantised, offloaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import steerkit
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.executors import chosen
from steerkit.run import run_recipe
from tests.architectures.outside import adapted, image_text, quantised
from tests.small_run import RECIPE, results_of, runs_in


def saved(model: Any, folder: Path) -> Path:
    """A folder as checkpoints come in."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def values_of(source: Path | str, where: Path) -> dict[str, Any]:
    """What a whole recipe measures on a model, by name."""
    where.mkdir(exist_ok=True)
    recipe = where / "recipe.yaml"
    recipe.write_text(RECIPE.replace("tiny-random:llama", str(source)).replace("blocks.1.", "blocks.3."))
    run = run_recipe(recipe, out=where / "runs")
    assert runs_in(where / "runs") == [run]
    found = results_of(run)
    assert found["model"]["adapter"] == "auto"
    return {f"{one['condition']} {one['evaluator']} {one['data']}": one["value"] for one in found["records"]}


def instead(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    """Have the runs that follow use this model in place of the one that their recipe names."""
    monkeypatch.setattr(chosen, "load", lambda plan: steerkit.wrap(model, tiny_tokenizer()))


def close_to(values: dict[str, Any]) -> Any:
    """As near as rounding allows; perplexities are as large as hundreds."""
    return pytest.approx(values, abs=1e-5, rel=1e-6)


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl", "idefics3"])
def test_an_image_text_model_is_run_by_its_text_model(kind: str, tmp_path: Path) -> None:
    values = values_of(saved(image_text(kind), tmp_path / "model"), tmp_path / "run")
    assert values


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_measures_what_it_does_once_it_is_merged(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, model = saved(tiny_model("mistral"), tmp_path / "plain"), adapted(kind, "mistral")
    merged = saved(copy.deepcopy(model).merge_and_unload(), tmp_path / "merged")
    expected, other = values_of(merged, tmp_path / "m"), values_of(plain, tmp_path / "p")
    instead(monkeypatch, model)
    found = values_of(plain, tmp_path / "adapted")
    assert found == close_to(expected) and found != close_to(other)


def test_an_offloaded_model_measures_what_it_does_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import cpu_offload

    folder = saved(tiny_model("mistral"), tmp_path / "model")
    expected = values_of(folder, tmp_path / "memory")
    instead(monkeypatch, cpu_offload(tiny_model("mistral"), execution_device=torch.device("cpu")))
    assert values_of(folder, tmp_path / "offloaded") == close_to(expected)


def test_a_model_of_8_bits_measures_what_its_weights_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_8_bits, rounded = quantised("mistral"), tiny_model("mistral")
    for path, module in in_8_bits.named_modules():
        if hasattr(module, "quantised"):
            rounded.get_submodule(path).weight.data = module.quantised.float() * module.scale
    folder = saved(rounded, tmp_path / "model")
    expected = values_of(folder, tmp_path / "rounded")
    instead(monkeypatch, in_8_bits)
    assert values_of(folder, tmp_path / "quantised") == close_to(expected)
