"""A folded checkpoint, read by vLLM itself and with nothing of ours in it: transformers' tokens and logits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from engine.cases import NEW, Request
from engine.engines import COMMON, ask, on_one_node
from engine.results import keep
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm import LLM

import steerkit
from steerkit.run import run_recipe

SOURCE = "smollm2-135m-instruct"
PROMPTS = ("The weather in London in November is", "Tell me about the summer of", "One, two, three,")
CLOSE = 3e-4
"""Of two logits in float32, of which the largest is 35."""
WAYS: dict[str, dict[str, Any]] = {"eager": {}, "tensor-parallel": {"tensor_parallel_size": 3}}


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Ablated everywhere, so that the head is untied, with constants in two kinds of biases that the model lacks."""
    folder = tmp_path_factory.mktemp("baked")
    split = {"train": 3, "validation": 2, "test": 1}
    recipe = {
        "name": "baked",
        "model": {"source": SOURCE, "dtype": "float32"},
        "data": {
            name: {"inline": [f"Tell me about {name} number {n}" for n in range(6)], "split": split}
            for name in ("summer", "winter")
        },
        "directions": {
            "warmth": {
                "estimator": "mean_difference",
                "positive": "summer.train",
                "negative": "winter.train",
                "site": "blocks.10.resid_pre",
                "positions": "-1",
            }
        },
        "conditions": {
            "both": [
                {"ablate": {"direction": "warmth"}},
                {"add": {"direction": "warmth", "coefficient": -2.0, "sites": ["blocks.10.resid_post"]}},
                {"add": {"direction": "warmth", "coefficient": 1.0, "sites": ["blocks.12.attn_out"]}},
            ]
        },
        "evaluate": [{"kl_divergence": {"data": "winter.test"}}],
        "control": {"random_directions": 0},
        "report": {"separation": False},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    yield steerkit.bake(run_recipe(path, out=folder / "runs"), "both", folder / "both").folder


def test_every_bias_that_its_config_declares_is_in_it(baked: Path) -> None:
    """vLLM takes what lies in memory for one that isn't."""
    config = json.loads((baked / "config.json").read_text())
    assert config["attention_bias"] and config["mlp_bias"] and config["tie_word_embeddings"] is False
    with safe_open(baked / "model.safetensors", "pt") as file:
        biases = [name for name in file.keys() if name.endswith(".bias")]  # noqa: SIM118
        assert len(biases) == 7 * config["num_hidden_layers"] and "lm_head.weight" in file.keys()  # noqa: SIM118
        assert sum(bool(file.get_tensor(name).any()) for name in biases) == 2


@pytest.mark.parametrize("way", WAYS)
def test_vllm_answers_as_transformers(way: str, baked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "tensor-parallel":
        on_one_node(monkeypatch)
    model = AutoModelForCausalLM.from_pretrained(baked, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(baked)
    requests = [Request(tuple(tokenizer(prompt).input_ids), None) for prompt in PROMPTS]
    engine = LLM(str(baked), **COMMON | WAYS[way])
    try:
        found = ask(engine, requests)
    finally:
        engine.llm_engine.engine_core.shutdown()
    worst = 0.0
    for one, request in zip(found, requests, strict=True):
        assert len(one.token_ids) == NEW
        with torch.no_grad():
            logits = model(torch.tensor([[*request.ids, *one.token_ids[:-1]]])).logits[0, len(request.ids) - 1 :]
        assert logits.argmax(-1).tolist() == list(one.token_ids)
        for place, row in enumerate(one.logprobs):
            for token, logit in row.items():
                worst = max(worst, abs(logit.logprob - float(logits[place, token])))
    keep(f"logits of a folded checkpoint, {way}", {"largest difference": worst})
    assert worst < CLOSE
