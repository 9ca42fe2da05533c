"""Steered and plain requests with one beginning, in every order: each is what it is alone."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from engine.cases import FILLER, Request, conditions, model, programs
from engine.engines import ask, steered
from engine.results import keep

from steerkit.api.program import Program

ORDERS = list(permutations(("warm", "without", None)))[:5]


def logits_of(found: Any) -> dict[tuple[int, int], float]:
    """Of a completion, by place and token."""
    return {(at, token): one.logprob for at, row in enumerate(found.logprobs) for token, one in row.items()}


def difference(one: Any, other: Any) -> float:
    """Between the logits of two completions, of those tokens that both tell."""
    left, right = logits_of(one), logits_of(other)
    return max(abs(left[key] - right[key]) for key in left.keys() & right.keys())


@pytest.fixture(scope="module")
def engine() -> Any:
    with steered() as started:
        yield started


@pytest.fixture(scope="module")
def ids() -> tuple[int, ...]:
    return tuple(model().tokenizer(FILLER * 4 + "The capital of France is")["input_ids"])


def test_orders_are_equal_with_salts_and_one_is_not_without(engine: Any, ids: tuple[int, ...]) -> None:
    alone = {}
    for name in (*conditions(), None):
        engine.reset_prefix_cache()
        alone[name] = ask(engine, [Request(ids, name)])[0]
    worst = 0.0
    for order in ORDERS:
        engine.reset_prefix_cache()
        for name in order:
            worst = max(worst, difference(ask(engine, [Request(ids, name)])[0], alone[name]))
    assert worst < 1e-3
    engine.reset_prefix_cache()
    gate = engine.input_processor.gate
    seal, bare = type(gate).seal, "without salt"

    def unsalted(self: Any, request: Any, **kwargs: Any) -> None:
        own = request.cache_salt
        seal(self, request, **kwargs)
        request.cache_salt = own

    type(gate).seal = unsalted
    try:
        ask(engine, [Request(ids, "warm")])
        mixed = difference(ask(engine, [Request(ids, None)])[0], alone[None])
    finally:
        type(gate).seal = seal
        engine.reset_prefix_cache()
    keep("prefix cache", {"orders": len(ORDERS), "largest difference with salts": worst, bare: mixed})
    assert mixed > 0.1


def test_a_cache_is_shared_where_it_may_be(engine: Any, ids: tuple[int, ...]) -> None:
    """The same program over the same beginning: all of it where every token gets the same, else for equal prompts."""
    longer = (*ids, 42)
    engine.reset_prefix_cache()
    for name, shared in (("warm", True), ("at-the-end", False), (None, True)):
        first, again, more = (
            engine.generate([{"prompt_token_ids": list(prompt)}], _one(name), use_tqdm=False)[0].num_cached_tokens
            for prompt in (ids, ids, longer)
        )
        assert (first, again > 0, more > 0) == (0, True, shared), name


def _one(name: str | None) -> Any:
    from engine.engines import params

    return params(Request((), name), new=1)


def test_another_vector_under_the_same_name_reuses_nothing(engine: Any, ids: tuple[int, ...]) -> None:
    engine.reset_prefix_cache()
    first = ask(engine, [Request(ids, "warm")])[0]
    engine.free_program("warm")
    was = programs()["warm"]
    turned = [_negated(one) for one in was.updates]
    engine.load_program("warm", Program("warm", was.model, tuple(turned), was.monitors))
    try:
        found = ask(engine, [Request(ids, "warm")])[0]
        engine.reset_prefix_cache()
        fresh = ask(engine, [Request(ids, "warm")])[0]
        assert difference(found, fresh) < 1e-3
        assert difference(found, first) > 0.1
    finally:
        engine.free_program("warm")
        engine.load_program("warm", was)


def _negated(update: Any) -> Any:
    from dataclasses import replace

    return replace(update, bias=-update.bias)
