"""Tiny models of every causal type: they run, each kind of layer is in them, and no multiplier is 1."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from steerkit.engine.tiny import models
from steerkit.engine.tiny.decoder_keys import KEYS, VARIANTS
from steerkit.engine.tiny.decoders import _MULTIPLIERS, decoder_config
from steerkit.engine.tiny.models import tiny_model
from steerkit.errors import ModelError
from steerkit.plan.model import look_at
from steerkit.sources import (
    CAUSAL_TYPES,
    TINY,
    TINY_CANNOT_RUN,
    TINY_MODEL_TYPES,
    TINY_NAMES,
    TINY_VARIANTS,
    no_tiny,
    tiny_layers,
)

OTHERS = tuple(name for name in TINY_NAMES if name not in TINY_MODEL_TYPES)
SAMPLE = (
    "gpt2",
    "opt",
    "falcon",
    "granite",
    "falcon_h1",
    "mamba2",
    "llama4_text",
    "zamba2",
    "bert",
    "mllama",
    "gpt_oss",
)
IDS = torch.randint(6, 262, (2, 7), generator=torch.Generator().manual_seed(0))


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False).logits
    return logits


def test_the_types_are_those_of_the_installed_transformers() -> None:
    """A new release turns this red, with the names."""
    assert set(CAUSAL_TYPES) ^ set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) == set()
    assert len(CAUSAL_TYPES) == len(set(CAUSAL_TYPES)) and list(CAUSAL_TYPES) == sorted(CAUSAL_TYPES)


def test_what_is_built_and_what_is_not_is_every_type_and_no_other() -> None:
    assert set(TINY_NAMES) | set(TINY_CANNOT_RUN) == {*CAUSAL_TYPES, *TINY_MODEL_TYPES, *TINY_VARIANTS}
    assert set(TINY_CANNOT_RUN) <= set(CAUSAL_TYPES) and set(VARIANTS) == set(TINY_VARIANTS)
    assert set(KEYS) <= set(CAUSAL_TYPES) and not set(KEYS) & set(models._KEYS)


def runs(name: str) -> None:
    model = tiny_model(name)
    logits = logits_of(model)
    # BLT reads bytes, and has a vocabulary of its own for them.
    assert logits.shape == (2, 7, 260 if name == "blt" else 288)
    assert bool(logits.isfinite().all()) and 0.1 < float(logits.std()) < 30
    # Reformer draws its hashes anew in every pass.
    assert name == "reformer" or torch.equal(logits, logits_of(tiny_model(name)))
    assert not torch.equal(logits, logits_of(tiny_model(name, seed=1)))
    saved = model.state_dict(keep_vars=True)
    tensors = dict(model.named_parameters()) | {key: one for key, one in model.named_buffers() if key in saved}
    still = [
        key for key, one in tensors.items() if one.is_floating_point() and bool((one == 1).any() | (one == 0).any())
    ]
    assert not [key for key in still if not any(part in key for part in ("vision", "audio", "vq", "visual"))]


@pytest.mark.parametrize("name", SAMPLE)
def test_a_tiny_model_runs_and_is_random_through_and_through(name: str) -> None:
    runs(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OTHERS if name not in SAMPLE])
def test_every_other_tiny_model_runs_and_is_random_through_and_through(name: str) -> None:
    runs(name)


def multipliers(name: str) -> dict[str, Any]:
    """Keys of a type's config that say how much something is multiplied by."""
    endings = ("multiplier", "multipliers", "_scaling_factor", "logits_scaling", "_alpha_factor", "_beta_factor")
    names = {"scale_emb", "scale_depth", "logit_scale", "route_scale", "embedding_scale", "time_step_scale"}
    values = decoder_config(name, 4, 32, {}).get_text_config().to_dict()
    return {
        key: value
        for key, value in values.items()
        if (key in names or key.endswith(endings)) and "loss" not in key and "ffn_dim" not in key
    }


def test_no_multiplier_is_1() -> None:
    """One that is 1 hides that it was left out. Those of training alone, and of sizes, are no matter."""
    found = {
        name: ones
        for name in OTHERS
        if (ones := {key: value for key, value in multipliers(name).items() if value == 1 or 1.0 in _items(value)})
    }
    assert found == {}


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def test_multipliers_are_those_of_configs() -> None:
    """A misspelt one would set nothing."""
    known: set[str] = set()
    for name in OTHERS:
        if name not in TINY_VARIANTS and name != "blt":
            config = decoder_config(name, 4, 32, {})
            known |= {*config.to_dict(), *config.get_text_config().to_dict()}
    assert set(_MULTIPLIERS) - known <= {"attn_logit_softcapping"}  # Gemma's, whose tiny models are built elsewhere


@pytest.mark.parametrize(
    ("name", "key", "kinds"),
    [
        ("lfm3", "layer_types", {"conv", "sliding_attention", "full_attention"}),
        ("bailing_hybrid", "layer_types", {"linear_attention", "full_attention"}),
        ("granitemoehybrid", "layer_types", {"linear_attention", "full_attention"}),
        ("nemotron_h", "layers_block_type", {"linear_attention", "moe", "full_attention", "mlp"}),
        ("deepseek_v4", "mlp_layer_types", {"hash_moe", "moe"}),
        ("gpt_neo", "attention_layers", {"global", "local"}),
        ("zamba2", "layers_block_type", {"linear_attention", "hybrid"}),
    ],
)
def test_every_kind_of_layer_is_there(name: str, key: str, kinds: set[str]) -> None:
    assert set(getattr(decoder_config(name, tiny_layers(name), 32, {}), key)) == kinds


def test_dense_layers_stand_beside_layers_with_experts() -> None:
    model = tiny_model("ernie4_5_moe")
    assert [hasattr(layer.mlp, "experts") for layer in model.model.layers] == [False, True, True, True]


@pytest.mark.parametrize("name", SAMPLE)
def test_what_a_plan_knows_of_one_is_so(name: str) -> None:
    known, facts = look_at(f"{TINY}{name}", None)
    text = tiny_model(name).config.get_text_config()
    assert (known.n_layers, known.d_model) == (text.num_hidden_layers, text.hidden_size)
    assert facts is not None and facts.model_type == name


def test_sizes_and_config_are_the_callers() -> None:
    model = tiny_model("lfm2", n_layers=3, d_model=48, num_attention_heads=6, num_key_value_heads=3)
    assert model.config.layer_types == ["conv", "full_attention", "conv"]
    assert model.get_input_embeddings().weight.shape == (288, 48) and model.config.num_attention_heads == 6


def test_a_variant_is_its_type_with_other_keys() -> None:
    assert tiny_model("opt").config.do_layer_norm_before and not tiny_model("opt-350m").config.do_layer_norm_before
    assert tiny_model("opt-350m").model.decoder.project_in is not None


@pytest.mark.parametrize("name", TINY_CANNOT_RUN)
def test_a_type_that_cannot_run_says_why(name: str) -> None:
    for refused in (lambda: tiny_model(name), lambda: look_at(f"{TINY}{name}", None)):
        with pytest.raises(ModelError, match=f"tiny model '{name}'. .*{TINY_CANNOT_RUN[name][5:]}"):
            refused()
    with pytest.raises(Exception):  # noqa: B017 - whatever transformers says; that it says something is the point
        runs_as_it_is(name)


def runs_as_it_is(name: str) -> None:
    """What the reason is about: the model as transformers builds it, on text."""
    from transformers import AutoModelForCausalLM

    logits_of(AutoModelForCausalLM.from_config(decoder_config(name, 4, 32, {})))


def test_names_that_there_are_give_no_reason() -> None:
    assert no_tiny("gpt2") == "" and "Did you mean 'mistral'" in no_tiny("mistrall")


def test_tokens_of_images_stay_beyond_the_vocabulary() -> None:
    config = decoder_config("dots3_note", 4, 32, {})
    assert config.image_token_id >= 288 and CONFIG_MAPPING["dots3_note"]().image_token_id == config.image_token_id
