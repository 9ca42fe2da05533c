"""Generation: plain greedy by default, sequences with their prompts, and texts that end where they ended."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from steerkit.engine.sites.evaluating import evaluating
from steerkit.errors import DataError, ModelError
from steerkit.session.model import LiveModel

PROMPTS = ["Tell me", "A rather longer prompt than the other one"]


def test_sequences_stay_with_their_prompt_wherever_their_number_is_set(llama: LiveModel) -> None:
    by_keyword = llama.complete(PROMPTS, max_new_tokens=4, num_beams=2, num_return_sequences=2)
    config = GenerationConfig(num_beams=2, num_return_sequences=2, eos_token_id=1, pad_token_id=0)
    by_config = llama.complete(PROMPTS, max_new_tokens=4, generation_config=config)
    assert by_keyword == by_config
    assert len(by_config) == 4


def test_a_checkpoints_own_settings_are_no_part_of_a_measurement(llama: LiveModel) -> None:
    plain = llama.complete(PROMPTS, max_new_tokens=8)
    config = llama.model.generation_config
    assert config is not None
    before = config.repetition_penalty
    config.repetition_penalty = 5.0
    try:
        assert llama.complete(PROMPTS, max_new_tokens=8) == plain
        assert llama.complete(PROMPTS, max_new_tokens=8, repetition_penalty=5.0) != plain
    finally:
        config.repetition_penalty = before


def test_a_completion_ends_at_the_callers_end_token(llama: LiveModel) -> None:
    whole = llama.complete(PROMPTS[:1], max_new_tokens=8)[0]
    end = whole[2]
    cut = llama.complete(PROMPTS, max_new_tokens=8, eos_token_id=end)[0]
    assert cut == whole[: whole.index(end)]


def test_sampling_is_the_callers_choice(llama: LiveModel) -> None:
    torch.manual_seed(0)
    one = llama.complete(PROMPTS, max_new_tokens=8, do_sample=True, temperature=3.0)
    torch.manual_seed(0)
    again = llama.complete(PROMPTS, max_new_tokens=8, do_sample=True, temperature=3.0)
    assert one == again != llama.complete(PROMPTS, max_new_tokens=8)
    with pytest.raises(ModelError, match="returns texts"):
        llama.complete(PROMPTS, max_new_tokens=2, return_dict_in_generate=True)


def test_prompts_that_do_not_fit_are_named(llama: LiveModel) -> None:
    with pytest.raises(DataError, match="context of 512"):
        llama.complete(["word " * 600], max_new_tokens=4)
    with pytest.raises(DataError, match="600 to generate"):
        llama.complete(["word"], max_new_tokens=600)


def test_an_empty_prompt_is_refused_rather_than_scored(llama: LiveModel) -> None:
    from steerkit.engine.prompts.chat import Rendered

    with pytest.raises(DataError, match="no token at all"):
        llama.batched([Rendered((5, 6)), Rendered(())], "right")


def test_a_model_in_training_mode_is_measured_without_dropout_and_left_as_it_was() -> None:
    from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
    from steerkit.session import wrap

    model = tiny_model("qwen")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    live = wrap(model, tiny_tokenizer())
    model.train()
    first, second = (next(iter(live.capture(PROMPTS, "blocks.1.resid_post").values())).mean for _ in range(2))
    assert torch.equal(first, second)
    assert all(module.training for module in model.modules())
    with pytest.raises(ZeroDivisionError), evaluating(model):
        assert not model.training
        raise ZeroDivisionError
    assert model.training
