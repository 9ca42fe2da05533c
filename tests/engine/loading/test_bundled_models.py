"""The bundled models themselves, where they are in the cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steerkit.bundled import bundled_folder


@pytest.fixture(scope="module")
def smollm2() -> Any:
    if bundled_folder("smollm2-135m-instruct") is None:
        pytest.skip("smollm2-135m-instruct is not in the cache; `make install` puts it there")
    from steerkit.engine.loading.load import load

    return load("smollm2-135m-instruct")


def test_smollm2_has_its_special_tokens_template_and_digits(smollm2: Any) -> None:
    tokenizer = smollm2.tokenizer
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.padding_side == "left"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    # Known ids of the original tokenizer: one token per digit, and a pair of line breaks before one stays a pair.
    assert tokenizer.tokenize("a\n\n12") == ["a", "ĊĊ", "1", "2"]


def test_smollm2_answers_and_stops(smollm2: Any) -> None:
    from steerkit.engine.prompts.chat import ChatFormat

    prompt = ChatFormat(smollm2.tokenizer).render("What is the capital of France?").token_ids
    ids = torch.tensor([prompt])
    out = smollm2.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
    answer = out[0, len(prompt) :].tolist()
    assert "Paris" in smollm2.tokenizer.decode(answer)
    assert answer[-1] == smollm2.tokenizer.eos_token_id and len(answer) < 24


@pytest.mark.slow
def test_gemma3_predicts_text() -> None:
    if bundled_folder("gemma3-270m") is None:
        pytest.skip("gemma3-270m is not in the cache; `steerkit fetch gemma3-270m` puts it there, once you agree")
    from steerkit.engine.loading.load import load

    loaded = load("gemma3-270m")
    assert loaded.facts.model_type == "gemma3_text" and loaded.tokenizer is not None
    ids = loaded.tokenizer("Two, four, six,", return_tensors="pt")["input_ids"]
    assert ids[0, 0] == loaded.tokenizer.bos_token_id
    with torch.no_grad():
        top = int(loaded.model(input_ids=ids).logits[0, -1].argmax())
    assert loaded.tokenizer.decode([top]) == " eight"
