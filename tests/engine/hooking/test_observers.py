"""What others see of the stream is the steered stream, the same in every mode; gradients that are computed again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from steerkit.api.intervention import Affine
from steerkit.engine.tiny.models import tiny_model
from steerkit.errors import PositionError
from steerkit.session import wrap
from steerkit.session.model import LiveModel
from tests.conftest import assert_clean
from tests.engine.conditions import MODES, Given, vectors

IDS = torch.tensor([[2, 70, 71, 72, 73, 74], [2, 75, 74, 73, 72, 71]])
FAMILIES = ("llama", "yi", "qwen2", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "gemma4_text")


def fresh(model_type: str, **more: Any) -> LiveModel:
    return wrap(tiny_model(model_type, n_layers=4, seed=5, **more), self_test=False)


@pytest.mark.parametrize(
    "site", ["blocks.2.resid_pre", "blocks.1.resid_post", "blocks.1.mlp_out", "blocks.2.resid_mid"]
)
@pytest.mark.parametrize("model_type", FAMILIES)
@torch.no_grad()
def test_hidden_states_and_hooks_see_the_steered_stream_in_every_mode(model_type: str, site: str) -> None:
    condition = Given({site: Affine(bias=2 * vectors(32, 1, 1)[0])})
    seen: dict[tuple[str, bool], list[Tensor]] = {}
    plain = fresh(model_type).forward(IDS, output_hidden_states=True).hidden_states
    for mode in MODES:
        for before in (False, True):
            live, notes = fresh(model_type), []
            block = live.model.get_submodule(live.layout.blocks[2].module)

            def note(*given: Any, notes: list[Tensor] = notes) -> None:
                value = given[-1] if not isinstance(given[-1], dict) else given[1][0]
                notes.append((value[0] if isinstance(value, tuple) else value).clone())

            def watch(block: Any = block, note: Any = note) -> None:
                block.register_forward_hook(note)
                block.register_forward_pre_hook(note, with_kwargs=True)

            if before:
                live.forward(IDS, output_hidden_states=True)
                watch()
            with live.steer(condition, mode=mode):  # type: ignore[arg-type]
                if not before:
                    watch()
                states = live.forward(IDS, output_hidden_states=True).hidden_states
            seen[mode, before] = [*states, *notes[-2:]]
    first = seen["interpret", False]
    for values in seen.values():
        assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(values, first, strict=True))
    changed = [not torch.allclose(one, other, atol=1e-2) for one, other in zip(first, plain, strict=False)]
    begin = 3 if site == "blocks.2.resid_mid" else 2
    assert changed == [place >= begin for place in range(len(changed))]


# Gradient checkpointing


def gradients(live: LiveModel, widths: list[int], mode: Any, positions: str, inside: bool = False) -> list[Tensor]:
    """Of a vector that is added, and of every parameter, over several left-padded batches in one block."""
    v = vectors(32, 1, 3)[0].double().requires_grad_(mode != "fold")
    generator = torch.Generator().manual_seed(0)
    live.model.train()
    live.model.requires_grad_(True)
    losses = []
    with live.steer(Given({"blocks.1.attn_out": Affine(bias=v)}, positions), mode=mode):
        for place, width in enumerate(widths):
            ids = torch.randint(70, 90, (2, width), generator=generator)
            mask = torch.ones_like(ids)
            mask[0, : 3 + place] = 0
            logits = live.forward(ids, mask, use_cache=False).logits
            losses.append(logits.log_softmax(-1)[:, -1].pow(2).mean())
        if inside:
            sum(losses).backward()  # type: ignore[union-attr]
    if not inside:
        sum(losses).backward()  # type: ignore[union-attr]
    found = [parameter.grad for parameter in live.model.parameters()]
    return [value for value in (v.grad, *found) if value is not None]


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("widths", [[9, 9], [9, 7]])
@pytest.mark.parametrize(
    ("mode", "positions"), [("hook", "[0]"), ("hook", "all"), ("interpret", "1:"), ("fold", "all")]
)
def test_what_is_computed_again_is_what_was_computed(
    mode: str, positions: str, widths: list[int], inside: bool
) -> None:
    live, again = fresh("llama", dtype=torch.float64), fresh("llama", dtype=torch.float64)
    model: Any = again.hf_model
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    expected = gradients(live, widths, mode, positions, inside)
    found = gradients(again, widths, mode, positions, inside)
    assert len(found) == len(expected) > 10
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert all(value.abs().max() > 0 for value in expected[:1])


@pytest.mark.parametrize("mode", ["hook", "fold"])
@pytest.mark.parametrize("bare", [True, False])
def test_an_interrupted_pass_leaves_what_runs_blocks_for_gradients(bare: bool, mode: Any) -> None:
    live = fresh("llama")
    model: Any = live.hf_model
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.train()
    name = "_gradient_checkpointing_func"
    before = {path: vars(module)[name] for path, module in model.named_modules() if name in vars(module)}
    assert before

    def interrupt(*given: Any) -> None:
        raise KeyboardInterrupt

    handle = model.model.layers[2].register_forward_hook(interrupt)
    condition = Given({"blocks.1.attn_out": Affine(bias=vectors(32, 1, 3)[0])})
    with pytest.raises(KeyboardInterrupt), live.steer(condition, mode=mode):
        (model if bare else live.forward)(input_ids=IDS, use_cache=False)
    handle.remove()
    assert_clean(live)
    assert {path: vars(module)[name] for path, module in model.named_modules() if name in vars(module)} == before


def test_a_block_that_is_run_by_itself_knows_no_positions() -> None:
    """As one that somebody else's checkpointing runs again: an error, not what another pass left behind."""
    live = fresh("llama")
    block = live.model.get_submodule("model.layers.1")
    kept: list[Any] = []
    handle = block.register_forward_pre_hook(lambda *given: kept.append(given[1:]), with_kwargs=True)
    with live.steer(Given({"blocks.1.attn_out": Affine(bias=vectors(32, 1, 3)[0])}, "[0]")):
        live.forward(IDS, use_cache=False)
        handle.remove()
        with pytest.raises(PositionError, match="outside its model's forward pass"):
            block(*kept[0][0], **kept[0][1])
