"""What a check says of memory, and when it looks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig

from steerkit.cli.main import main

RECIPE = """
name: fits
model: {{source: {source}, chat_template: none}}
data:
  warm: {{inline: [Hello there., Good day to you.], split: {{train: 1, test: 1}}}}
  cold: {{inline: [Go away., Not now.], split: {{train: 1, test: 1}}}}
directions:
  warmth:
    estimator: mean_difference
    positive: warm.train
    negative: cold.train
    site: blocks.1.resid_pre
    positions: last
conditions:
  warmer: [{{add: {{direction: warmth, coefficient: 2}}}}]
evaluate:
  - kl_divergence: {{data: warm.test}}
"""


def check(capsys: pytest.CaptureFixture[str], path: Path, *more: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as leaving:
        main(["check", str(path), *more])
    out, err = capsys.readouterr()
    return int(str(leaving.value.code or 0)), out, err


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(source="tiny-random:llama"))
    return path


def test_a_small_model_is_looked_at_where_somebody_asks(capsys: pytest.CaptureFixture[str], recipe: Path) -> None:
    code, out, err = check(capsys, recipe)
    assert code == 0 and "memory" not in out and "without its weights" not in err
    code, out, err = check(capsys, recipe, "--memory")
    assert code == 0 and "memory, at most (GB)" in out and "without its weights" in err
    code, out, _ = check(capsys, recipe, "--memory", "--json")
    told = json.loads(out)["memory"]
    (device,) = told["devices"]
    assert device["fits"] is True and device["weights"] == told["parameters"] * 4 + 32, "frequencies are buffers"
    assert device["bytes"] == device["weights"] + device["cache"] + device["work"]


def test_a_placed_model_is_looked_at(capsys: pytest.CaptureFixture[str], recipe: Path) -> None:
    mapped = "model.device_map={'': cpu, model.layers.1: disk}"
    code, out, _ = check(capsys, recipe, "--set", mapped, "--json")
    told = json.loads(out)["memory"]
    assert code == 0 and [one["device"] for one in told["devices"]] == ["cpu", "disk"]


def test_a_model_that_fits_nowhere_is_told_with_what_to_do(
    capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "large"
    sizes = {"vocab_size": 32000, "hidden_size": 65536, "intermediate_size": 262144, "num_hidden_layers": 12}
    LlamaConfig(**sizes, num_attention_heads=64, architectures=["LlamaForCausalLM"]).save_pretrained(folder)
    recipe.write_text(RECIPE.format(source=folder))
    code, out, _ = check(capsys, recipe, "--set", "model.chat_template=none")
    text = " ".join(out.split())
    assert "It doesn't fit: cpu would hold" in text and code == 0


def test_a_model_without_a_config_is_not_known(capsys: pytest.CaptureFixture[str], recipe: Path) -> None:
    recipe.write_text(RECIPE.format(source="org/nowhere"))
    _, out, _ = check(capsys, recipe, "--memory")
    assert "memory it takes is not known: no config of the model is at hand" in " ".join(out.split())


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("model.tensor_parallel=3", "has 4 query heads, which 3 processes can't share"),
        ("model.device_map={model.layer: cpu, '': cpu}", "the model has no module 'model.layer'"),
    ],
)
def test_what_a_run_would_refuse_is_refused(
    capsys: pytest.CaptureFixture[str], recipe: Path, setting: str, said: str
) -> None:
    code, _, err = check(capsys, recipe, "--set", setting)
    assert code == 2 and said in " ".join(err.split()) and "Traceback" not in err
