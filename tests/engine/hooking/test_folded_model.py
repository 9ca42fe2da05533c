"""What happens to a model while something is folded into it ends in the right model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from steerkit.api.intervention import Affine
from steerkit.engine.tiny.models import tiny_model
from steerkit.errors import AttachError
from steerkit.session import wrap
from steerkit.session.model import LiveModel
from tests.engine.conditions import Given, Trace, vectors

IDS = torch.tensor([[2, 70, 71, 72, 73, 74]])


def fresh(model_type: str = "llama", seed: int = 5) -> LiveModel:
    return wrap(tiny_model(model_type, n_layers=2, seed=seed), self_test=False)


def everywhere(live: LiveModel) -> list[Given]:
    """An ablation at embedding and writers, whose matrices change, and a constant, which makes a new bias."""
    v = nn.functional.normalize(vectors(32, 2, 1), dim=1)
    writers = {str(site): Affine(-v[:1], v[:1]) for site in live.layout.writer_sites()}
    return [Given(writers), Given({"blocks.0.resid_post": Affine(bias=2 * v[1])})]


@torch.no_grad()
def logits(live: LiveModel, ids: Tensor = IDS) -> Tensor:
    return live.forward(ids, use_cache=False).logits


def load_other(model: Any) -> None:
    model.load_state_dict(tiny_model(model.config.model_type, n_layers=2, seed=6).state_dict())


def load_assigned(model: Any) -> None:
    state = tiny_model(model.config.model_type, n_layers=2, seed=6).state_dict()
    model.load_state_dict({name: nn.Parameter(value) for name, value in state.items()}, assign=True)
    model.tie_weights()


def replace(model: Any) -> None:
    projection = model.model.layers[0].mlp.down_proj
    projection.weight = nn.Parameter(torch.ones_like(projection.weight) / 7)


CHANGES: dict[str, Callable[[Any], object]] = {
    "load_state_dict": load_other,
    "load_state_dict, assigned": load_assigned,
    "double": lambda model: model.double(),
    "bfloat16": lambda model: model.to(torch.bfloat16),
    "twice": lambda model: model.to(torch.bfloat16).float(),
    "a new parameter": replace,
    "another size": lambda model: model.resize_token_embeddings(96, mean_resizing=False),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("model_type", ["llama", "gemma", "qwen3_moe"])
def test_a_change_inside_the_block_is_one_of_the_plain_model(model_type: str, change: str) -> None:
    if model_type == "qwen3_moe" and change in ("a new parameter", "double"):
        pytest.skip("its experts run in no float64, and its last writer is no Linear")
    live, other = fresh(model_type), fresh(model_type)
    CHANGES[change](other.hf_model)
    told: AbstractContextManager[Any] = nullcontext()
    if change == "a new parameter":
        told = pytest.warns(UserWarning, match=r"layers\.0\.mlp\.down_proj\.weight\. It stays\. If it was made of")
    with told, live.steer(*everywhere(live), mode="fold"):
        CHANGES[change](live.hf_model)
        inside = logits(live)
        bare = live.hf_model(input_ids=IDS, use_cache=False).logits
    with other.steer(*everywhere(other), mode="fold"):
        assert torch.equal(inside, logits(other)) and torch.equal(bare, inside)
    assert torch.equal(logits(live), logits(other))
    here, there = live.model.state_dict(), other.model.state_dict()
    assert here.keys() == there.keys()
    assert all(torch.equal(value, there[name]) and value.dtype is there[name].dtype for name, value in here.items())
    assert all("_apply" not in vars(module) for module in live.model.modules())


def test_a_write_into_a_folded_parameter_is_said(tmp_path: Path) -> None:
    live = fresh()
    trace = Trace(live.model)
    projection: Any = live.hf_model.get_submodule("model.layers.0.mlp.down_proj")
    steered = live.steer(*everywhere(live), mode="fold")
    with pytest.raises(AttachError, match="written into"), steered, torch.no_grad():
        projection.weight.mul_(2)
    trace.check()
    with live.steer(*everywhere(live), mode="fold"):
        pass


@pytest.mark.parametrize("model_type", ["llama", "gemma"])
def test_a_checkpoint_of_a_folded_model_is_the_plain_one_and_says_so(model_type: str, tmp_path: Path) -> None:
    live = fresh(model_type)
    plain = copy.deepcopy(live.model.state_dict())
    live.hf_model.save_pretrained(tmp_path / "before")
    with live.steer(*everywhere(live), mode="fold"):
        with pytest.warns(UserWarning, match="steerkit bake"):
            live.hf_model.save_pretrained(tmp_path / "inside")
        with pytest.warns(UserWarning, match="plain model"):
            state = live.hf_model.state_dict()
        assert state.keys() == plain.keys()
        assert all(torch.equal(value, plain[name]) for name, value in state.items())
    saved, before = (load_file(tmp_path / name / "model.safetensors") for name in ("inside", "before"))
    assert saved.keys() == before.keys() and all(torch.equal(value, before[name]) for name, value in saved.items())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        live.hf_model.state_dict()
