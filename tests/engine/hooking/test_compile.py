"""Steering under torch.compile: prepared places change with no new graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from transformers import StaticCache

import steerkit
from steerkit.api.intervention import Affine, Pointwise
from steerkit.errors import AttachError
from steerkit.session import wrap
from steerkit.session.model import LiveModel
from steerkit.types import RESID_POST, RESID_PRE
from tests.engine.conditions import Given, Trace, vectors
from tests.engine.hooking.compiling import (
    IDS,
    PROMPTS,
    WIDTH,
    ablate,
    add,
    eager,
    everywhere,
    fresh,
    gate,
    interpreted,
    logits,
    unit,
)


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    """Graphs belong to code, not to models: each test begins without any."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_what_steers_changes_and_the_graph_stays(model_type: str) -> None:
    live, counter = fresh(model_type), CompileCounter()
    trace, plain = Trace(live.model), logits(live)
    mid = Given({"blocks.1.resid_mid": Affine(unit(2), unit(3), unit(4)[0])})
    constant = Given({"blocks.0.resid_mid": Affine(bias=2 * unit(4)[0])})
    conditions = [
        [add(0)],
        [add(1, -2.0, "blocks.1.resid_pre")],
        [everywhere(live, 0)],
        [everywhere(live, 1), ablate(live, 2), add(3)],
        [constant],
        [mid],
        [everywhere(live, 1), mid, constant, add(0)],
    ]
    expected = [interpreted(live, *condition) for condition in conditions]
    live.model.compile(backend=counter, fullgraph=True)
    places = [site for site in live.layout.sites() if site.stream not in ("head_out", RESID_PRE)]
    with live.prepare(places, rank=2):
        assert torch.equal(logits(live), plain)
        with torch.compiler.set_stance("fail_on_recompile"):
            for condition, right in zip(conditions, expected, strict=True):
                with live.steer(*condition):
                    steered = logits(live)
                assert float((steered - right).abs().max()) < 1e-4
                assert float((steered - plain).abs().max()) > 0.1
                assert torch.equal(logits(live), plain), "zeros are back"
        assert counter.frame_count == 1
        with eager(), live.steer(*conditions[-1]):
            assert torch.allclose(logits(live), expected[-1], atol=1e-4), "a prefill is not compiled"
    trace.check()
    assert torch.equal(logits(live), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_zeros_change_no_bit(rank: int, dtype: torch.dtype) -> None:
    for model_type in ("llama", "gemma3_text"):
        live = fresh(model_type, dtype=dtype)
        plain = logits(live)
        for rows in (1, 2):
            with live.prepare(live.layout.sites(), rank=rank, rows=rows):
                assert torch.equal(logits(live), plain)


def test_a_decode_step_with_a_static_cache_is_one_graph() -> None:
    """What steers is entered behind the prefill, so that it edits generated tokens only."""
    live, counter = fresh("gemma"), CompileCounter()
    cache = StaticCache(config=live.model.config, max_cache_len=16)

    def decode(token: Tensor) -> Tensor:
        found: Tensor = live.hf_model(input_ids=token, past_key_values=cache).logits[:, -1]
        return found

    def run(step: Callable[[Tensor], Tensor], tokens: Tensor, *condition: Given) -> list[Tensor]:
        cache.reset()
        live.hf_model(input_ids=IDS, past_key_values=cache)
        with live.steer(*condition):
            return [step(token[:, None]) for token in tokens]

    tokens = torch.tensor([[70, 71], [72, 73], [74, 75]])
    with torch.no_grad(), live.prepare():
        explained = torch._dynamo.explain(decode)
        run(decode, tokens[:1])
        report = explained(tokens[0][:, None])
        assert (report.graph_break_count, report.graph_count) == (0, 1), report.break_reasons
        torch._dynamo.reset()
        compiled: Any = torch.compile(decode, backend=counter, fullgraph=True)
        run(compiled, tokens)
        graphs = counter.frame_count
        for condition in ([everywhere(live, 0)], [everywhere(live, 1), add(2)], [add(2, -1.0)], []):
            found = run(compiled, tokens, *condition)
            for one, other in zip(found, run(decode, tokens, *condition), strict=True):
                assert torch.allclose(one, other, atol=1e-5)
        assert counter.frame_count == graphs
    with torch.no_grad():
        cache.reset()
        live.hf_model(input_ids=IDS, past_key_values=cache)
        with live.steer(add(2, -1.0), mode="interpret"):
            expected = [decode(token[:, None]) for token in tokens]
        with live.prepare([add(2)]):
            for one, other in zip(run(decode, tokens, add(2, -1.0)), expected, strict=True):
                assert torch.allclose(one, other, atol=1e-4)


def test_rows_with_conditions_of_their_own() -> None:
    live, counter = fresh(), CompileCounter()
    plain, same = logits(live), add(0)
    alone = [interpreted(live, everywhere(live, 0), add(1))[0], interpreted(live, add(2))[1]]
    live.model.compile(backend=counter, fullgraph=True, dynamic=False)
    with live.prepare(rows=2):
        logits(live)
        with torch.compiler.set_stance("fail_on_recompile"):
            with live.steer_rows([[everywhere(live, 0), add(1)], add(2)]):
                found = logits(live)
            assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(found, alone, strict=True))
            with live.steer_rows([None, add(2)]):
                found = logits(live)
            assert torch.equal(found[0], plain[0]) and torch.allclose(found[1], alone[1], atol=1e-4)
            with live.steer(add(2)):
                found = logits(live)
            assert torch.allclose(found[1], alone[1], atol=1e-4), "one condition for all rows"
            assert torch.equal(logits(live), plain)
        with eager(), live.steer_rows([None, add(2)]):
            copies = logits(live, IDS.repeat_interleave(2, 0))
            assert torch.equal(copies[:2], plain[[0, 0]]) and torch.allclose(copies[2:], alone[1], atol=1e-4)
            with pytest.raises(AttachError, match="A pass over 3 rows, and the model was prepared for rows=2"):
                logits(live, IDS[[0, 0, 1]])
        with pytest.raises(AttachError, match=r"Use prepare\(rows=3\)"), live.steer_rows([None, None, add(0)]):
            pass
    with live.prepare():
        completions = live.complete(PROMPTS, max_new_tokens=3, steer=[same, same])
        with pytest.raises(AttachError, match=r"Use prepare\(rows=2\)"):
            live.complete(PROMPTS, max_new_tokens=3, steer=[add(0), None])
    assert completions == live.complete(PROMPTS, max_new_tokens=3, steer=[same, same])


def test_nested_contexts_recompose() -> None:
    live = fresh()
    trace, plain = Trace(live.model), logits(live)
    with live.prepare(rank=2):
        with live.steer(everywhere(live, 0)):
            outer = logits(live)
            with live.steer(everywhere(live, 1), add(2)):
                assert torch.allclose(
                    logits(live), interpreted_beside(live, everywhere(live, 0), everywhere(live, 1), add(2)), atol=1e-4
                )
                with pytest.raises(AttachError), live.steer(everywhere(live, 2)):
                    pass
                assert torch.allclose(
                    logits(live), interpreted_beside(live, everywhere(live, 0), everywhere(live, 1), add(2)), atol=1e-4
                ), "what was refused changes nothing"
            assert torch.equal(logits(live), outer)
        assert torch.equal(logits(live), plain)
    trace.check()


def interpreted_beside(live: LiveModel, *condition: Given) -> Tensor:
    """By another model with the same weights, while the first one is prepared."""
    other = fresh()
    with other.steer(*condition, mode="interpret"):
        return logits(other)


def test_what_is_prepared_fits_what_is_asked() -> None:
    live = fresh()
    default = live.steering.layout
    with live.prepare():
        assert live.steering.prepared is not None
        sites = {place.site for place in live.steering.prepared.places.values()}
        assert sites == {*default.writer_sites(), *default.sites_of(RESID_POST)}
    with live.prepare([everywhere(live, 0), ablate(live, 0)]):
        assert live.steering.prepared is not None
        assert len(live.steering.prepared.places) == len(default.writer_sites()), "the others would change nothing"
    nothing = steerkit.add(
        steerkit.Direction(unit(0), live.layout.sites()[1]), coefficient=0.0, sites="blocks.1.mlp_out"
    )
    with live.prepare(nothing), live.steer(add(0, 3.0, "blocks.1.mlp_out")):
        assert not torch.equal(logits(live), logits(fresh()))
    with live.prepare(Given({"embed": Affine(vectors(WIDTH, 3), vectors(WIDTH, 3))})):
        assert live.steering.prepared is not None
        assert live.steering.prepared.rank == 3
    with live.prepare("blocks.0.resid_mid"), live.steer(Given({"blocks.0.resid_mid": Affine(bias=unit(0)[0])})):
        found = logits(live)
    assert torch.allclose(found, interpreted(live, add(0, 1.0, "blocks.0.attn_out")), atol=1e-4)


REFUSED: dict[str, tuple[Callable[[LiveModel], Given], str, str]] = {
    "a function": (lambda live: Given({"embed": Pointwise(torch.tanh)}), "auto", "by a function"),
    "positions": (lambda live: Given({"embed": Affine(bias=unit(0)[0])}, "generated"), "auto", "after the prefill"),
    "a schedule": (
        lambda live: Given({"embed": Affine(bias=unit(0)[0])}, schedule="exponential(0.5)"),
        "auto",
        "edits every token",
    ),
    "a gate": (
        lambda live: Given({"embed": Affine(bias=unit(0)[0])}, gate=gate(live)),
        "auto",
        "edits every token",
    ),
    "a rank": (
        lambda live: Given({"embed": Affine(vectors(WIDTH, 3), vectors(WIDTH, 3))}),
        "auto",
        r"rank 3, .* rank 2\. Use prepare\(rank=3\)",
    ),
    "a place": (
        lambda live: Given({"blocks.0.resid_mid": Affine(unit(0), unit(1))}),
        "auto",
        r"blocks\.0\.resid_mid is edited, and it wasn't prepared",
    ),
    "a gradient": (lambda live: Given({"embed": Affine(bias=unit(0)[0].requires_grad_())}), "auto", "want a gradient"),
    "fold": (lambda live: add(0), "fold", "in mode 'fold'"),
    "interpret": (lambda live: add(0), "interpret", "mode 'interpret'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_inside(what: str) -> None:
    build, mode, message = REFUSED[what]
    live = fresh()
    trace, plain = Trace(live.model), logits(live)
    with live.prepare(rank=2):
        with live.steer(add(3)):
            before = logits(live)
            with pytest.raises(AttachError, match=message), live.steer(build(live), mode=mode):  # type: ignore[arg-type]
                pass
            assert torch.equal(logits(live), before), "what was refused changes nothing"
        assert torch.equal(logits(live), plain)
    trace.check()


def test_prepare_is_entered_once_and_first() -> None:
    live = fresh()
    trace = Trace(live.model)
    for wrong in ({"rank": -1}, {"rows": 0}):
        with pytest.raises(AttachError, match="prepare takes"), live.prepare(**wrong):
            pass
    with live.prepare():
        with pytest.raises(AttachError, match="prepared already"), live.prepare():
            pass
        other = wrap(live.model, live.tokenizer, self_test=False)
        with pytest.raises(AttachError, match="prepared already"), other.prepare():
            pass
        with live.steer(add(0)):
            assert not torch.equal(logits(live), logits(fresh()))
    with live.steer(add(0)), pytest.raises(AttachError, match="Enter `prepare` first"), live.prepare():
        pass
    trace.check()
    with contextlib.ExitStack() as inner:
        with live.prepare():
            inner.enter_context(live.steer(add(0)))
            steered = logits(live)
        assert torch.allclose(logits(live), steered, atol=1e-5), "prepare was left first"
    trace.check()
    with pytest.raises(KeyError), live.prepare(), live.steer(add(0)):
        raise KeyError
    trace.check()


def test_reading_inside_of_prepare() -> None:
    live = fresh()
    with live.steer(everywhere(live, 0)):
        expected = live.capture(PROMPTS, ["blocks.1.resid_mid", "blocks.1.resid_pre"], progress=False)
    with live.prepare(), live.steer(everywhere(live, 0)):
        found = live.capture(PROMPTS, ["blocks.1.resid_mid", "blocks.1.resid_pre"], progress=False)
    for key, one in expected.items():
        assert torch.allclose(one.mean, found[key].mean, atol=1e-5)
