"""A small model to be compiled, conditions for it, and its logits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import steerkit
from steerkit.api.intervention import Affine
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.session import wrap
from steerkit.session.model import LiveModel
from steerkit.types import RESID_PRE
from tests.engine.conditions import Given, vectors

IDS = torch.tensor([[2, 70, 71, 75, 76], [2, 80, 81, 85, 86]])
PROMPTS = ["ab", "cabbage"]
WIDTH = 32


def fresh(model_type: str = "llama", **kwargs: Any) -> LiveModel:
    live = wrap(tiny_model(model_type, n_layers=2, **kwargs), tiny_tokenizer(), self_test=False)
    live.model.requires_grad_(False)
    return live


@torch.no_grad()
def logits(live: LiveModel, ids: Tensor = IDS) -> Tensor:
    found: Tensor = live.hf_model(input_ids=ids, use_cache=False).logits
    return found


@contextlib.contextmanager
def eager() -> Iterator[None]:
    with torch.compiler.set_stance("force_eager"):
        yield


def unit(n: int) -> Tensor:
    return torch.nn.functional.normalize(vectors(WIDTH, 6, 1), dim=1)[n : n + 1]


def add(n: int, coefficient: float = 3.0, site: str = "blocks.0.resid_post") -> Given:
    return Given({site: Affine(bias=coefficient * unit(n)[0])})


def ablate(live: LiveModel, n: int) -> Given:
    return Given({str(site): Affine(-unit(n), unit(n)) for site in live.layout.sites_of(RESID_PRE)}, label="ablate")


def everywhere(live: LiveModel, n: int) -> Given:
    return Given({str(site): Affine(-unit(n), unit(n)) for site in live.layout.writer_sites()})


def interpreted(live: LiveModel, *condition: Given) -> Tensor:
    with eager(), live.steer(*condition, mode="interpret"):
        return logits(live)


def gate(live: LiveModel) -> steerkit.Gate:
    return steerkit.Gate(steerkit.Direction(unit(0), live.layout.sites()[0]), 0.0)
