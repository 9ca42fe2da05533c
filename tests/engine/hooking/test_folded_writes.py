"""What somebody does to folded parameters is never lost without a word, and copies of a steered model are plain."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

from steerkit.engine.hooking.written import state_of_tensor, states_equal
from steerkit.engine.tiny.models import tiny_model
from steerkit.errors import AttachError
from steerkit.session import wrap
from tests.engine.conditions import MODES, Trace, vectors
from tests.engine.hooking.test_folded_model import everywhere, fresh, logits

PROJECTION = "model.layers.0.mlp.down_proj"


def set_data(module: Any) -> None:
    module.weight.data = torch.ones_like(module.weight)


def transpose_rows(module: Any) -> None:
    module.weight.data.copy_(module.weight.data.flip(0))


def give_gradient(module: Any) -> None:
    module.weight.requires_grad_(True)
    module.weight.sum().backward()


WRITES: dict[str, Callable[[Any], object]] = {
    "data.mul_": lambda module: module.weight.data.mul_(2),
    "one number": lambda module: module.weight.data[3, 4].add_(1e-3),
    "data.copy_": transpose_rows,
    "data =": set_data,
    "init": lambda module: nn.init.zeros_(module.weight),
    "gradient": give_gradient,
}


@pytest.mark.parametrize("write", WRITES)
def test_what_is_written_into_a_folded_parameter_is_told(write: str) -> None:
    live = fresh()
    trace = Trace(live.model)
    named = rf"folded into the model to steer it, {PROJECTION}\.weight (was written into|has got a gradient)\."
    with pytest.raises(AttachError, match=named), live.steer(*everywhere(live), mode="fold"):
        WRITES[write](live.model.get_submodule(PROJECTION))
    trace.check()


@pytest.mark.parametrize("write", ["data.mul_", "data ="])
def test_what_is_written_before_the_model_is_cast_is_told(write: str) -> None:
    live = fresh()
    with pytest.raises(AttachError, match="written into"), live.steer(*everywhere(live), mode="fold"):
        WRITES[write](live.model.get_submodule(PROJECTION))
        live.model.to(torch.bfloat16)
    assert {value.dtype for value in live.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "change", [lambda module: prune.l1_unstructured(module, "weight", amount=0.5), lambda module: weight_norm(module)]
)
def test_what_is_made_of_a_folded_parameter_is_told(change: Callable[[Any], object]) -> None:
    live = fresh()
    with pytest.raises(AttachError, match="which now holds the steering"), live.steer(*everywhere(live), mode="fold"):
        change(live.model.get_submodule(PROJECTION))


def test_a_step_of_an_optimiser_inside_is_steered_from_the_next_pass_on() -> None:
    """An optimiser holds the model's own parameters: they are folded into anew, and what it wrote stays."""
    live, other = fresh(), fresh()
    held = [list(one.model.get_submodule(PROJECTION).parameters()) for one in (live, other)]
    with torch.no_grad():
        held[1][0].mul_(3)
    with live.steer(*everywhere(live), mode="fold"):
        before = logits(live)
        with torch.no_grad():
            held[0][0].mul_(3)
        inside = logits(live)
        bare = live.hf_model(input_ids=torch.tensor([[2, 70, 71, 72, 73, 74]]), use_cache=False).logits
    with other.steer(*everywhere(other), mode="fold"):
        assert torch.equal(inside, logits(other)) and torch.equal(bare, inside) and not torch.equal(inside, before)
    assert torch.equal(logits(live), logits(other))


def test_a_model_that_is_unfrozen_inside_stays_so() -> None:
    live = fresh()
    live.model.requires_grad_(False)
    with live.steer(*everywhere(live), mode="fold"):
        live.model.requires_grad_(True)
    assert all(value.requires_grad for value in live.model.parameters())


@pytest.mark.parametrize("mode", MODES)
def test_a_copy_is_one_of_the_plain_model(mode: Any) -> None:
    live = fresh()
    trace, plain = Trace(live.model), logits(live)
    with live.steer(*everywhere(live), mode=mode):
        steered = logits(live)
        copied, base = copy.deepcopy(live.hf_model), copy.deepcopy(live.hf_model.model)
        assert torch.equal(logits(live), steered), "the model itself is steered as before"
        with pytest.raises(AttachError, match="isn't pickled whole"):
            torch.save(live.hf_model, io.BytesIO())
        with pytest.raises(AttachError, match=r"nor copied by copy\.copy"):
            copy.copy(live.hf_model.model)
    trace.check()
    assert not {"__deepcopy__", "__reduce_ex__", "_apply"} & {
        name for one in (live.hf_model, copied, base) for module in one.modules() for name in vars(module)
    }
    for name, value in base.state_dict().items():
        assert torch.equal(value, live.hf_model.model.state_dict()[name])
    other = wrap(copied, self_test=False)
    assert torch.equal(logits(other), plain)
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for one in (copied, base) for module in one.modules()
    )
    torch.save(live.hf_model, io.BytesIO())


@pytest.mark.parametrize("path", ["model.layers.0", PROJECTION, "model.embed_tokens"])
def test_a_copy_of_a_part_is_plain_and_a_part_is_not_pickled(path: str) -> None:
    live = fresh()
    part = live.model.get_submodule(path)
    plain, outside = copy.deepcopy(part.state_dict()), copy.deepcopy(part)
    with live.steer(*everywhere(live), mode="fold"):
        copied = copy.deepcopy(part)
        with pytest.raises(AttachError, match="neither pickled nor copied"):
            torch.save(part, io.BytesIO())
    found = copied.state_dict()
    assert found.keys() == plain.keys() and all(torch.equal(value, plain[name]) for name, value in found.items())
    for one, other in zip(copied.modules(), outside.modules(), strict=True):
        assert vars(one).keys() == vars(other).keys() and not one._state_dict_hooks
    torch.save(copied, io.BytesIO())


def test_what_was_lost_is_told_though_it_was_folded_anew_since() -> None:
    live = fresh()
    projection = live.model.get_submodule(PROJECTION)
    own = next(projection.parameters())
    with (
        pytest.raises(AttachError, match=r"down_proj\.weight was written into"),
        live.steer(*everywhere(live), mode="fold"),
    ):
        set_data(projection)
        with torch.no_grad():
            own.mul_(3)
        logits(live)


def test_a_copy_of_a_prepared_model_is_refused() -> None:
    live = fresh()
    with live.prepare():
        with pytest.raises(AttachError, match="outside of `prepare`"):
            copy.deepcopy(live.hf_model)
        with pytest.raises(AttachError, match="Resize it outside of `prepare`"):
            live.hf_model.resize_token_embeddings(96)
    copy.deepcopy(live.hf_model)


def test_a_model_that_was_made_under_inference_mode_is_folded_into() -> None:
    """Torch counts no versions of its parameters."""
    with torch.inference_mode():
        live = wrap(tiny_model("llama", n_layers=2, seed=5), self_test=False)
    other = fresh()
    plain = logits(live)
    with live.steer(*everywhere(live), mode="fold"), other.steer(*everywhere(other), mode="fold"):
        assert torch.equal(logits(live), logits(other))
    assert torch.equal(logits(live), plain)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [5, 301])
def test_every_write_changes_the_state_of_a_tensor(width: int, dtype: torch.dtype) -> None:
    value = vectors(width, 4 * width, 1).to(dtype)
    state = state_of_tensor(value)
    assert states_equal(state, state_of_tensor(value))
    one, swapped = value.clone(), value.clone()
    one[0, 1] += 1
    swapped[:2] = value[:2].flip(0)
    for changed in (
        one,
        swapped,
        value.flip(0),
        value.flip(1),
        -value,
        value.T,
        value.index_fill(1, torch.tensor([2]), 0),
    ):
        held = value.clone()
        states = [state_of_tensor(held)]
        held.data.copy_(changed.reshape(held.shape))
        states.append(state_of_tensor(held))
        assert not states_equal(*states)


def test_a_tensor_that_lies_amid_another_has_a_state() -> None:
    held = vectors(9000, 2, 1).reshape(-1)
    assert states_equal(state_of_tensor(held[1:9001])[1:], state_of_tensor(held[1:9001].clone())[1:])


def test_the_exception_of_the_body_stays_and_says_what_was_lost() -> None:
    live = fresh()
    with pytest.raises(ValueError, match="of the body") as told, live.steer(*everywhere(live), mode="fold"):
        live.model.get_submodule(PROJECTION).weight.data.mul_(2)
        raise ValueError("of the body")
    assert any("down_proj" in note for note in told.value.__notes__)
    assert not live.steering.shared.states and not live.steering.shared.blocks
