"""Folding: into which parameter, when it isn't done and why, and that the very same bits come back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from steerkit.api.direction import Direction
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.session import ablate, add, wrap
from steerkit.session.model import LiveModel
from steerkit.types import Site
from tests.conftest import assert_clean

IDS = torch.tensor([[2, 30, 31, 32, 33, 34], [2, 40, 41, 42, 43, 44]])


def direction(width: int, site: str = "blocks.1.resid_pre", rank: int = 1, seed: int = 0) -> Direction:
    vectors = torch.randn(rank, width, generator=torch.Generator().manual_seed(1000 + seed))
    return Direction(0.3 * vectors, Site.parse(site), name="d")


def fresh(model_type: str = "llama", **config: object) -> LiveModel:
    return wrap(tiny_model(model_type, **config), tiny_tokenizer())


@contextmanager
def unchanged(live: LiveModel) -> Iterator[None]:
    """The very same parameters, in place and to the bit, and no hook."""
    before = {name: (value, value.clone()) for name, value in live.model.named_parameters(remove_duplicate=False)}
    yield
    after = dict(live.model.named_parameters(remove_duplicate=False))
    assert after.keys() == before.keys()
    for name, (value, bits) in before.items():
        assert after[name] is value and torch.equal(value, bits), name
    assert_clean(live)


def logits(live: LiveModel) -> Tensor:
    with torch.no_grad():
        found: Tensor = live.forward(IDS).logits
    return found


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    error, size = float((found - expected).abs().max()), max(1.0, float(expected.abs().max()) / 10)
    assert error <= tolerance * size, error


@pytest.mark.parametrize("rank", [1, 3])
def test_an_ablation_at_every_writer_is_no_hook_at_all(rank: int) -> None:
    live = fresh()
    built = ablate(direction(live.layout.d_model, rank=rank))
    with live.steer(built, mode="interpret"):
        expected = logits(live)
    with unchanged(live):
        with live.steer(built, mode="fold"):
            assert_clean(live, door=True)
            assert_close(logits(live), expected)
        assert_close(logits(live), logits(fresh()))


def test_a_tied_head_keeps_the_embedding_as_it_was() -> None:
    model = tiny_model("llama")
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    live = wrap(model, tiny_tokenizer())
    built = ablate(direction(live.layout.d_model))
    with live.steer(built, mode="interpret"):
        expected = logits(live)
    with unchanged(live):
        with live.steer(built, mode="fold"):
            assert live.model.lm_head.weight is not live.model.model.embed_tokens.weight
            assert_close(logits(live), expected)
        assert live.model.lm_head.weight is live.model.model.embed_tokens.weight


def test_a_constant_is_a_bias_where_there_was_none() -> None:
    live = fresh("qwen3")
    adds = [add(direction(live.layout.d_model, f"blocks.{layer}.resid_pre", seed=layer)) for layer in (1, 2)]
    with live.steer(*adds, mode="interpret"):
        expected = logits(live)
    projection = live.model.model.layers[0].mlp.down_proj
    assert projection.bias is None
    with unchanged(live):
        with live.steer(*adds):  # auto: a bias always pays
            assert_clean(live, door=True)
            assert isinstance(projection.bias, nn.Parameter)
            assert_close(logits(live), expected)
        assert projection.bias is None


def test_what_meets_in_one_projection_is_one_fold() -> None:
    live = fresh()
    width = live.layout.width(Site("head_out", 1))
    heads = ablate(direction(width, "blocks.1.head_out"), sites="blocks.1.head_out")
    out = ablate(direction(live.layout.d_model, seed=1), sites="blocks.1.attn_out")
    shift = add(direction(live.layout.d_model, seed=2), sites="blocks.1.resid_mid")
    with live.steer(heads, out, shift, mode="interpret"):
        expected = logits(live)
    with unchanged(live), live.steer(heads, out, shift, mode="fold"):
        assert_clean(live, door=True)
        assert_close(logits(live), expected)
    explained = live.explain(heads, out, shift, mode="fold")
    assert explained.hooks == 0 and explained.parameters == 1


@pytest.mark.parametrize("last", [False, True])
def test_what_is_folded_into_a_projections_input_comes_behind_what_is_hooked_there(last: bool) -> None:
    live = fresh()
    one = direction(live.layout.width(Site("head_out", 1)), "blocks.1.head_out")
    shift = add(one, sites="blocks.1.head_out", positions=[2, 3])
    mirror = ablate(one, sites="blocks.1.head_out", coefficient=2.0)
    interventions = [shift, mirror] if last else [mirror, shift]
    with live.steer(*interventions, mode="interpret"):
        expected = logits(live)
    with unchanged(live), live.steer(*interventions, mode="fold"):
        assert_close(logits(live), expected)
    assert live.explain(*interventions, mode="fold").parameters == int(last)


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text"])
def test_behind_a_norm_nothing_folds_and_it_says_why(model_type: str) -> None:
    live = fresh(model_type)
    built = ablate(direction(live.layout.d_model))
    with live.steer(built, mode="interpret"):
        expected = logits(live)
    with unchanged(live), live.steer(built, mode="fold"):
        assert_close(logits(live), expected)
    rows = live.explain(built, mode="fold").rows
    assert [row.became for row in rows if row.sites == "embed"] == ["folded"]
    kept = [row for row in rows if row.sites != "embed"]
    assert kept and all(row.became.startswith("hook") and "norm follows" in row.why for row in kept)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "qwen2_moe"])
def test_what_is_linear_goes_into_stacked_experts_and_a_constant_does_not(model_type: str) -> None:
    live = fresh(model_type)
    built = ablate(direction(live.layout.d_model))
    with live.steer(built, mode="interpret"):
        expected = logits(live)
    with unchanged(live), live.steer(built, mode="fold"):
        assert_clean(live, door=True)
        assert_close(logits(live), expected)
    shift = add(direction(live.layout.d_model), sites="blocks.1.mlp_out")
    with live.steer(shift, mode="interpret"):
        expected = logits(live)
    with unchanged(live), live.steer(shift, mode="fold"):
        assert_close(logits(live), expected)
    (row,) = live.explain(shift, mode="fold").rows
    assert row.became.startswith("hook") and "router" in row.why


def test_a_module_that_is_no_plain_linear_is_hooked() -> None:
    class Quantised(nn.Linear):
        """Stands for a layer whose weight isn't what it multiplies with."""

    live = fresh()
    block = live.model.model.layers[1]
    plain = block.mlp.down_proj
    other = Quantised(plain.in_features, plain.out_features, bias=False)
    other.weight = plain.weight
    block.mlp.down_proj = other
    built = ablate(direction(live.layout.d_model))
    with live.steer(built, mode="fold"):
        assert len(block.mlp._forward_hooks) == 1 and not block.self_attn._forward_hooks
    why = {row.sites: row.why for row in live.explain(built, mode="fold").rows}
    assert "Quantised" in why["blocks.1.mlp_out"]


def test_a_strangers_hook_sees_what_it_saw_before() -> None:
    live = fresh()
    projection = live.model.model.layers[1].mlp.down_proj
    seen: list[Tensor] = []
    handle = projection.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    shift = add(direction(live.layout.d_model, "blocks.2.resid_pre"))
    logits(live)
    with live.steer(shift):
        logits(live)
    handle.remove()
    assert torch.equal(seen[0], seen[1])


def test_auto_folds_matrices_only_where_it_pays() -> None:
    live = fresh()
    built = ablate(direction(live.layout.d_model))
    few, many = live.explain(built, expected_tokens=1), live.explain(built, expected_tokens=10**6)
    assert few.parameters == 0 and few.hooks == 1 + 2 * live.layout.n_layers
    assert many.hooks == 0 and many.parameters == few.hooks
    assert any("expected" in row.why for row in few.rows)
    assert live.explain(built, mode="hook", expected_tokens=10**6).parameters == 0


def test_capture_beside_a_folded_constant_reads_what_is_defined() -> None:
    live = fresh()
    shift = add(direction(live.layout.d_model, "blocks.2.resid_pre"))
    sites = ["blocks.1.mlp_out", "blocks.1.resid_post", "blocks.2.resid_pre"]
    plain = live.capture(["a river"], sites, progress=False)
    with live.steer(shift, mode="fold"):
        steered = live.capture(["a river"], sites, progress=False)
    found = [float((steered[key].mean - plain[key].mean).abs().max()) for key in plain]
    assert found[0] == 0 and found[1] == 0 and found[2] > 0.1


def test_with_a_gradient_wanted_nothing_folds_and_it_flows() -> None:
    live = fresh()
    vector = torch.randn(1, live.layout.d_model, requires_grad=True)
    factor = torch.tensor(0.5, requires_grad=True)
    learned = Direction(vector, Site("resid_pre", 1), name="learned")
    interventions = [add(learned, coefficient=factor), ablate(learned, coefficient=factor)]

    def loss(mode: str) -> Tensor:
        with torch.enable_grad(), live.steer(*interventions, mode=mode):  # type: ignore[arg-type]
            found: Tensor = live.model(input_ids=IDS).logits.float().logsumexp(-1).mean()
        return found

    for mode in ("hook", "fold", "auto"):
        vector.grad = factor.grad = None
        loss(mode).backward()
        assert vector.grad is not None and factor.grad is not None and float(vector.grad.norm()) > 0
        step = 1e-2
        with torch.no_grad():
            before = factor.item()
            ends = []
            for end in (before + step, before - step):
                factor.fill_(end)
                ends.append(float(loss(mode)))
            factor.fill_(before)
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(factor.grad), rel=0.02, abs=1e-4)
