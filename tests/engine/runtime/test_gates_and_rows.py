"""Gates, rows and caches where they meet: each case once gave a wrong number without an error."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from steerkit.api.direction import Direction
from steerkit.api.intervention import Gate, Placement
from steerkit.errors import AttachError, PositionError
from steerkit.session import ablate, add, gate
from steerkit.session.model import LiveModel
from steerkit.types import Positions, Site

IDS = torch.tensor([[2, 30, 31, 32, 33, 34], [2, 40, 41, 42, 43, 44]])


def direction(live: LiveModel, seed: int = 0, site: str = "blocks.1.resid_pre") -> Direction:
    vectors = torch.randn(1, live.layout.d_model, generator=torch.Generator().manual_seed(2000 + seed))
    return Direction(vectors, Site.parse(site), name=f"d{seed}")


def logits(live: LiveModel, ids: Tensor = IDS, **kwargs: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = live.forward(ids, **kwargs).logits
    return found


@pytest.mark.parametrize("at", ["token", "prompt"])
def test_rows_that_share_a_gate_read_it_each_in_its_own_turn(llama: LiveModel, at: str) -> None:
    first = add(direction(llama, 0), sites="blocks.0.resid_post")
    shared = gate(direction(llama, 1), above=0.0, site="blocks.1.resid_pre", at=at)
    second = add(direction(llama, 2), sites=["blocks.1.resid_pre", "blocks.2.resid_pre"], gate=shared)
    steer: list[list[Placement]] = [[first, second], [second]]
    together = logits(llama, steer=steer, prompt_lengths=[3, 3])
    for row, condition in enumerate(steer):
        with llama.steer(*condition):
            alone = logits(llama, IDS[row : row + 1], prompt_lengths=[3])
        assert torch.allclose(together[row], alone[0], atol=1e-4)


def test_rows_of_steer_rows_are_not_prompts(llama: LiveModel) -> None:
    with (
        llama.steer_rows([add(direction(llama)), None]),
        pytest.raises(AttachError, match="steer="),
    ):
        llama.complete(["a", "a longer prompt"], max_new_tokens=2)


@pytest.mark.parametrize("mode", ["hook", "interpret"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_pass_of_other_rows_is_refused(llama: LiveModel, mode: str, rows: int) -> None:
    with (
        llama.steer_rows([add(direction(llama)), None], mode=mode),  # type: ignore[arg-type]
        pytest.raises(AttachError, match="2 conditions"),
    ):
        logits(llama, IDS[:1].expand(rows, -1))


def continued(live: LiveModel, cache: DynamicCache, ids: list[int], **kwargs: Any) -> Tensor:
    return logits(live, torch.tensor([ids]), past_key_values=cache, use_cache=True, **kwargs)


@pytest.mark.parametrize("before, after", [([7, 20, 21], [22, 20, 21, 23]), ([19, 20, 21], [22, 7, 21, 23])])
def test_a_cropped_cache_is_looked_at_again(llama: LiveModel, before: list[int], after: list[int]) -> None:
    built = add(direction(llama), positions=Positions.parse("from_token(#7)"))
    with llama.steer(built):
        cache = DynamicCache(config=llama.model.config)
        continued(llama, cache, [10, 11, 12, 13])
        continued(llama, cache, before)
        cache.crop(-3)
        found = continued(llama, cache, after)
        whole = logits(llama, torch.tensor([[10, 11, 12, 13, *after]]))
    assert torch.allclose(found, whole[:, 4:], atol=1e-4)


def test_a_longer_prompt_on_the_same_cache_is_decided_anew(llama: LiveModel) -> None:
    vector = direction(llama)
    for threshold in (-1.0, 0.0, 1.0):
        built = add(direction(llama, 3), gate=gate(vector, above=threshold, at="prompt"))
        with llama.steer(built):
            cache = DynamicCache(config=llama.model.config)
            continued(llama, cache, [2, 30, 31], prompt_lengths=[3])
            continued(llama, cache, [32, 33, 34, 35, 36], prompt_lengths=[8])
            found = continued(llama, cache, [37, 38], prompt_lengths=[8])
            whole = logits(llama, torch.tensor([[2, 30, 31, 32, 33, 34, 35, 36, 37, 38]]), prompt_lengths=[8])
        assert torch.allclose(found, whole[:, 8:], atol=1e-4)


def test_all_of_a_gates_positions_are_all_of_the_prompt(llama: LiveModel) -> None:
    assert Gate(direction(llama), 0.0, at="prompt", positions=Positions("all")).positions == Positions("prompt")
    for positions in ("generated", "from_token(#7)"):
        with pytest.raises(PositionError, match="reads tokens of the prompt"):
            Gate(direction(llama), 0.0, at="prompt", positions=Positions.parse(positions))


@pytest.mark.parametrize("prepass", [False, True])
def test_a_gate_without_a_token_to_read_says_so(llama: LiveModel, prepass: bool) -> None:
    closed = gate(direction(llama), above=0.0, at="prompt", positions="prompt[10:]", prepass=prepass)
    with llama.steer(add(direction(llama, 1), gate=closed)), pytest.raises(PositionError, match="no token at"):
        logits(llama, prompt_lengths=[3, 3])


def test_a_cache_keeps_nothing_and_its_copy_is_its_own(llama: LiveModel) -> None:
    with llama.steer(add(direction(llama), positions=Positions.parse("from_token(#7)"))):
        cache = DynamicCache(config=llama.model.config)
        with torch.no_grad():
            llama.forward(IDS, past_key_values=cache, use_cache=True)
        other = copy.deepcopy(cache)
        keys = cache.layers[0].keys.clone()
        other.reorder_cache(torch.tensor([1, 0]))
        assert torch.equal(cache.layers[0].keys, keys) and torch.equal(other.layers[0].keys, keys[[1, 0]])
    assert "reorder_cache" not in vars(cache)


def test_a_fold_is_made_anew_where_its_parameters_changed_meanwhile(llama: LiveModel) -> None:
    built = ablate(direction(llama))
    weight = llama.model.model.layers[1].mlp.down_proj.weight
    before = weight.detach().clone()
    try:
        with llama.steer(built, mode="fold"):
            with llama.steer(add(direction(llama, 1)), mode="hook"), torch.no_grad():
                weight.mul_(2)
            found = logits(llama)
        with llama.steer(built, mode="interpret"):
            expected = logits(llama)
        assert torch.allclose(found, expected, atol=1e-4)
    finally:
        with torch.no_grad():
            weight.copy_(before)


def test_explain_inside_of_steer_is_as_outside(llama: LiveModel) -> None:
    built = ablate(direction(llama))
    outside = str(llama.explain(built, mode="fold"))
    with llama.steer(built, mode="hook"):
        steered = logits(llama)
        assert str(llama.explain(built, mode="fold")) == outside
        assert torch.equal(logits(llama), steered)


def test_a_learned_direction_meets_fixed_ones_of_another_dtype(llama: LiveModel) -> None:
    vector = torch.randn(1, llama.layout.d_model, dtype=torch.bfloat16, requires_grad=True)
    learned = Direction(vector, Site("resid_pre", 1))
    fixed = [add(direction(llama, seed)) for seed in (0, 1)]
    with (
        torch.enable_grad(),
        llama.steer(*fixed, add(learned), ablate(direction(llama, 2), sites="blocks.1.resid_pre")),
    ):
        llama.model(input_ids=IDS).logits.sum().backward()
    assert vector.grad is not None and bool(vector.grad.any())


def test_what_inference_mode_made_can_be_trained_beside_later(llama: LiveModel) -> None:
    built = ablate(direction(llama))
    with torch.inference_mode(), llama.steer(built, mode="hook"):
        llama.forward(IDS)
    vector = torch.randn(1, llama.layout.d_model, requires_grad=True)
    with torch.enable_grad(), llama.steer(add(Direction(vector, Site("resid_pre", 1))), built, mode="hook"):
        llama.model(input_ids=IDS).logits.sum().backward()
    assert vector.grad is not None


def test_a_token_gate_needs_no_mask(llama: LiveModel) -> None:
    always = gate(direction(llama), above=-1e9, site="embed")
    built, plain = add(direction(llama, 1), gate=always), add(direction(llama, 1))
    ids = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "max_new_tokens": 4, "do_sample": False}
    for more in ({}, {"cache_implementation": "static"}):
        with llama.steer(built):
            gated = llama.hf_model.generate(**ids, **more)
        with llama.steer(plain):
            assert torch.equal(gated, llama.hf_model.generate(**ids, **more))


def test_odd_values_are_refused(llama: LiveModel) -> None:
    with pytest.raises(AttachError, match="finite"):
        Gate(direction(llama), float("nan"))
    built = replace(add(direction(llama)), factor=2.0)  # type: ignore[arg-type]
    with pytest.raises(AttachError, match="one element"), llama.steer(built):
        pass
