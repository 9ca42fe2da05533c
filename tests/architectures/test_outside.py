"""Models that are no causal class of their own are read, tested and steered like any other: image-text and peft."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steerkit.api.direction import Direction
from steerkit.engine.sites.selftest import self_test
from steerkit.engine.tiny.models import tiny_tokenizer
from steerkit.session import ablate, add, wrap
from steerkit.session.model import LiveModel
from steerkit.types import RESID_POST, Site
from tests.architectures.outside import adapted, image_text, quantised
from tests.conftest import assert_clean

IMAGE_TEXT = ("llava", "qwen2_vl", "idefics3", "mllama")
PEFT = tuple((kind, name) for kind in ("lora", "dora", "ia3") for name in ("gpt2", "mistral"))
IDS = torch.randint(6, 262, (2, 6), generator=torch.Generator().manual_seed(5))


def live_of(model: Any) -> LiveModel:
    return wrap(model, tiny_tokenizer(), adapter="auto")


def logits(live: LiveModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = live.forward(IDS).logits
    return found


def direction(live: LiveModel) -> Direction:
    vector = torch.randn(1, live.layout.d_model, generator=torch.Generator().manual_seed(1))
    return Direction(0.5 * vector, Site(RESID_POST, 1), name="d")


def require_steered(live: LiveModel) -> None:
    """Hooked and, where it can be, folded, an edit is what its definition says; the model comes back as it was."""
    assert live.layout.not_a_sum == "" and [one.stream for one in live.layout.blocks[0].writers] == [
        "attn_out",
        "mlp_out",
    ]
    before = {name: value.clone() for name, value in live.model.state_dict().items()}
    plain = logits(live)
    for condition in (ablate(direction(live)), add(direction(live), coefficient=2.0)):
        with live.steer(condition, mode="interpret"):
            expected = logits(live)
        assert (expected - plain).abs().max() > 1e-2
        for mode in ("hook", "auto"):
            with live.steer(condition, mode=mode):
                torch.testing.assert_close(logits(live), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(live), plain)
    assert_clean(live)
    assert all(torch.equal(value, before[name]) for name, value in live.model.state_dict().items())


@pytest.mark.parametrize("kind", IMAGE_TEXT)
def test_the_text_model_within_an_image_text_model_is_found_and_steered(kind: str) -> None:
    live = live_of(image_text(kind))
    assert live.layout.embed.module.startswith(("model.language_model.", "model.text_model."))
    require_steered(live)


def test_blocks_that_text_does_not_run_are_left_out_and_said() -> None:
    live = live_of(image_text("mllama"))
    assert [block.module for block in live.layout.blocks] == [
        f"model.language_model.layers.{layer}" for layer in (0, 2, 3)
    ]
    assert any("model.language_model.layers.1" in note for note in live.layout.notes)


def test_a_model_that_reads_its_prompt_both_ways_is_said_to() -> None:
    model = image_text("paligemma")
    report = self_test(model, live_of(model).layout)
    assert report.passed and [one.name for one in report.behaviours if not one.passed][:1] == ["causal"]


@pytest.mark.parametrize(("kind", "name"), PEFT)
def test_a_model_with_an_adapter_of_peft_is_found_and_steered(kind: str, name: str) -> None:
    live = live_of(adapted(kind, name))
    assert live.layout.n_layers == 4 and all(block.heads is not None for block in live.layout.blocks)
    require_steered(live)


@pytest.mark.parametrize("name", ["phi", "mistral"])
def test_a_model_whose_projections_are_held_in_8_bits_is_found_and_steered(name: str) -> None:
    live = live_of(quantised(name))
    assert live.layout.n_layers == 4 and all(block.heads is not None for block in live.layout.blocks)
    require_steered(live)
