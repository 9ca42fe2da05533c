"""What a plan knows of a model without loading it: config, adapter, template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.api.direction import Direction
from steerkit.artifacts.directions import save_directions
from steerkit.catalog import Catalog
from steerkit.errors import RecipeError
from steerkit.plan import plan_recipe
from steerkit.plan.model import look_at
from steerkit.types import Site
from tests.plan.conftest import Planner, Problems

RECIPE = """\
name: plan
model: {source: "tiny-random:llama"}
data:
  warm: {inline: [w1, w2, w3], split: {train: 2, test: 1}}
  cold: {inline: [c1, c2, c3], split: {train: 2, test: 1}}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
conditions:
  warmer: [ {add: {direction: warmth, coefficient: 4.0}} ]
evaluate:
  - refusal_score: {data: warm.test, tokens: [x]}
"""


def write_model(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 2, **config}), "utf-8")
    return folder


def test_a_folders_config_gives_adapter_and_layers(plan: Planner, problems: Problems, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    found = plan(RECIPE, f"model.source={folder}")
    assert (found.model.n_layers, found.model.model_type) == (2, "llama")
    assert found.architecture is not None and found.architecture.name == "llama"
    ((_, where, message),) = problems(RECIPE.replace("blocks.1.", "blocks.2."), f"model.source={folder}")
    assert (where, message) == ("directions.warmth.site", "no site blocks.2.resid_pre: the model has 2 layers, 0 to 1")


def test_yi_is_recognised_by_what_the_files_hold(plan: Planner, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", vocab_size=64000)
    tokens = {
        "added_tokens_decoder": {"1": {"content": "<|startoftext|>", "special": True}},
        "eos_token": {"content": "e"},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens), "utf-8")
    found = plan(RECIPE, f"model.source={folder}")
    assert found.architecture is not None and found.architecture.name == "yi"
    (folder / "tokenizer_config.json").unlink()
    found = plan(RECIPE, f"model.source={folder}")
    assert found.architecture is not None and found.architecture.name == "llama"


def test_refused_and_unknown_types_are_problems_of_the_recipe(tmp_path: Path) -> None:
    # With a fallback no type is unknown.
    families = Catalog.discover(disabled=("architectures.auto",))
    (tmp_path / "plan.yaml").write_text(RECIPE, "utf-8")
    for model_type, part in (("gemma3n", "not one sum"), ("gptzilla", "steerkit.testing.ArchitectureSuite")):
        folder = write_model(tmp_path / model_type, model_type=model_type)
        with pytest.raises(RecipeError) as caught:
            plan_recipe(tmp_path / "plan.yaml", [f"model.source={folder}"], families)
        (problem,) = caught.value.problems
        assert problem.where == "--set model.source"
        assert part in problem.message


def test_an_adapters_limitation_is_noted(plan: Planner) -> None:
    assert "Adapter qwen1: " in plan(RECIPE, "model.source=tiny-random:qwen").notes[0]


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("./no/such/folder", "there is no model at"),
        ("model.gguf", "there is no model at"),
        ("no model", "there is no file or folder 'no model', and no model of the hub is called so"),
        ("an/organisation/model", "and no model of the hub is called so"),
        ("x" * 97, "and no model of the hub is called so"),
        ("smollm2-135m-instrct", "Did you mean 'smollm2-135m-instruct'"),
    ],
)
def test_models_that_cannot_be_there_are_problems(problems: Problems, source: str, part: str) -> None:
    ((_, _, message),) = problems(RECIPE, f"model.source={source}")
    assert part.lower() in message.lower()


def test_a_hub_models_cached_config_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--org--name"
    assert look_at("org/name", None)[1] is None
    folder = write_model(repository / "snapshots" / "abc123", num_hidden_layers=7)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123\n", "utf-8")
    for revision in (None, "main", "abc123"):
        found, facts = look_at("org/name", revision)
        assert (found.n_layers, found.folder) == (7, folder)
        assert facts is not None and facts.model_type == "llama"
    assert look_at("org/name", "other")[1] is None


def test_bundled_models_are_known_before_they_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steerkit.bundled import BUNDLED, CACHE_VARIABLE

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    for alias in BUNDLED:
        found, facts = look_at(alias, None)
        assert facts is not None and facts.model_type == found.model_type
        assert found.n_layers and found.folder is None


def test_a_base_model_without_a_template_is_told_before_loading(
    plan: Planner, problems: Problems, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "tokenizer.json").write_text("{}", "utf-8")
    ((_, where, message),) = problems(RECIPE, f"model.source={folder}")
    assert where == "model.chat_template" and "set chat_template to none" in message
    assert plan(RECIPE, f"model.source={folder}", "model.chat_template=none").loading.chat_template == "none"
    (tmp_path / "t.jinja").write_text("{{ messages[0].content }}", "utf-8")
    found = plan(RECIPE, f"model.source={folder}", "model.chat_template={file: t.jinja}")
    assert found.loading.chat_template == "{{ messages[0].content }}"


def test_the_depth_of_a_tiny_model_is_known(problems: Problems) -> None:
    for before, after, where in (
        ("site: blocks.1.resid_pre", "site: blocks.3.resid_pre", "directions.warmth.site"),
        ("site: blocks.1.resid_pre", 'site: "blocks.1-3.resid_pre"', "directions.warmth.site"),
        ("coefficient: 4.0", "coefficient: 4.0, sites: [blocks.7.resid_post]", "conditions.warmer.0.add.sites.0"),
    ):
        assert before in RECIPE
        found = [item for item in problems(RECIPE.replace(before, after)) if item[1] == where]
        assert len(found) == 1 and "the model has 3 layers" in found[0][2], found


def test_a_file_of_directions_of_another_width_is_refused(plan: Planner, problems: Problems, tmp_path: Path) -> None:
    def saved(name: str, site: str, width: int) -> str:
        save_directions(tmp_path / name, [Direction({Site.parse(site): torch.ones(1, width)}, name="warmth")])
        return f"directions.warmth={{file: {name}}}"

    good = saved("good.safetensors", "blocks.1.resid_pre", 32)
    head = saved("head.safetensors", "blocks.1.head_out[0]", 8)
    wide = saved("wide.safetensors", "blocks.1.resid_pre", 64)
    plan(RECIPE, good)
    plan(RECIPE, head)
    ((_, where, message),) = problems(RECIPE, wide)
    assert where == "--set directions.warmth.file" and message == (
        "direction 'warmth' has vectors of width 64 at blocks.1.resid_pre, and the model's width is 32: name a file "
        "that was made on this model"
    )
    folder = write_model(tmp_path / "wider", num_hidden_layers=3, hidden_size=64)
    plan(RECIPE, wide, f"model.source={folder}")
    assert problems(RECIPE, good, f"model.source={folder}")
    plan(RECIPE, wide, "model.source=somebody/unknown")


def test_a_file_from_a_deeper_model_is_noted(plan: Planner, tmp_path: Path) -> None:
    """Its vectors can be used at sites that the recipe names, so it is no mistake by itself."""
    vectors = {Site.parse(site): torch.ones(1, 32) for site in ("blocks.1.resid_pre", "blocks.7.resid_pre")}
    save_directions(tmp_path / "deep.safetensors", [Direction(vectors, name="warmth")])
    named = "conditions.warmer.0.add.sites=[blocks.1.resid_pre]"
    notes = plan(RECIPE, "directions.warmth={file: deep.safetensors}", named).notes
    assert "Direction 'warmth' has vectors at blocks.7.resid_pre, and the model has 3 layers, 0 to 2." in notes
    assert not any("has vectors at" in note for note in plan(RECIPE).notes)


def qwen1_config(**changed: Any) -> dict[str, Any]:
    sizes = {"num_hidden_layers": 24, "num_attention_heads": 16, "hidden_size": 2048, "vocab_size": 151936}
    rest = {"intermediate_size": 11008, "layer_norm_epsilon": 1e-6, "seq_length": 8192, "kv_channels": 128}
    code = {"auto_map": {"AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel"}, "model_type": "qwen"}
    return {**sizes, **rest, **code, "no_bias": True, **changed}


def test_a_qwen_1_checkpoint_is_planned_as_the_qwen_2_that_it_is_loaded_as(plan: Planner, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "qwen1", **qwen1_config())
    found = plan(RECIPE, f"model.source={folder}")
    assert found.architecture is not None and found.architecture.name == "qwen"
    assert (found.model.n_layers, found.model.d_model) == (24, 2048)
    assert not any("Adapter" in note for note in found.notes)


def test_a_qwen_1_that_computes_something_else_is_a_problem(problems: Problems, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "qwen1", **qwen1_config(rotary_pct=0.25))
    ((_, where, message),) = problems(RECIPE, f"model.source={folder}")
    assert where == "--set model.source" and "rotary_pct: 0.25" in message


def test_qwen_1_has_no_template_of_its_own(problems: Problems, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "qwen1", **qwen1_config())
    (folder / "qwen.tiktoken").write_text("YQ== 0\n", "ascii")
    chat = "model.chat_template=default"
    ((_, where, message),) = problems(RECIPE, f"model.source={folder}", chat)
    assert where.endswith("model.chat_template") and "no chat template" in message
