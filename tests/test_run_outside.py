"""Whole recipes on models that nobody declared: image-text, adapted, quantised, offloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.run import run_recipe
from steerkit.session.model import LiveModel
from steerkit.stages import kept_model
from steerkit.stages.model import load
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


def on(monkeypatch: pytest.MonkeyPatch, change: Callable[[LiveModel], None]) -> None:
    """Have the model of the runs that follow changed once it is loaded."""

    def changed(plan: Any) -> LiveModel:
        live = load(plan)
        change(live)
        return live

    monkeypatch.setattr(kept_model, "load", changed)


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl", "idefics3"])
def test_an_image_text_model_is_run_by_its_text_model(kind: str, tmp_path: Path) -> None:
    values = values_of(saved(image_text(kind), tmp_path / "model"), tmp_path / "run")
    assert values


def test_an_adapter_is_run_upon_its_base(tmp_path: Path) -> None:
    base = saved(tiny_model("mistral"), tmp_path / "base")
    model = adapted("lora", "mistral")
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(tmp_path / "adapter")
    tiny_tokenizer().save_pretrained(tmp_path / "adapter")
    merged = saved(model.merge_and_unload(), tmp_path / "merged")
    by_adapter, by_merged = values_of(tmp_path / "adapter", tmp_path / "a"), values_of(merged, tmp_path / "m")
    assert by_adapter == pytest.approx(by_merged, abs=1e-5)
    assert by_adapter != values_of(base, tmp_path / "b")


def test_an_offloaded_model_measures_what_it_does_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import cpu_offload

    folder = saved(tiny_model("mistral"), tmp_path / "model")
    expected = values_of(folder, tmp_path / "memory")
    on(monkeypatch, lambda live: cpu_offload(live.model, execution_device="cpu") and None)
    assert values_of(folder, tmp_path / "offloaded") == pytest.approx(expected, abs=1e-5)
