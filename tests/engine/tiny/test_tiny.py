"""Tiny models: random through and through, the same each time, and small; and their tokenizer."""

from __future__ import annotations

import pytest
import torch

from steerkit.engine.tiny.models import _KEYS, _VARIANTS, BOS, randomise, tiny_model, tiny_tokenizer
from steerkit.errors import ModelError
from steerkit.plan.model import look_at
from steerkit.sources import TINY, TINY_MODEL_TYPES


@pytest.mark.parametrize("model_type", TINY_MODEL_TYPES)
def test_nothing_is_0_or_1_by_chance(model_type: str) -> None:
    model = tiny_model(model_type)
    assert not model.training
    saved = model.state_dict(keep_vars=True)
    values = dict(model.named_parameters()) | {
        name: buffer for name, buffer in model.named_buffers() if name in saved and buffer.isfinite().all()
    }
    # Those of a vision tower that text never meets are no matter.
    for name, value in values.items():
        if value.is_floating_point() and "vision" not in name:
            assert bool((value != 0).all()) and bool((value != 1).all()), name


@pytest.mark.parametrize("model_type", TINY_MODEL_TYPES)
def test_activations_are_of_order_1(model_type: str) -> None:
    model = tiny_model(model_type)
    with torch.no_grad():
        logits = model(torch.randint(6, 288, (2, 9), generator=torch.Generator().manual_seed(0))).logits
    assert 0.3 < float(logits.std()) < 3


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_generator() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, two, other = (tiny_model("qwen2_moe", seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_sizes_and_config_are_the_callers() -> None:
    model = tiny_model("llama", n_layers=5, d_model=48, dtype=torch.bfloat16, tie_word_embeddings=True)
    assert len(model.model.layers) == 5 and model.model.embed_tokens.weight.shape == (288, 48)
    assert model.dtype is torch.bfloat16
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_type": "lama"}, "Did you mean 'llama'"),
        ({"model_type": "llama", "n_layers": 1}, "2 layers or more"),
        ({"model_type": "llama", "d_model": 30}, "width that 8 divides"),
    ],
)
def test_what_it_cannot_build_is_said(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tiny_model(**arguments)  # type: ignore[arg-type]


def test_buffers_that_scale_are_random_and_constants_are_not() -> None:
    model = tiny_model("gemma4_text")
    assert len({float(layer.layer_scalar) for layer in model.model.layers}) == 3
    before = model.model.embed_tokens.embed_scale.clone()
    randomise(model, seed=9)
    assert torch.equal(model.model.embed_tokens.embed_scale, before)


def test_the_tokenizer_gives_one_token_per_byte_and_takes_them_back() -> None:
    tokenizer = tiny_tokenizer()
    text = "Grüße, 世界\n!"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text
    assert tokenizer(text).input_ids == [BOS, *ids]
    assert tokenizer.padding_side == "left" and len(tokenizer) == 288


def test_the_tokenizer_has_a_chat_template() -> None:
    tokenizer = tiny_tokenizer()
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert rendered == "<|begin|><|system|>\ns<|end|>\n<|user|>\nhello<|end|>\n<|assistant|>\n"
    ids = tokenizer(rendered, add_special_tokens=False).input_ids
    assert ids[:2] == [2, 3] and 4 in ids and 5 in ids and ids.count(1) == 2


def test_a_vocabulary_of_any_size_decodes_to_its_end() -> None:
    tokenizer = tiny_tokenizer(300)
    assert len(tokenizer) == 300 and tokenizer.decode([299]).startswith("<filler")
    with pytest.raises(ModelError, match="at least 262"):
        tiny_tokenizer(100)


def test_the_types_that_a_plan_knows_are_those_that_are_built() -> None:
    assert sorted(TINY_MODEL_TYPES) == sorted((*_KEYS, *_VARIANTS))


@pytest.mark.parametrize("model_type", TINY_MODEL_TYPES)
def test_what_is_known_of_one_before_it_is_built_is_so(model_type: str) -> None:
    known, _ = look_at(f"{TINY}{model_type}", None)
    text = tiny_model(model_type).config.get_text_config()
    assert (known.n_layers, known.d_model) == (text.num_hidden_layers, text.hidden_size)
