from __future__ import annotations

from typing import Any

import pytest
import torch

from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.errors import DataError
from steerkit.session import wrap
from steerkit.types.contexts import context_limit

YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 4.0}


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({}, None),
        ({"max_position_embeddings": 64}, 64),
        ({"max_position_embeddings": 64, "rope_scaling": None}, 64),
        ({"max_position_embeddings": 64, "rope_scaling": YARN}, 256),
        ({"max_position_embeddings": 64, "rope_parameters": YARN}, 256),
        ({"max_position_embeddings": 64, "rope_scaling": {"type": "linear", "factor": 2}}, 128),
        ({"max_position_embeddings": 64, "rope_scaling": {"type": "dynamic", "factor": 2.5}}, 160),
        ({"max_position_embeddings": 64, "rope_scaling": {"rope_type": "default"}}, 64),
        # Qwen 3 as its card says to set it: trained with fewer positions than the config's limit.
        (
            {"max_position_embeddings": 40960, "rope_scaling": {**YARN, "original_max_position_embeddings": 32768}},
            131072,
        ),
        # Llama 3.1 and DeepSeek name the stretched limit themselves.
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 163840,
                "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
            },
            163840,
        ),
        # Gemma 3's factor is in its limit, in the file and as transformers holds it.
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                "rope_local_base_freq": 10000,
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}},
            },
            131072,
        ),
        ({"max_position_embeddings": 64, "rope_scaling": {"rope_type": "yarn", "factor": "4"}}, 64),
        ({"max_position_embeddings": "64"}, None),
    ],
)
def test_the_limit_of_a_config(config: dict[str, Any], limit: int | None) -> None:
    assert context_limit(config) == limit


def test_a_live_model_reads_what_its_config_stretches_to() -> None:
    model = tiny_model("llama", n_layers=2, max_position_embeddings=64, rope_parameters={**YARN, "rope_theta": 1e4})
    live = wrap(model, tiny_tokenizer(), self_test=False)
    assert live.context == 256
    live.capture([torch.full((103,), 70)], "blocks.0.resid_pre", progress=False)
    with pytest.raises(DataError, match="A prompt of 257 tokens is more than the model's context of 256"):
        live.capture([torch.full((257,), 70)], "blocks.0.resid_pre", progress=False)
