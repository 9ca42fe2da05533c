"""Models and tokenizers inside of what people wrap around them, and embeddings that lie elsewhere between passes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import steerkit
from steerkit import Direction, Site
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.errors import ModelError

# peft itself asks transformers by an older name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

IDS = torch.tensor([[65, 66, 67, 68]])


def ablation(d_model: int) -> Any:
    vector = torch.randn(1, d_model, generator=torch.Generator().manual_seed(0))
    return steerkit.ablate(Direction(vector, Site("resid_pre", 1)))


def steered(live: steerkit.LiveModel, mode: Any) -> torch.Tensor:
    with live.steer(ablation(live.layout.d_model), mode=mode):
        logits: torch.Tensor = live.forward(IDS).logits
    return logits


@pytest.mark.parametrize("mode", ["auto", "hook", "fold"])
def test_adapters_of_a_peft_model_act_and_its_own_passes_are_steered(mode: Any) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    plain = steerkit.wrap(tiny_model("llama"), tiny_tokenizer())
    model = peft.get_peft_model(tiny_model("llama"), config)
    live = steerkit.wrap(model, tiny_tokenizer())
    assert torch.equal(live.forward(IDS).logits, model(input_ids=IDS).logits)
    assert not torch.allclose(live.forward(IDS).logits, plain.forward(IDS).logits, atol=1e-3)
    with live.steer(ablation(live.layout.d_model), mode="interpret"):
        expected = live.forward(IDS).logits
    with live.steer(ablation(live.layout.d_model), mode=mode):
        found = model(input_ids=IDS).logits
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, live.forward(IDS).logits, atol=1e-3)


def test_what_peft_puts_before_a_prompt_is_refused() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        tiny_model("llama"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    with pytest.raises(ModelError, match=r"PROMPT_TUNING.*before each prompt"):
        steerkit.wrap(model, tiny_tokenizer())


def test_the_tokenizer_inside_of_a_processor_is_taken() -> None:
    tokenizer = tiny_tokenizer()
    live = steerkit.wrap(tiny_model("llama"), SimpleNamespace(tokenizer=tokenizer, image_processor=object()))  # type: ignore[arg-type]
    assert live.tokenizer is tokenizer


@pytest.mark.parametrize("given", [{"a": 1}, "gpt2", object(), nn.Linear(2, 2)])
def test_what_is_no_tokenizer_is_named(given: Any) -> None:
    with pytest.raises(ModelError, match=f"A {type(given).__name__} is no tokenizer"):
        steerkit.wrap(tiny_model("llama"), given)


@pytest.mark.parametrize("mode", ["auto", "hook"])
def test_an_embedding_on_the_disk(mode: Any, tmp_path: Path) -> None:
    from accelerate import dispatch_model

    expected = steered(steerkit.wrap(tiny_model("llama"), tiny_tokenizer()), mode)
    model = tiny_model("llama")
    tied = model.config.tie_word_embeddings
    rest: dict[str, Any] = {"model.embed_tokens": "disk", "model.layers": "cpu", "model.norm": "cpu"}
    places = rest | {"model.rotary_emb": "cpu", "lm_head": "disk" if tied else "cpu"}
    live = steerkit.wrap(dispatch_model(model, places, main_device="cpu", offload_dir=str(tmp_path)), tiny_tokenizer())
    assert live.model.get_input_embeddings().weight.is_meta
    assert torch.allclose(steered(live, mode), expected, atol=1e-6)
    assert len(live.generate(["Hello"], max_new_tokens=3)) == 1


def test_a_whole_model_on_the_disk(tmp_path: Path) -> None:
    from accelerate import disk_offload

    expected = steered(steerkit.wrap(tiny_model("llama"), tiny_tokenizer()), "hook")
    model = tiny_model("llama")
    disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    live = steerkit.wrap(model, tiny_tokenizer())
    assert torch.allclose(steered(live, "auto"), expected, atol=1e-6)
