"""Lowered programs against the literal oracle: random conditions, models, padding, caches and ways to generate.

Every example also leaves its model as it was: the same parameters with the same bits, and no hook.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache, StaticCache

from steerkit.api.intervention import Affine
from steerkit.session.model import LiveModel
from steerkit.testing import oracle_logits
from tests.engine.conditions import (
    ALPHABET,
    EXPERTS,
    MODEL_TYPES,
    MODES,
    Given,
    Known,
    conditions,
    differential_model,
    row_conditions,
    token_rows,
    trace_of,
    vectors,
)

QUIET = {
    "deadline": None,
    "database": None,
    "report_multiple_bugs": False,
    "suppress_health_check": list(HealthCheck),
}


def few(examples: int) -> settings:
    """For every run of the tests: the same examples each time."""
    return settings(max_examples=examples, derandomize=True, **QUIET)  # type: ignore[arg-type]


def many(examples: int) -> settings:
    """For the long run: others each time."""
    return settings(max_examples=examples, print_blob=True, **QUIET)  # type: ignore[arg-type]


@dataclass
class Case:
    """Rows under conditions: ``outer`` steers all of them, ``inner`` each its own (None: no list is given)."""

    model_type: str
    mode: Any
    outer: list[Given]
    inner: list[list[Given] | None] | None
    rows: list[list[int]]
    prompts: list[int]
    side: str = "left"
    cuts: tuple[int, ...] = ()
    static: bool = False
    known: bool = True

    @property
    def live(self) -> LiveModel:
        return differential_model(self.model_type)

    def condition(self, row: int) -> list[Given]:
        """All that acts on a row, outer ones first."""
        return [*self.outer, *((self.inner[row] or ()) if self.inner is not None else ())]

    def oracle(self, row: int) -> Callable[..., Tensor]:
        """From a condition to what the oracle says of a row under it, ``[len, vocab]``."""
        length = self.prompts[row] if self.known else None
        return partial(oracle_logits, self.live, self.rows[row], prompt_length=length)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Padded tokens and their mask."""
        width = max(map(len, self.rows))
        ids = torch.zeros(len(self.rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(self.rows):
            place = slice(width - len(row), None) if self.side == "left" else slice(0, len(row))
            ids[index, place], mask[index, place] = torch.tensor(row), 1
        return ids, mask


def agree(found: Tensor, expected: Tensor) -> bool:
    """Equal to 1e-4 on logits of order 10, and in proportion on larger ones."""
    size = max(1.0, float(expected.abs().max()) / 10)
    return bool((found - expected).abs().max() <= 1e-4 * size)


def hold(case: object, live: LiveModel, found: Tensor, oracle: Callable[..., Tensor], condition: list[Given]) -> None:
    """What was found is what the oracle says, unless a jump lies so near that rounding alone decides on it.

    Gates and routers jump. Where the oracle's own answer changes under a nudge of the embedding, the
    example says nothing.
    """
    expected = oracle(condition)
    if agree(found, expected):
        return
    for seed in range(6):
        noise = vectors(live.layout.d_model, 1, seed)[0] * 10.0 ** -(4 + seed % 3)
        nudged = oracle([*condition, Given({"embed": Affine(bias=noise)})])
        assume(float((nudged - expected).abs().max()) < 0.02 * max(1.0, float(expected.abs().max()) / 10))
    gap = (found - expected).abs().amax(-1)
    raise AssertionError(f"off by {[f'{float(item):.1e}' for item in gap.flatten()]} under {condition} in {case}")


# The cases


@st.composite
def cases(draw: st.DrawFn, *, plain: bool = False, cached: bool = False) -> Case:
    """Rows of a batch and what they are steered by."""
    # Mamba itself takes no mask of a sequence that goes on, so it is followed while it generates.
    model_type = draw(st.sampled_from([one for one in MODEL_TYPES if not cached or one != "mamba"]))
    layout = differential_model(model_type).layout
    rows = draw(token_rows(draw(st.integers(1, 3))))
    prompts = [draw(st.integers(3, len(row))) for row in rows]
    side = "left" if cached else draw(st.sampled_from(["left", "right"]))
    known = draw(st.integers(0, 5)) > 0
    layers = draw(st.sampled_from(["outer", "inner", "both"])) if known else "outer"
    within = Known(prompt=known, end=not cached)
    most = {"outer": 6, "inner": 0, "both": 2}[layers]
    outer = draw(conditions(layout, within, plain=plain, most=most)) if most else []
    inner = None if layers == "outer" else draw(row_conditions(len(rows), layout, within, plain=plain))
    case = Case(model_type, draw(st.sampled_from(MODES)), outer, inner, rows, prompts, side, known=known)
    if cached:
        width = max(map(len, rows))
        case.static = model_type != "qwen" and draw(st.booleans())
        case.cuts = tuple(sorted(draw(st.sets(st.integers(1, width - 1), max_size=width - 1)) | {width}))
        everything = [item for row in range(len(rows)) for item in case.condition(row)]
        if any(item.gate is not None and item.gate.prepass for item in everything):
            # An extra pass needs the whole prompt at once.
            first = max(width - len(row) + prompt for row, prompt in zip(rows, prompts, strict=True))
            case.cuts = tuple(sorted({first, *(cut for cut in case.cuts if cut > first), width}))
    return case


def check_batch(case: Case) -> None:
    """One pass over a padded batch, without a cache."""
    live, trace, (ids, mask) = case.live, trace_of(case.model_type), case.batch()
    lengths: dict[str, Any] = {"prompt_lengths": case.prompts} if case.known else {}
    with torch.no_grad():
        plain = live.forward(ids, mask).logits
        with live.steer(*case.outer, mode=case.mode):
            found = live.forward(ids, mask, steer=case.inner, **lengths, use_cache=False).logits
        again = live.forward(ids, mask).logits
    trace.check()
    assert torch.equal(plain, again)
    for row in range(len(case.rows)):
        real = mask[row].bool()
        if not case.condition(row) and case.model_type not in EXPERTS:
            assert torch.equal(found[row][real], plain[row][real]), f"row {row} isn't steered, and has other bits"
        hold(case, live, found[row][real], case.oracle(row), case.condition(row))


def check_cached(case: Case) -> None:
    """The same in several passes: a prompt whole or in pieces, then what follows, in one cache."""
    live, trace, (ids, mask) = case.live, trace_of(case.model_type), case.batch()
    config = live.model.config
    cache: Any = DynamicCache(config=config)
    if case.static:
        cache = StaticCache(config=config, max_cache_len=ids.shape[1] + 3)
    lengths: dict[str, Any] = {"prompt_lengths": case.prompts} if case.known else {}
    parts, start = [], 0
    with torch.no_grad(), live.steer(*case.outer, mode=case.mode):
        for cut in case.cuts:
            found = live.forward(
                ids[:, start:cut], mask[:, :cut], steer=case.inner, past_key_values=cache, use_cache=True, **lengths
            )
            parts.append(found.logits)
            start = cut
    trace.check()
    found = torch.cat(parts, 1)
    for row in range(len(case.rows)):
        hold(case, live, found[row][mask[row].bool()], case.oracle(row), case.condition(row))


@few(200)
@given(cases())
def test_a_padded_batch_gives_the_oracles_logits(case: Case) -> None:
    check_batch(case)


@few(200)
@given(cases(plain=True))
def test_what_is_simplified_gives_the_oracles_logits(case: Case) -> None:
    """Interventions at all tokens, always: what folds, cancels, composes and is dropped."""
    check_batch(case)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stream", ["embed", "resid_pre", "head_out", "attn_out", "resid_mid", "mlp_out", "resid_post"])
def test_what_folds_and_what_is_hooked_keep_their_order(stream: str, mode: Any) -> None:
    """One update of a site goes into parameters, the next one can't: still the first one comes first."""
    live, ids = differential_model("llama"), [2, *ALPHABET]
    site = live.layout.sites_of(stream)[-1]
    v = torch.nn.functional.normalize(vectors(live.layout.width(site), 1, 4), dim=1)
    always, sometimes = Affine(-v, 2 * v), Affine(bias=2 * v[0])
    first, second = Given({str(site): always}), Given({str(site): sometimes}, "[1,3]")
    for condition in ([first, second], [second, first], [first, second, first], [second, first, second]):
        with torch.no_grad(), live.steer(*condition, mode=mode):
            found = live.forward(torch.tensor([ids])).logits[0]
        assert agree(found, oracle_logits(live, ids, condition)), condition


@few(200)
@given(cases(cached=True))
def test_cached_passes_give_the_oracles_logits(case: Case) -> None:
    check_cached(case)


# Generation

PROMPTS = ("ab", "cabbage", "deaf cab", "c")
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "uncached": {"use_cache": False},
    "static": {"cache_implementation": "static"},
    "sampled": {"do_sample": True, "temperature": 1.5, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
}


@dataclass
class Completion:
    """Prompts to complete, each under its condition."""

    model_type: str
    mode: Any
    outer: list[Given]
    inner: list[list[Given] | None] | None
    prompts: list[str]
    way: str
    batch_tokens: int


@st.composite
def completions(draw: st.DrawFn) -> Completion:
    model_type = draw(st.sampled_from(MODEL_TYPES))
    layout = differential_model(model_type).layout
    prompts = draw(st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=3, unique=True))
    known = Known(instruction=True, end=False)
    layers = draw(st.sampled_from(["outer", "inner", "both"]))
    outer = [] if layers == "inner" else draw(conditions(layout, known, most=4 if layers == "outer" else 2))
    inner = None if layers == "outer" else draw(row_conditions(len(prompts), layout, known))
    ways = [way for way in WAYS if way != "static" or model_type not in ("qwen", "mamba")]
    return Completion(
        model_type,
        draw(st.sampled_from(MODES)),
        outer,
        inner,
        prompts,
        draw(st.sampled_from(ways)),
        draw(st.sampled_from([4096, 4096, 50])),
    )


class Recorder:
    """A logits processor that notes what every step of a generation scored, and by which tokens."""

    def __init__(self) -> None:
        self.steps: list[tuple[Tensor, Tensor]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.steps.append((input_ids.clone(), scores.clone()))
        return scores


def check_completion(case: Completion) -> None:
    """At every step of generating, every row's scores are the oracle's for the tokens that it has so far."""
    live, trace, recorder = differential_model(case.model_type), trace_of(case.model_type), Recorder()
    before, live.batch_tokens = live.batch_tokens, case.batch_tokens
    torch.manual_seed(0)
    try:
        with live.steer(*case.outer, mode=case.mode):
            found = live.complete(
                case.prompts, max_new_tokens=4, steer=case.inner, logits_processor=[recorder], **WAYS[case.way]
            )
    finally:
        live.batch_tokens = before
    trace.check()
    assert len(found) == len(case.prompts) * WAYS[case.way].get("num_return_sequences", 1)
    rendered = [live.chat.render(prompt) for prompt in case.prompts]
    scored: dict[tuple[int, tuple[int, ...]], Tensor] = {}
    for ids, scores in recorder.steps:
        for tokens, row_scores in zip(ids.tolist(), scores, strict=True):
            real = tokens[next(place for place, token in enumerate(tokens) if token != live.pad_id) :]
            prompt = next(i for i, one in enumerate(rendered) if tuple(real[: len(one.token_ids)]) == one.token_ids)
            if not {live.pad_id, 1} & set(real[len(rendered[prompt].token_ids) :]):
                scored[prompt, tuple(real)] = row_scores
    firsts = {prompt for prompt, tokens in scored if len(tokens) == len(rendered[prompt].token_ids)}
    assert firsts == set(range(len(rendered)))
    for prompt, tokens in sorted(scored, key=lambda key: -len(key[1])):
        start = len(rendered[prompt].token_ids)
        steps = [length for length in range(start, len(tokens) + 1) if (prompt, tokens[:length]) in scored]
        if not steps:
            continue

        def oracle(condition: list[Given], prompt: int = prompt, tokens: Any = tokens, steps: Any = steps) -> Tensor:
            one = rendered[prompt]
            more: Any = {"prompt_length": len(one.token_ids), "instruction": one.instruction}
            return oracle_logits(live, tokens, condition, **more)[[length - 1 for length in steps]].log_softmax(-1)

        scores = torch.stack([scored.pop((prompt, tokens[:length])) for length in steps]).log_softmax(-1)
        condition = [*case.outer, *((case.inner[prompt] or ()) if case.inner is not None else ())]
        hold(case, live, scores, oracle, condition)


@few(100)
@given(completions())
def test_generation_scores_what_the_oracle_scores(case: Completion) -> None:
    check_completion(case)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "qwen3_moe"])
def test_what_is_remembered_of_a_row_follows_its_beam(model_type: str) -> None:
    """A token that some beams hold and others don't: editing begins in those alone, wherever they are moved to."""
    live = differential_model(model_type)
    shift = {"blocks.0.resid_post": Affine(bias=3 * vectors(live.layout.d_model, 1, 8)[0])}
    recorder = Recorder()
    live.complete(PROMPTS[:1], max_new_tokens=3, num_beams=3, logits_processor=[recorder])
    held = {int(token) for ids, _ in recorder.steps[1:] for token in ids[:, recorder.steps[0][0].shape[1] :].flatten()}
    assert len(held) > 3
    for token in sorted(held):
        condition = [Given(shift, f"from_token(#{token})")]
        check_completion(Completion(model_type, "auto", condition, None, list(PROMPTS[:2]), "beams", 4096))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@many(2000)
@given(cases() | cases(plain=True))
def test_many_padded_batches(case: Case) -> None:
    check_batch(case)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@many(2000)
@given(cases(cached=True))
def test_many_cached_passes(case: Case) -> None:
    check_cached(case)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@many(1000)
@given(completions())
def test_many_generations(case: Completion) -> None:
    check_completion(case)
