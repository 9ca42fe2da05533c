"""Which adapter a checkpoint gets, and which checkpoints get none, with the reason."""

from __future__ import annotations

import re
from typing import Any

import pytest

from steerkit.api.hookspecs import ModelFacts
from steerkit.catalog import Catalog
from steerkit.engine.loading.load import facts_of
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.errors import UnsupportedModelError
from steerkit.sources import TINY_MODEL_TYPES
from steerkit_architectures import gemma, llama, qwen, yi
from tests.architectures.conftest import built

CATALOG = Catalog.discover()
SPECS = {spec.name: spec for module in (llama, yi, qwen, gemma) for spec in module.steerkit_architectures()}
EXPECTED = {"yi": "yi", "llama": "llama", "diffllama": "llama", "qwen": "qwen1"}


@pytest.mark.parametrize("model_type", TINY_MODEL_TYPES)
def test_every_tiny_model_finds_its_adapter_by_itself(model_type: str) -> None:
    model = tiny_model(model_type)
    tokenizer = tiny_tokenizer(int(model.config.get_text_config().vocab_size))
    family = EXPECTED.get(model_type) or ("qwen" if model_type.startswith("qwen") else "gemma")
    assert CATALOG.adapter_for(facts_of(model.config, tokenizer)).name == family


YI = frozenset({"<unk>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"})


@pytest.mark.parametrize(
    ("vocabulary", "special", "name"),
    [
        (64000, YI, "yi"),
        (64000, frozenset({"<s>", "</s>", "<unk>"}), "llama"),  # a converted Baichuan
        (64000, frozenset(), "llama"),  # no tokenizer to tell
        (32000, YI, "llama"),
    ],
)
def test_yi_is_known_by_vocabulary_and_special_tokens(vocabulary: int, special: frozenset[str], name: str) -> None:
    facts = ModelFacts("llama", {"vocab_size": vocabulary, "_name_or_path": "01-ai/Yi-6B"}, special)
    assert CATALOG.adapter_for(facts).name == name
    assert CATALOG.adapter_for(facts, "yi").name == "yi"


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("gemma3n", "not one sum"),
        ("gemma3n_text", "not one sum"),
        ("qwen4_exp", "not one sum"),
        ("qwen4_exp_text", "not one sum"),
        ("gemma4_assistant", "draft"),
        ("mllama", "gates"),
        ("Yi", "load as Llama"),
    ],
)
def test_known_types_that_are_refused_say_why(model_type: str, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        CATALOG.adapter_for(ModelFacts(model_type, {}))
    assert caught.value.exit_code == 3


LEFT_TO_DISCOVERY = {"llama4", "llama4_text", "recurrent_gemma"}
"""Of the families by name, and in nobody's hand: experts whose output is flat, blocks that read padding."""


def test_every_causal_model_of_the_families_is_claimed_refused_or_discovered() -> None:
    """A new release of transformers that adds one turns this red, and its name is in the message."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known = {name for spec in SPECS.values() for name in (*spec.model_types, *spec.refuses)}
    assert not known & LEFT_TO_DISCOVERY
    known |= LEFT_TO_DISCOVERY
    family = re.compile(r"llama|qwen|gemma|^yi", re.IGNORECASE)
    causal = {name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if family.search(name)}
    assert causal - known == set()
    for spec in SPECS.values():
        assert not set(spec.model_types) & set(spec.refuses)


def test_every_claimed_type_is_built_tiny_and_tested() -> None:
    claimed = {name for spec in SPECS.values() for name in spec.model_types}
    assert claimed <= set(TINY_MODEL_TYPES)


def test_qwen1_says_that_no_checkpoint_was_run() -> None:
    assert "stand-in" in SPECS["qwen1"].note and not SPECS["qwen"].note


def test_a_model_without_the_named_modules_is_refused_in_a_sentence() -> None:
    from steerkit_architectures._llama import LlamaAdapter

    model, _ = built("qwen")
    with pytest.raises(UnsupportedModelError, match="has no module 'model'") as caught:
        LlamaAdapter().layout(model)
    assert "adapter" in str(caught.value)


def test_streams_that_are_not_one_sum_fail_the_self_test_too() -> None:
    """Gemma 3n under Gemma's adapter: refused by its type, and by measurement if somebody names the adapter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from steerkit.engine.sites.selftest import self_test
    from steerkit_architectures._gemma import GemmaAdapter

    settings: dict[str, Any] = {
        "hidden_size": 32,
        "vocab_size": 288,
        "vocab_size_per_layer_input": 288,
        "hidden_size_per_layer_input": 8,
        "intermediate_size": [64] * 2,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "laurel_rank": 4,
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.0] * 2,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma3n_text", **settings)).eval()
    report = self_test(model, GemmaAdapter().layout(model))
    assert [check.name for check in report.checks if not check.passed] == ["sites"]
    assert "[4, 2, 7, 32]" in report.checks[-1].detail
