"""Models and conditions for tests of shared beginnings, and how many tokens are read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

import steerkit
from steerkit.api.direction import Direction
from steerkit.api.intervention import Placement
from steerkit.engine.runtime.shareable import shareable
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.session import ablate, add, wrap
from steerkit.session.model import LiveModel
from steerkit.types import Site

# Wide enough windows, where a family has them, that a test's prompts lie within.
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": {},
    "gemma": {},
    "gemma2": {"sliding_window": 256},
    "gemma3_text": {"sliding_window": 256},
    "gemma4_text": {"sliding_window": 256},
}
PROMPTS = ["The same words first, then one", "The same words first, then another one", "The same words first, now less"]


@cache
def family(name: str) -> LiveModel:
    return wrap(tiny_model(name, **FAMILIES[name]), tiny_tokenizer())


def apart_from(live: LiveModel) -> LiveModel:
    """The same model, which reads every prompt whole."""
    other = copy.copy(live)
    other.share_beginnings = False
    return other


def direction(live: LiveModel, layer: int, seed: int = 0) -> Direction:
    vector = torch.randn(1, live.layout.d_model, generator=torch.Generator().manual_seed(seed))
    return Direction(vector, Site("resid_pre", layer), -1, "d")


def conditions(live: LiveModel) -> dict[str, list[Placement]]:
    last, one = live.layout.n_layers - 1, direction(live, 1)
    gate = steerkit.gate(direction(live, 1, 5), above=0.1)
    return {
        "nothing": [],
        "ablate": [ablate(one)],
        "add": [add(direction(live, 0), coefficient=2.0)],
        "first tokens": [add(one, coefficient=2.0, positions="[:3]")],
        "from the end": [add(one, coefficient=2.0, positions=[-1, -9])],
        # Counted from the end, it lies at another token of the beginning in each row.
        "far from the end": [add(one, coefficient=2.0, positions=-30)],
        "instruction": [add(one, coefficient=2.0, positions="instruction")],
        "behind the instruction": [add(one, coefficient=2.0, positions="post_instruction")],
        "generated": [add(one, coefficient=2.0, positions="generated")],
        "schedule": [add(one, coefficient=2.0, schedule="linear(1, 0, 4)")],
        "token's gate": [add(one, coefficient=2.0, gate=gate)],
        "two": [ablate(one), add(direction(live, last, 1), positions="[2:40]")],
    }


@contextmanager
def steered(live: LiveModel, placements: Sequence[Placement], mode: Any = "auto") -> Iterator[None]:
    with live.steer(*placements, mode=mode) if placements else nullcontext():
        yield


def assert_close(found: Tensor, expected: Tensor, what: str = "") -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4, equal_nan=True, msg=lambda text: f"{what} {text}")


@contextmanager
def counting(live: LiveModel) -> Iterator[list[int]]:
    """The sizes of what the model's embedding is given."""
    embedding, sizes = live.model.get_input_embeddings(), []
    own = embedding.forward

    def forward(ids: Tensor) -> Tensor:
        sizes.append(ids.numel())
        return own(ids)

    vars(embedding)["forward"] = forward
    try:
        yield sizes
    finally:
        del vars(embedding)["forward"]


def tokens_read(live: LiveModel, work: Callable[[LiveModel], Any]) -> int:
    shareable(live), shareable(live, generating=True)  # tried once, whoever asks first
    with counting(live) as sizes:
        work(live)
    return sum(sizes)


def reads_less(live: LiveModel, work: Callable[[LiveModel], Any]) -> bool:
    return tokens_read(live, work) < tokens_read(apart_from(live), work)
