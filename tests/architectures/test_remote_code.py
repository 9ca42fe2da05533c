"""A model of somebody else's code, which the user allowed, is discovered like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import steerkit
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.errors import ModelError

OWN = """
from transformers import GPT2Config, GPT2LMHeadModel

class OwnConfig(GPT2Config):
    model_type = "own-decoder"

class OwnModel(GPT2LMHeadModel):
    config_class = OwnConfig
"""


def test_code_that_came_with_a_checkpoint_is_read_once_it_is_allowed(tmp_path: Path) -> None:
    tiny_model("gpt2").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "modeling_own.py").write_text(OWN)
    config = json.loads((tmp_path / "config.json").read_text())
    names = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    own = {**config, "model_type": "own-decoder", "architectures": ["OwnModel"], "auto_map": names}
    (tmp_path / "config.json").write_text(json.dumps(own))
    with pytest.raises(ModelError, match="trust_remote_code"):
        steerkit.load_model(str(tmp_path))
    live = steerkit.load_model(str(tmp_path), trust_remote_code=True)
    assert live.adapter_name == "auto"
    assert live.layout == steerkit.load_model("tiny-random:gpt2").layout
