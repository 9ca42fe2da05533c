"""What a baked folder says of itself."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

import steerkit
from steerkit.artifacts.directions import load_directions
from steerkit.baking import bake
from steerkit.baking.card import hub_id
from steerkit.engine.baking.writing import write_checkpoint
from steerkit.engine.loading.weights import hash_of_tensors
from steerkit.report import load_run
from steerkit.run import run_recipe
from tests.baking.common import CONDITIONS, PLAIN, kept_run, recipe_of, run_of
from tests.small_run import RECIPE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("card") / "out"
    return bake(kept_run("llama", tie_word_embeddings=True, **PLAIN), "both", out).folder


def card(folder: Path) -> tuple[dict[str, Any], str]:
    _, front, body = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_provenance_is_whole(folder: Path) -> None:
    run = load_run(kept_run("llama", tie_word_embeddings=True, **PLAIN))
    facts = json.loads((folder / "steerkit.json").read_text())
    assert facts["made_by"] == f"steerkit {steerkit.__version__}" and "weights were changed" in facts["what"]
    assert facts["run"]["run_hash"] == run.origin.run_hash and facts["run"]["recipe_hash"] == run.origin.recipe_hash
    assert facts["recipe"] == yaml.safe_load(run.recipe or "")
    assert facts["condition"] == run.conditions["both"].model_dump(mode="json")
    assert facts["condition"]["interventions"][0]["sites"][0] == "embed"
    direction = load_directions(run.path / "directions.safetensors")["warmth"]
    (told,) = facts["directions"]
    assert told["name"] == "warmth" and told["estimator"] == "mean_difference"
    assert told["sha256"] == hash_of_tensors(
        {
            "blocks.1.resid_pre": direction.vectors,
            "blocks.1.resid_pre reference_mean": direction.reference_means[direction.site],
        }
    )
    assert facts["source"]["weights_sha256"] == run.origin.model["weights_sha256"]
    assert facts["weights_sha256"] == steerkit.load_model(str(folder)).weights_hash != facts["source"]["weights_sha256"]
    assert facts["changed"]["config"] == {"mlp_bias": True, "tie_word_embeddings": False}
    assert "model.embed_tokens.weight" in facts["changed"]["parameters"]
    assert "model.layers.2.mlp.up_proj.bias" in facts["changed"]["new_and_zero"]
    compared = facts["compared_with_hooks"]
    assert 0 < compared["largest_difference"] < compared["tolerance"] and compared["largest_logit"] > 0.1
    assert compared["prompts"] == 6 and "float32" in compared["rule"]


def test_the_card_says_what_was_changed_along_what_and_with_which_effect(folder: Path) -> None:
    front, body = card(folder)
    assert front["library_name"] == "transformers" and "modified-weights" in front["tags"]
    assert {"ablate", "add"} <= set(front["tags"]) and "base_model" not in front
    assert "This is a research artefact, not the original model." in body
    assert "ablate warmth at embed: now in model.embed_tokens (weight)" in body
    assert "model.layers.0-2.self_attn.o_proj (weight)" in body
    assert "`tie_word_embeddings: false`" in body and "`mlp_bias: true`" in body
    number = len(json.loads((folder / "steerkit.json").read_text())["changed"]["parameters"])
    assert number == 8 and "Eight parameters differ from the original's." in body
    assert "`warmth`: mean_difference: warm.train minus cold.train, read at blocks.1.resid_pre" in body
    results = load_run(kept_run("llama", tie_word_embeddings=True, **PLAIN)).results
    (line,) = (line for line in body.splitlines() if line.startswith("| kl_divergence"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    (record,) = (one for one in results.records if one.condition == "both")
    assert cells[1:3] == ["cold.test", "2"] and record.value is not None
    assert float(cells[4]) == pytest.approx(record.value, rel=0.1)
    assert "95" in cells[5] and " to " in cells[6]
    assert "of whoever made the run" in body and "Hash of the weights that were changed" in body


def test_a_control_and_what_the_checkpoint_does_not_hold_are_told(tmp_path: Path) -> None:
    model = {"source": "tiny-random:llama", "dtype": "float32", "system_prompt": "Be | brief."}
    recipe = recipe_of("", conditions={"without": CONDITIONS["without"]}, model=model)
    run = run_of(recipe, tmp_path / "run")
    _, body = card(bake(run, "without/random-1", tmp_path / "out").folder)
    assert "a random control of `without`" in body and "`warmth/random-1`: random, with the norms of" in body
    assert "the system prompt 'Be | brief.', which the checkpoint doesn't hold" in body
    assert "tie_word_embeddings" not in body and "_bias: true" not in body
    (line,) = (line for line in body.splitlines() if line.startswith("| kl_divergence"))
    assert line.endswith("| not measured |")


def test_the_original_is_a_hub_id_only_where_it_is_one(tmp_path: Path) -> None:
    assert hub_id("smollm2-135m-instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert hub_id("meta-llama/Llama-3.1-8B") == "meta-llama/Llama-3.1-8B"
    assert [hub_id(text) for text in ("tiny-random:llama", str(tmp_path), "/a/b", "~/a")] == [None] * 4


def test_biases_that_are_edited_with_the_weights_are_told(tmp_path: Path) -> None:
    """The tiny random Llama has a bias at every projection that writes."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    run = run_recipe(tmp_path / "recipe.yaml", out=tmp_path / "runs")
    folder = bake(run, "without", tmp_path / "baked").folder
    names = json.loads((folder / "steerkit.json").read_text())["changed"]["parameters"]
    biases = [name for name in names if name.endswith(".bias")]
    assert (len(names), len(biases)) == (13, 6)
    assert "They are seven weights and six biases: where a projection has a bias, it is edited with" in card(folder)[1]


def test_whoever_may_read_the_config_may_read_the_weights(tmp_path: Path) -> None:
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            folder = tmp_path / f"{mask:o}"
            folder.mkdir()
            write_checkpoint(LlamaForCausalLM(config), None, folder)
        finally:
            os.umask(before)
        assert stat.S_IMODE((folder / "model.safetensors").stat().st_mode) == mode
