"""The cases themselves, and that a wrong one is never timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from steerkit.bench import checks
from steerkit.bench.by_hand import BY_HAND
from steerkit.bench.checks import WrongCaseError, ask, check
from steerkit.bench.compiled import Compiled, static_cache
from steerkit.bench.conditions import CASES, MODES, Case, build, known_cases, known_modes, measured, observe, steered
from steerkit.bench.machine import pinned
from steerkit.bench.measure import MeasurementError
from steerkit.bench.models import LAUNCH_BOUND, load_subject
from steerkit.bench.workloads import Workload, calls_for, prompts
from steerkit.errors import ModelError
from steerkit.session import add
from steerkit.session.model import LiveModel


def workload(live: LiveModel, batch: int = 2) -> Workload:
    return Workload("decode", live.hf_model, prompts(batch, 8, 288, live.device))


def made(live: LiveModel, case: str, batch: int = 2) -> tuple[Case, Workload]:
    work = workload(live, batch)
    return build(case, live, observe(live, work), batch), work


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_every_case_is_its_definition(llama: LiveModel, case: str, mode: str) -> None:
    condition, work = made(llama, case)
    found = check(llama, condition, mode, work, work, ask(llama, condition, work))
    assert found.error <= found.allowed
    assert (found.equal, found.hooks) == (True, 0) if case == "idle" else not found.equal


def test_the_cases_are_where_they_say(llama: LiveModel) -> None:
    def sites(case: str) -> list[str]:
        return [str(site) for one in made(llama, case)[0].shared for site in one.sites_on(llama.layout)]

    pre = [f"blocks.{layer}.resid_pre" for layer in range(3)]
    assert sites("add_one") == pre[1:2] and sites("add_all") == pre
    assert sites("ablate_all") == sites("rank8_ablate_all") == [str(site) for site in llama.layout.writer_sites()]
    assert sites("gated") == pre[2:] and made(llama, "gated")[0].shared[0].gate is not None
    assert made(llama, "rank8_ablate_all")[0].shared[0].direction.rank == 8
    rows = made(llama, "rows", 3)[0].rows
    assert rows is not None and len(rows) == 3
    vectors = torch.stack([torch.cat([one.direction.vectors for one in row]) for row in rows])
    assert vectors.shape == (3, 3, 32) and not torch.equal(vectors[0], vectors[1])


def test_three_hooks_a_block_by_hand_are_the_ablation_and_go_again(llama: LiveModel) -> None:
    condition, work = made(llama, "ablate_all")
    found = check(llama, condition, BY_HAND, work, work, ask(llama, condition, work))
    assert found.hooks == 3 * llama.layout.n_layers and found.change > 100 * found.error


def test_only_what_has_hooks_of_its_own_is_measured_by_hand() -> None:
    assert known_modes(None) == ("fold", "hook") and known_modes(["by_hand", "fold"]) == ("fold", "by_hand")
    assert measured(("add_all", "ablate_all"), ("fold", BY_HAND)) == (
        ("add_all", "fold"),
        ("ablate_all", "fold"),
        ("ablate_all", BY_HAND),
    )


def test_what_is_ablated_is_there(llama: LiveModel) -> None:
    condition, work = made(llama, "rank8_ablate_all")
    vectors = condition.shared[0].direction.vectors
    mean = observe(llama, work).gate_values.mean(dim=0)
    assert torch.cosine_similarity(vectors[0], mean, dim=0) > 1 - 1e-6
    assert torch.allclose(vectors.norm(dim=1), vectors[0].norm().expand(8))


def stand_in(monkeypatch: pytest.MonkeyPatch, wrong: Case) -> None:
    """Attach something else wherever a case is lowered; the interpreter stays literal."""

    @contextmanager
    def other(live: LiveModel, condition: Case, mode: str) -> Iterator[None]:
        with steered(live, condition if mode == "interpret" else wrong, mode):
            yield

    monkeypatch.setattr(checks, "steered", other)


def test_a_case_that_computes_something_else_is_refused(llama: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    condition, work = made(llama, "add_one")
    near = condition.shared[0].direction.vectors * 1.001
    stand_in(monkeypatch, Case("add_one", (add(condition.shared[0].direction.with_vectors(near)),)))
    with pytest.raises(WrongCaseError, match=r"'add_one' in mode 'hook' gives logits .* from the definition's"):
        check(llama, condition, "hook", work, work, ask(llama, condition, work))


def test_logits_that_are_no_numbers_are_refused(llama: LiveModel) -> None:
    condition, work = made(llama, "add_one")
    oracle = ask(llama, condition, work)
    broken = checks.Oracle(oracle.plain, torch.full_like(oracle.literal, float("nan")))
    with pytest.raises(WrongCaseError, match="nan from the definition's"):
        check(llama, condition, "hook", work, work, broken)


def test_a_case_that_changes_nothing_proves_nothing(llama: LiveModel) -> None:
    condition, work = made(llama, "idle")
    named = Case("add_all", condition.shared)
    with pytest.raises(WrongCaseError, match="proves nothing"):
        check(llama, named, "hook", work, work, ask(llama, named, work))


def test_an_idle_case_that_attaches_something_is_refused(llama: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    condition, work = made(llama, "idle")
    stand_in(monkeypatch, made(llama, "add_all")[0])
    # One at each of three layers, and two that look at passes that begin.
    with pytest.raises(WrongCaseError, match="attaches 5 hooks"):
        check(llama, condition, "hook", work, work, ask(llama, condition, work))
    with pytest.raises(WrongCaseError, match="attaches 2 hooks"):
        check(llama, condition, "fold", work, work, ask(llama, condition, work))


def test_an_idle_case_that_changes_logits_is_refused(llama: LiveModel) -> None:
    condition, work = made(llama, "idle")
    oracle = ask(llama, condition, work)
    moved = oracle.plain.clone()
    moved[0, -1, 3] += 1e-3
    assert checks._check_idle("idle", "fold", set(), oracle.plain.clone(), oracle).equal
    with pytest.raises(WrongCaseError, match=r"changes logits by 0\.001, not by 0"):
        checks._check_idle("idle", "fold", set(), moved, oracle)


def test_a_trace_on_the_model_is_refused(llama: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    condition, work = made(llama, "add_one")
    handles = []

    @contextmanager
    def untidy(live: LiveModel, condition: Case, mode: str) -> Iterator[None]:
        with steered(live, condition, mode):
            yield
        if mode != "interpret":
            handles.append(live.hf_model.register_forward_hook(lambda module, args, output: None))

    monkeypatch.setattr(checks, "steered", untidy)
    oracle = ask(llama, condition, work)
    with pytest.raises(WrongCaseError, match="leaves a hook behind"):
        check(llama, condition, "hook", work, work, oracle)
    for handle in handles:
        handle.remove()


def test_a_call_that_fails_in_its_check_is_named(llama: LiveModel) -> None:
    condition, work = made(llama, "add_one")
    oracle = ask(llama, condition, work)

    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError("out of room\nand more")

    with pytest.raises(MeasurementError, match=r"'add_one' in mode 'fold' can't be run: RuntimeError: out of room\."):
        check(llama, condition, "fold", work.with_call(fails), work, oracle)


@pytest.mark.parametrize(
    ("case", "mode"), [("idle", "hook"), ("rows", "hook"), ("add_all", "fold"), ("rank8_ablate_all", "hook")]
)
def test_a_compiled_case_is_its_definition_and_the_plain_graph_stays(
    llama: LiveModel, case: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is compiled is the point, not into what.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compiled = Compiled(llama)
    ids = prompts(2, 8, 288, llama.device)
    plain = Workload("decode", compiled.call("none"), ids, cache=static_cache(llama, 8), first=llama.hf_model)
    condition = build(case, llama, observe(llama, plain), 2)
    work = plain.with_call(compiled.call(case))
    oracle = ask(llama, condition, plain)
    torch._dynamo.utils.counters.clear()
    for _ in range(3):
        found = check(llama, condition, mode, work, plain, oracle, compiled)
    assert found.equal if case == "idle" else found.error <= found.allowed
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "compiled once, however often it is put on"
    if case == "idle":
        gated = build("gated", llama, observe(llama, plain), 2)
        with pytest.raises(MeasurementError, match=r"'gated' in mode 'hook' can't be run: .*--cases"):
            check(llama, gated, "hook", work, plain, oracle, compiled)


def test_the_tiny_model_has_the_shape_that_launches_bind() -> None:
    live = load_subject("tiny", device="cpu")
    config = live.hf_model.config
    assert (live.layout.n_layers, live.layout.d_model, config.vocab_size) == (30, 64, 1024)
    assert (config.num_attention_heads, LAUNCH_BOUND["hidden_size"]) == (4, 64)
    assert {parameter.dtype for parameter in live.hf_model.parameters()} == {torch.float32}
    again = load_subject("tiny", device="cpu").hf_model.state_dict()
    assert all(value.equal(again[name]) for name, value in live.hf_model.state_dict().items())
    logits = live.hf_model(prompts(1, 8, 1024, live.device)).logits
    assert 0.3 < float(logits.std()) < 3


def test_names_that_are_none_get_the_nearest() -> None:
    assert known_cases(["rows", "idle"]) == ("idle", "rows") and known_cases(None) == tuple(CASES)
    with pytest.raises(MeasurementError, match="Did you mean 'ablate_all'"):
        known_cases(["ablate-all"])
    with pytest.raises(ModelError, match="float16"):
        load_subject("tiny", device="cpu", dtype="float12")
    with pytest.raises(ModelError, match="not a device"):
        load_subject("tiny", device="tpu")


def test_a_sample_is_as_long_as_asked() -> None:
    assert calls_for(0.005, 0.06) == 12 and calls_for(1.0, 0.06) == 1 and calls_for(1e-6, 0.06) == 128


def test_a_sample_makes_its_calls_and_no_others(llama: LiveModel) -> None:
    seen: list[tuple[int, ...]] = []

    def call(ids: torch.Tensor, **kwargs: object) -> object:
        seen.append(tuple(ids.shape))
        return llama.hf_model(ids, **kwargs)

    ids = prompts(2, 8, 288, llama.device)
    with Workload("decode", call, ids, calls=3).ready() as run:
        before = len(seen)
        run()
    assert seen[:before] == [(2, 8), (2, 1)] and seen[before:] == [(2, 1)] * 3
    seen.clear()
    with Workload("prefill", call, ids, calls=2).ready() as run:
        seen.clear()
        run()
    assert seen == [(2, 8)] * 2


def test_the_process_gets_its_threads_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError), pinned():
        assert torch.get_num_threads() == 1
        raise ValueError
    assert torch.get_num_threads() == before
