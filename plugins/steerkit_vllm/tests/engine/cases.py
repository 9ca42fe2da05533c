"""Requests and conditions that every engine is held against transformers with, through steerkit's own hooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

import steerkit
from steerkit.api.program import Program, ProgramModel
from steerkit.exporting.lowered import program_of

MODEL = "smollm2-135m-instruct"
NEW = 8
"""Tokens that each request is answered with."""
TOP = 20
"""Logits that are compared at each of them: the largest."""

STARTS = (
    "The capital of France is", "Water boils at", "My favourite season is", "In 1969 the first man",
    "To bake bread you need", "A triangle has", "The opposite of hot is", "She opened the door and",
)  # fmt: skip
FILLER = "It was a long day, and there was much to do before the evening came. "


@dataclass(frozen=True)
class Request:
    """A prompt and the condition that it asks for; none where it is plain."""

    ids: tuple[int, ...]
    condition: str | None


@dataclass(frozen=True)
class Answer:
    """What a request is answered with.

    Args:
        tokens: greedy.
        logits: ``[tokens, vocabulary]``, from which each was chosen.
    """

    tokens: tuple[int, ...]
    logits: torch.Tensor


def _direction(seed: int, rank: int, site: str) -> Any:
    made = torch.Generator().manual_seed(seed)
    vectors = torch.randn(rank, 576, generator=made)
    return steerkit.Direction(vectors / vectors.norm(dim=1, keepdim=True), site, name=f"random-{seed}")


@cache
def conditions() -> dict[str, tuple[Any, ...]]:
    """Five conditions: everywhere and at some tokens, constant and low-rank, alone and one behind the other."""
    warm, cold = _direction(1, 1, "blocks.14.resid_post"), _direction(2, 2, "blocks.12.resid_pre")
    early, late = _direction(3, 1, "blocks.6.attn_out"), _direction(4, 1, "blocks.20.resid_mid")
    return {
        "warm": (steerkit.add(warm, coefficient=12.0),),
        "without": (steerkit.ablate(cold),),
        "fading": (steerkit.add(-warm, coefficient=15.0, positions="generated", schedule="linear(1, 0, 6)"),),
        "at-the-end": (steerkit.add(early, coefficient=6.0, positions="prompt[-3:]"),),
        "both": (
            steerkit.add(warm, coefficient=8.0, sites="blocks.20.resid_mid"),
            steerkit.ablate(late, sites="blocks.20.resid_mid", positions="generated"),
            steerkit.add(early, coefficient=4.0, positions=[0, 2]),
        ),
    }


@cache
def model() -> Any:
    """The model in transformers."""
    return steerkit.load_model(MODEL, dtype="float32")


@cache
def programs() -> dict[str, Program]:
    """The conditions as programs. The first one has a monitor."""
    about = ProgramModel("llama", 30, 576)
    read = steerkit.Monitor("told", _direction(5, 1, "blocks.22.resid_post"), threshold=0.0)
    return {
        name: program_of(steer, model().layout, about, name, [read] if name == "warm" else ())
        for name, steer in conditions().items()
    }


def in_turn() -> tuple[Any, Program]:
    """A condition at the tokens of the last user turn, and the program of it."""
    steer = steerkit.add(_direction(6, 1, "blocks.10.resid_post"), coefficient=25.0, positions="user[-1]")
    return steer, program_of([steer], model().layout, ProgramModel("llama", 30, 576), "in-turn")


@cache
def requests() -> tuple[Request, ...]:
    """24 requests of 4 to 150 tokens, whose conditions take turns; some share a long beginning."""
    names: Sequence[str | None] = (*conditions(), None)
    found = []
    for number in range(24):
        text = FILLER * (number % 4) * (3 if number % 8 == 7 else 1) + STARTS[number % len(STARTS)]
        ids = model().tokenizer(text)["input_ids"]
        found.append(Request(tuple(ids), names[number % len(names)]))
    return tuple(found)


@torch.inference_mode()
def answer(request: Request) -> Answer:
    """What transformers answers, through steerkit's hooks, and the logits of one pass over all of it."""
    steer = [conditions()[request.condition]] if request.condition else [None]
    prompt = torch.tensor([request.ids])
    tokens = model().completions(prompt, steer=steer, max_new_tokens=NEW)[0].token_ids
    ids = torch.cat([prompt, torch.tensor([tokens])], dim=1)
    output = model().forward(ids, prompt_lengths=[len(request.ids)], steer=steer)
    return Answer(tuple(tokens), output.logits[0, len(request.ids) - 1 : -1].float())


@cache
def answers() -> tuple[Answer, ...]:
    """Of all requests."""
    return tuple(map(answer, requests()))
