"""Rows that leave their batch once they have ended, against batches that keep them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import pytest
import torch
from torch import Tensor

import steerkit
from steerkit.api.intervention import Placement
from steerkit.engine.lowering.edits import Steer
from steerkit.engine.runtime import leaving
from steerkit.engine.runtime.caches import cache_for_rows, new_cache
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.session import ablate, add, wrap
from steerkit.session.model import LiveModel
from tests.engine.runtime.beginnings import FAMILIES, conditions, direction, steered

PROMPTS = [f"The same words first, then {number} {'and more ' * (number % 3)}" for number in range(16)]
NEW = 24


@cache
def model(name: str = "llama") -> LiveModel:
    made = tiny_model(name, **FAMILIES[name])
    if name not in ("qwen3_moe", "gemma2"):  # which know no double
        made = made.double()
    return wrap(made, tiny_tokenizer())


@contextmanager
def ended_by(live: LiveModel, ends: Sequence[int] | None) -> Iterator[None]:
    """Other end tokens in the body."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live.model.generation_config, "eos_token_id", None if ends is None else list(ends))
        yield


def that_end(rows: Sequence[Sequence[int]]) -> list[int]:
    """Tokens that end some rows at different places, the rest not at all."""
    first: dict[int, list[int]] = {}
    for row in rows:
        for token in set(row):
            first.setdefault(token, []).append(row.index(token))
    found: list[int] = []
    for token, _ in sorted(first.items(), key=lambda one: (-min(one[1]), len(one[1]))):
        lengths = [min((row.index(end) for end in (*found, token) if end in row), default=NEW) for row in rows]
        if sum(length == NEW for length in lengths) >= 2:
            found.append(token)
    assert found
    return found


def staying(live: LiveModel) -> LiveModel:
    """The same model, whose rows stay to the end."""
    other = copy.copy(live)
    other.rows_leave = False
    return other


@contextmanager
def widths(live: LiveModel) -> Iterator[list[int]]:
    """How many rows each pass of the body holds."""
    found: list[int] = []
    plain = type(live.model).forward

    @wraps(plain)  # whose arguments `generate` looks at
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        found.append(kwargs["input_ids"].shape[0])
        return plain(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        # On the class: what is replaced on the model itself would be somebody else's, and nothing would be shared.
        patch.setattr(type(live.model), "forward", forward)
        yield found


@pytest.fixture(autouse=True)
def leaves_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "SPARED", 4)


@pytest.mark.parametrize("name", FAMILIES)
def test_completions_are_those_of_rows_that_stay(name: str) -> None:
    live = model(name)
    # Each row its own vector, since some tiny models write one token behind all prompts.
    steer: list[Steer] = [[add(direction(live, 1, row), coefficient=8.0)] for row in range(len(PROMPTS))]
    with ended_by(live, None):
        ends = that_end(live.complete(PROMPTS, max_new_tokens=NEW, steer=steer))
    with ended_by(live, ends):
        with widths(live) as passes:
            found = live.complete(PROMPTS, max_new_tokens=NEW, steer=steer)
        assert found == staying(live).complete(PROMPTS, max_new_tokens=NEW, steer=steer)
    assert min(passes) < len(PROMPTS)


def test_rows_do_leave() -> None:
    live = model()
    with ended_by(live, None):
        ends = that_end(live.complete(PROMPTS, max_new_tokens=NEW))
    with ended_by(live, ends):
        with widths(live) as passes:
            live.complete(PROMPTS, max_new_tokens=NEW)
        with widths(live) as whole:
            staying(live).complete(PROMPTS, max_new_tokens=NEW)
    assert set(whole) == {len(PROMPTS)}
    assert passes[0] == len(PROMPTS) and passes == sorted(passes, reverse=True) and passes[-1] < len(PROMPTS)
    assert sum(passes) < sum(whole)


KINDS = list(conditions(wrap(tiny_model("llama"), tiny_tokenizer())))


@pytest.mark.parametrize(
    ("kind", "mode", "by_row"),
    [(kind, "hook", by_row) for kind in KINDS for by_row in (False, True)]
    + [(kind, "fold", False) for kind in ("ablate", "add")],
)
def test_steered_rows_get_what_they_get_when_they_stay(kind: str, mode: Any, by_row: bool) -> None:
    live = model()
    # As much as that one adds, all rows write one token.
    placements = [add(direction(live, 0), coefficient=0.2)] if kind == "add" else conditions(live)[kind]

    def complete(one: LiveModel) -> list[list[int]]:
        if by_row:
            own: Sequence[Placement] = [add(direction(live, 1, 9), coefficient=-2.0)]
            steer: list[Steer] = [(placements, own, None)[place % 3] for place in range(len(PROMPTS))]
            return one.complete(PROMPTS, max_new_tokens=NEW, steer=steer)
        with steered(one, placements, mode):
            return one.complete(PROMPTS, max_new_tokens=NEW)

    with ended_by(live, None):
        ends = that_end(complete(live))
    with ended_by(live, ends):
        with widths(live) as passes:
            found = complete(live)
        assert found == complete(staying(live))
    assert passes[-1] < len(PROMPTS)


@pytest.mark.parametrize("kind", ["gate", "text"])
def test_rows_of_which_more_is_remembered_stay(kind: str) -> None:
    live = model()
    gate = steerkit.gate(direction(live, 1, 5), above=0.0, at="prompt")
    one = (
        add(direction(live, 1), coefficient=2.0, gate=gate)
        if kind == "gate"
        else add(direction(live, 1), coefficient=2.0, positions="from_token(e)")
    )
    steer: list[Steer] = [[one], *[None] * (len(PROMPTS) - 1)]
    with ended_by(live, None):
        ends = that_end(live.complete(PROMPTS, max_new_tokens=NEW, steer=steer))
    with ended_by(live, ends), widths(live) as passes:
        found = live.complete(PROMPTS, max_new_tokens=NEW, steer=steer)
    assert passes[-1] == len(PROMPTS)
    assert len({len(row) for row in found}) > 1


def test_nothing_leaves_where_nothing_ends() -> None:
    live = model()
    with ended_by(live, None), widths(live) as passes:
        found = live.complete(PROMPTS, max_new_tokens=8)
    assert set(passes) == {len(PROMPTS)} and {len(row) for row in found} == {8}


def test_all_rows_may_end_at_once() -> None:
    live = model()
    with ended_by(live, list(range(live.n_logits))):
        assert live.complete(PROMPTS, max_new_tokens=8) == [[]] * len(PROMPTS)


@pytest.mark.parametrize(
    "own",
    [
        {"min_new_tokens": 6},
        {"begin_suppress_tokens": [36, 284, 105]},
        {"exponential_decay_length_penalty": (3, 1.5)},
        {"max_time": 1000.0},
    ],
    ids=lambda own: next(iter(own)),
)
def test_settings_that_count_from_the_beginning_keep_their_meaning(own: dict[str, Any]) -> None:
    live = model()
    with ended_by(live, None):
        ends = that_end(live.complete(PROMPTS, max_new_tokens=NEW))
    with ended_by(live, ends), pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setattr(live.model.generation_config, name, value)
        found = live.complete(PROMPTS, max_new_tokens=NEW)
        assert found == staying(live).complete(PROMPTS, max_new_tokens=NEW)


def test_the_model_is_as_it_was() -> None:
    live = model()
    before = {name: one.clone() for name, one in live.model.state_dict().items()}
    with live.steer(ablate(direction(live, 1)), mode="fold"):
        with ended_by(live, None):
            ends = that_end(live.complete(PROMPTS, max_new_tokens=NEW))
        with ended_by(live, ends), widths(live) as passes:
            live.complete(PROMPTS, max_new_tokens=NEW)
    assert passes[-1] < len(PROMPTS)
    assert all(torch.equal(one, before[name]) for name, one in live.model.state_dict().items())
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in live.model.modules())


# The cache that is written on


def written(seed: int, columns: int) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(3, 2, columns, 4, generator=drawn) for _ in range(2))
    return keys, values


@torch.no_grad()
def test_a_roomy_cache_holds_what_a_plain_one_does() -> None:
    begun = new_cache()
    begun.update(*(one[:1] for one in written(0, 5)), 0)
    roomy, plain = cache_for_rows([begun], [0, 0, 0], 120), new_cache()
    plain.update(*(one.expand(3, -1, -1, -1) for one in (begun.layers[0].keys, begun.layers[0].values)), 0)
    for step in range(150):
        columns = 7 if step == 0 else 1
        pairs = [held.update(*written(step, columns), 0) for held in (roomy, plain)]
        assert all(torch.equal(one, other) for one, other in zip(*pairs, strict=True))
        if step == 40:  # who picks, crops or reorders puts other tensors there
            for held in (roomy, plain):
                held.batch_select_indices(torch.tensor([2, 0, 1]))
        if step == 60:
            for held in (roomy, plain):
                held.crop(-3)
        if step == 80:
            for held in (roomy, plain):
                held.reorder_cache(torch.tensor([1, 1, 0]))
    assert roomy.get_seq_length() == plain.get_seq_length() == 5 + 7 + 149 - 3


@torch.no_grad()
def test_what_a_roomy_cache_gave_is_not_written_over() -> None:
    begun = new_cache()
    begun.update(*written(0, 5), 0)
    rows = cache_for_rows([begun], [0, 1, 2], 20)
    first = rows.update(*written(1, 1), 0)
    kept = [one.clone() for one in first]
    rows.update(*written(2, 1), 0)
    assert all(torch.equal(one, other) for one, other in zip(first, kept, strict=True))
    assert torch.equal(begun.layers[0].keys, written(0, 5)[0])


def test_gradients_go_through_a_roomy_cache() -> None:
    begun = new_cache()
    begun.update(*written(0, 5), 0)
    rows = cache_for_rows([begun], [0, 1, 2], 20)
    keys, values = written(1, 1)
    keys.requires_grad_()
    given = rows.update(keys, values, 0)[0]
    rows.update(*written(2, 1), 0)
    given.square().sum().backward()
    assert keys.grad is not None and torch.allclose(keys.grad, 2 * keys.detach())
