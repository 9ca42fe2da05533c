"""All plugins as a user meets them: discovered by their entry points, and used by a recipe."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from steerkit.cli.main import main
from steerkit.testing import tiny_tokenizer

RECIPE = """
name: template
seed: 1
model: {source: pythia, chat_template: none}
data:
  warm: {inline: [the sun is warm, tea by the fire, a hot bath], split: {train: 3}}
  cold: {inline: [snow on the hill, ice in the glass, a cold wind], split: {train: 3}}
  probe: {inline: [the day was, I feel]}
directions:
  warmth:
    estimator: median_difference
    options: {trim: 0.1}
    positive: warm.train
    negative: cold.train
    site: blocks.1.resid_post
conditions:
  capped: [{cap: {direction: warmth, limit: -5.0}}]
evaluate:
  - cross_entropy: {data: [probe]}
  - next_token_entropy: {data: [probe]}
control: {random_directions: 1}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = AutoConfig.for_model(
        "gpt_neox", vocab_size=288, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained("pythia")
    tiny_tokenizer().save_pretrained("pythia")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def steerkit(*arguments):
    """The command line, in this process; returns its exit code."""
    try:
        main(arguments)
    except SystemExit as leaving:
        return leaving.code or 0
    return 0


def test_is_discovered(capsys):
    assert steerkit("plugins") == 0
    listed = capsys.readouterr().out
    assert "steerkit-template-plugin" in listed
    for name in ("gpt_neox", "cap", "median_difference", "next_token_entropy", "vector_list"):
        assert name in listed


def test_runs_a_recipe(folder):
    assert steerkit("run", "recipe.yaml", "--out", "runs") == 0
    (results,) = (folder / "runs").glob("*/results.json")
    found = json.loads(results.read_text())
    assert found["model"]["adapter"] == "gpt_neox"
    values = {(record["evaluator"], record["condition"]): record["value"] for record in found["records"]}
    for evaluator in ("cross_entropy", "next_token_entropy"):
        assert values[evaluator, "capped"] != values[evaluator, "baseline"]
    (direction,) = found["directions"]
    assert direction["diagnostics"]["cosine with the mean difference"]["at"] == ["blocks.1.resid_post"]
