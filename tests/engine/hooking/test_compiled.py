"""Models that are compiled without being prepared: no attach or detach goes unseen. And real compilers."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from transformers import CompileConfig, StaticCache

import steerkit
from steerkit.api.intervention import Affine
from steerkit.engine.hooking.compiled import Hooks
from steerkit.engine.tiny.models import tiny_tokenizer
from steerkit.session import wrap
from steerkit.session.model import LiveModel
from tests.engine.conditions import Given, Trace
from tests.engine.hooking.compiling import (
    IDS,
    PROMPTS,
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


def in_place(live: LiveModel, counter: CompileCounter) -> Callable[[], Tensor]:
    live.model.compile(backend=counter)
    return lambda: logits(live)


def outside(live: LiveModel, counter: CompileCounter) -> Callable[[], Tensor]:
    compiled: Any = torch.compile(live.hf_model, backend=counter)
    return lambda: compiled(input_ids=IDS, use_cache=False).logits  # type: ignore[no-any-return]


def its_forward(live: LiveModel, counter: CompileCounter) -> Callable[[], Tensor]:
    compiled: Any = torch.compile(live.hf_model.forward, backend=counter)
    return lambda: compiled(input_ids=IDS, use_cache=False).logits  # type: ignore[no-any-return]


def a_function(live: LiveModel, counter: CompileCounter) -> Callable[[], Tensor]:
    compiled: Any = torch.compile(lambda ids: 2 * live.hf_model(input_ids=ids).logits, backend=counter)
    return lambda: compiled(IDS)  # type: ignore[no-any-return]


def each_block(live: LiveModel, counter: CompileCounter) -> Callable[[], Tensor]:
    for block in live.layout.blocks:
        live.model.get_submodule(block.module).compile(backend=counter)
    return lambda: logits(live)


def block_forwards(live: LiveModel, counter: CompileCounter) -> Callable[[], Tensor]:
    for block in live.layout.blocks:
        module: Any = live.model.get_submodule(block.module)
        module.forward = torch.compile(module.forward, backend=counter)
    return lambda: logits(live)


def wrapped_blocks(live: LiveModel, counter: CompileCounter) -> Callable[[], Tensor]:
    layers: Any = live.model.get_submodule("model.layers")
    for place, layer in enumerate(layers):
        layers[place] = torch.compile(layer, backend=counter)
    return lambda: logits(live)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "compiled",
    [
        in_place,
        each_block,
        pytest.param(outside, marks=SLOW),
        pytest.param(its_forward, marks=SLOW),
        pytest.param(a_function, marks=SLOW),
        pytest.param(block_forwards, marks=SLOW),
        pytest.param(wrapped_blocks, marks=SLOW),
    ],
)
def test_a_compiled_model_sees_what_comes_and_goes(compiled: Any) -> None:
    live, counter = fresh(), CompileCounter()
    call = compiled(live, counter)
    trace = Trace(live.model)

    @torch.no_grad()
    def check(steered: bool) -> None:
        found = call()
        with eager():
            assert torch.allclose(found, call(), atol=1e-5)
        assert torch.allclose(found, plain, atol=1e-5) is not steered

    with torch.no_grad():
        plain = call()
    for condition in ([add(0)], [add(1)]):
        with live.steer(*condition, mode="hook"):
            check(steered=True)
            graphs = counter.frame_count
            check(steered=True)
            assert counter.frame_count == graphs, "the second call is compiled already"
        check(steered=False)
        assert counter.frame_count == graphs, "the old graph fits again"
    trace.check()
    torch._dynamo.reset()
    for condition in ([add(0)], [everywhere(live, 0), add(1)]):
        with live.steer(*condition, mode="hook"):
            check(steered=True)
        check(steered=False)
    trace.check()


@pytest.mark.parametrize("model_type", ["llama", "gemma"])
def test_a_compiled_model_sees_what_is_folded(model_type: str) -> None:
    """A bias where there was none, a head that was tied to its embedding, and back again."""
    live, counter = fresh(model_type), CompileCounter()
    trace, plain = Trace(live.model), logits(live)
    expected = interpreted(live, everywhere(live, 0), add(1))
    live.model.compile(backend=counter)
    assert torch.equal(logits(live), plain)
    for _ in range(2):
        with live.steer(everywhere(live, 0), add(1), mode="fold"):
            assert not live.steering.shared.now.program.slots
            assert float((logits(live) - expected).abs().max()) < 1e-4
            graphs = counter.frame_count
        assert torch.equal(logits(live), plain)
    assert counter.frame_count == graphs <= 2
    trace.check()


@pytest.mark.slow
def test_positions_and_schedules_on_a_compiled_model() -> None:
    live, counter = fresh(), CompileCounter()
    condition = [Given({"blocks.0.resid_post": Affine(bias=20 * unit(0)[0])}, "generated", schedule="exponential(0.5)")]
    with live.steer(*condition):
        expected = live.complete(PROMPTS, max_new_tokens=4)
    plain = live.complete(PROMPTS, max_new_tokens=4)
    assert expected != plain
    live.model.compile(backend=counter)
    assert live.complete(PROMPTS, max_new_tokens=4) == plain
    for _ in range(2):
        with live.steer(*condition):
            assert live.complete(PROMPTS, max_new_tokens=4) == expected
    assert live.complete(PROMPTS, max_new_tokens=4) == plain


@pytest.mark.slow
def test_generate_that_compiles_by_itself() -> None:
    """With a static cache transformers compiles decoding; on a CPU when it is told to."""
    live, made = fresh(), []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        made.append(graph)
        return graph.forward

    config = CompileConfig(backend=backend, fullgraph=False, mode=None)  # type: ignore[arg-type]
    config._compile_all_devices = True
    kwargs: dict[str, Any] = {"max_new_tokens": 4, "cache_implementation": "static", "compile_config": config}
    plain = live.complete(PROMPTS, max_new_tokens=4)
    with live.steer(add(0, 8.0), mode="hook"):
        steered = live.complete(PROMPTS, max_new_tokens=4)
    assert plain != steered
    assert live.complete(PROMPTS, **kwargs) == plain
    assert made and hasattr(live.model, "_compiled_call")
    with live.steer(add(0, 8.0), mode="hook"):
        assert live.complete(PROMPTS, **kwargs) == steered
    assert live.complete(PROMPTS, **kwargs) == plain
    with live.prepare():
        assert live.complete(PROMPTS, **kwargs) == plain
        graphs = len(made)
        with live.steer(add(0, 8.0)):
            assert live.complete(PROMPTS, **kwargs) == steered
        assert len(made) == graphs
    assert live.complete(PROMPTS, **kwargs) == plain


@pytest.mark.slow
def test_many_programs_on_a_compiled_model() -> None:
    """More than torch.compile's limit of graphs: those that fit nothing any more don't count."""
    live, counter = fresh(), CompileCounter()
    plain = logits(live)
    live.model.compile(backend=counter, fullgraph=True)
    for n in range(12):
        with live.steer(add(n % 6, 1.0 + n), mode="hook"):
            found = logits(live)
            assert counter.frame_count > n, "it went on without compiling"
            with eager():
                assert torch.equal(found, logits(live))
        assert torch.equal(logits(live), plain)
        gc.collect()


def test_reading_compiles_nothing() -> None:
    live, counter = fresh(), CompileCounter()
    expected = live.capture(PROMPTS, ["blocks.1.resid_mid"], progress=False)
    for block in live.layout.blocks:
        live.model.get_submodule(block.module).compile(backend=counter)
    found = live.capture(PROMPTS, ["blocks.1.resid_mid"], progress=False)
    assert all(torch.equal(one.mean, found[key].mean) for key, one in expected.items())
    tested = wrap(live.model, live.tokenizer)
    prompt_gate = steerkit.Gate(gate(live).direction, -100.0, at="prompt", prepass=True)
    with eager(), tested.steer(Given({"embed": Affine(bias=unit(0)[0])}, gate=prompt_gate)):
        tested.complete(PROMPTS, max_new_tokens=1)
    assert counter.frame_count == 0


def test_a_model_inside_of_a_compiled_one() -> None:
    model = fresh().model
    counter = CompileCounter()
    compiled: Any = torch.compile(model, backend=counter)
    live = wrap(compiled, tiny_tokenizer())
    assert live.hf_model is model and counter.frame_count == 0
    with torch.no_grad():
        plain = compiled(input_ids=IDS).logits
        with live.steer(add(0), mode="hook"):
            assert torch.allclose(compiled(input_ids=IDS).logits, logits(live), atol=1e-5)
        assert torch.equal(compiled(input_ids=IDS).logits, plain)


def test_hooks_of_several_owners_go_in_any_order() -> None:
    """Each leaves a module with the forward that it had: its class's, or one that somebody else put there."""
    module = nn.Linear(2, 2)
    foreign = nn.Linear(2, 2)
    own: Any = lambda x: nn.functional.relu(nn.Linear.forward(foreign, x))  # noqa: E731
    foreign.forward = own
    x = torch.randn(3, 2)
    expected = [module(x), foreign(x)]
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]):
        owners = [Hooks([(one, "output", lambda m, a, y: y + 1) for one in (module, foreign)]) for _ in range(3)]
        for owner in owners:
            owner.attach()
        for place in order:
            assert "forward" in vars(module)
            owners[place].detach()
            owners[place].detach()
        assert "forward" not in vars(module) and foreign.forward is own
        assert torch.equal(module(x), expected[0]) and torch.equal(foreign(x), expected[1])


# Real compilers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on its way to a compiler
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_inductor(model_type: str) -> None:
    live = fresh(model_type)
    plain = logits(live)
    expected = interpreted(live, everywhere(live, 0), add(1))
    live.model.compile(fullgraph=True, dynamic=False)
    with live.prepare():
        assert torch.allclose(logits(live), plain, atol=1e-4)
        with torch.compiler.set_stance("fail_on_recompile"):
            idle = logits(live)
            with live.steer(everywhere(live, 0), add(1)):
                assert float((logits(live) - expected).abs().max()) < 1e-4
            assert torch.equal(logits(live), idle)
    assert torch.allclose(logits(live), plain, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_cuda_graphs() -> None:
    """The recorded graph reads the buffers in place: what is copied into them acts at the next replay."""
    live = fresh("llama")
    live.model.to("cuda")
    ids = IDS.cuda()
    cache = StaticCache(config=live.model.config, max_cache_len=16)

    def step(token: Tensor) -> Tensor:
        found: Tensor = live.hf_model(input_ids=token, past_key_values=cache).logits[:, -1]
        return found

    @torch.no_grad()
    def run(call: Any, *condition: Given) -> list[Tensor]:
        cache.reset()
        live.hf_model(input_ids=ids, past_key_values=cache)
        with live.steer(*condition):
            return [call(ids[:, :1] + n).clone() for n in range(4)]

    with live.prepare():
        compiled = torch.compile(step, mode="reduce-overhead", fullgraph=True)
        run(compiled)
        run(compiled)
        with torch.compiler.set_stance("fail_on_recompile"):
            for condition in ([], [everywhere(live, 0)], [everywhere(live, 1), add(2)], [add(3)], []):
                for one, other in zip(run(compiled, *condition), run(step, *condition), strict=True):
                    assert torch.allclose(one, other, atol=1e-3)
