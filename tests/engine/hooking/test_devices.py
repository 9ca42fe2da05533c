"""Whatever meets a module's value on its way lies where that value does, on a model spread over two devices.

The devices aren't there (``tests.engine.elsewhere``): their tensors compute on the CPU and refuse to meet each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch

import steerkit
from steerkit import Direction, LiveModel, Monitor, ablate, add, gate
from steerkit.api.intervention import Placement
from steerkit.engine.reading.passes import next_token_logits
from steerkit.engine.searching.alike import AlikePrompts
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from tests.engine.elsewhere import FIRST, SECOND, devices_that_are_not_there, spread

PROMPTS = ["The same words first, then one", "The same words first, then another one", "Fewer words"]
MAPPED = {
    "model.embed_tokens": FIRST,
    "model.rotary_emb": FIRST,
    "model.layers.0": FIRST,
    "model.layers.1": SECOND,
    "model.layers.2": SECOND,
    "model.norm": SECOND,
    "lm_head": SECOND,
}


@pytest.fixture(scope="module")
def plain() -> LiveModel:
    return steerkit.wrap(tiny_model("llama"), tiny_tokenizer())


@pytest.fixture(scope="module")
def spread_out() -> LiveModel:
    with devices_that_are_not_there():
        return steerkit.wrap(spread(tiny_model("llama"), MAPPED), tiny_tokenizer())


@pytest.fixture
def both(plain: LiveModel, spread_out: LiveModel) -> Iterator[Callable[[Callable[[LiveModel], Any]], None]]:
    """Does something on both models, and compares what comes of it."""

    def compare(do: Callable[[LiveModel], Any]) -> None:
        expected = do(plain)
        with devices_that_are_not_there():
            found = do(spread_out)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)

    yield compare


def direction(layer: int, seed: int = 0) -> Direction:
    vector = torch.randn(1, 32, generator=torch.Generator().manual_seed(seed))
    return Direction(vector, steerkit.Site("resid_pre", layer), -1, "d")


CONDITIONS: dict[str, Callable[[], list[Placement]]] = {
    "nothing": list,
    "between the writers": lambda: [ablate(direction(1), sites=["blocks.*.resid_mid"])],
    "everywhere": lambda: [ablate(direction(1))],
    "at heads": lambda: [add(direction(1), coefficient=2.0, sites=["blocks.*.attn_out"]), ablate(direction(2, 1))],
    "some tokens": lambda: [add(direction(2), coefficient=2.0, positions="last")],
    "decided below": lambda: [
        add(direction(2), coefficient=2.0, gate=gate(direction(0), above=0.0, site="blocks.0.resid_mid"))
    ],
    "decided by the prompt": lambda: [
        add(direction(2), gate=gate(direction(0), below=0.0, at="prompt", positions="prompt", prepass=True))
    ],
}


def cpu(value: torch.Tensor) -> torch.Tensor:
    return value.detach().cpu()


@pytest.mark.parametrize(
    ("name", "mode"),
    [*((name, "hook") for name in CONDITIONS), ("decided below", "interpret"), ("everywhere", "fold")],
)
def test_logits_and_completions_are_those_of_one_device(both: Any, name: str, mode: Any) -> None:
    def do(live: LiveModel) -> Any:
        with live.steer(*CONDITIONS[name](), mode=mode):
            return cpu(next_token_logits(live, live.rendered(PROMPTS))), live.generate(PROMPTS, max_new_tokens=2)

    texts: list[Any] = []

    def logits(live: LiveModel) -> torch.Tensor:
        found = do(live)
        texts.append(found[1])
        return cast(torch.Tensor, found[0])

    both(logits)
    assert texts[0] == texts[1]


def test_rows_with_conditions_of_their_own(both: Any) -> None:
    steer: Any = [ablate(direction(1), sites=["blocks.*.resid_mid"]), None, [ablate(direction(0))]]

    def do(live: LiveModel) -> Any:
        return torch.tensor(
            [live.chat.tokenizer.encode(text)[:3] for text in live.generate(PROMPTS, steer=steer, max_new_tokens=3)]
        )

    both(do)


def test_statistics_activations_and_what_they_say(both: Any) -> None:
    def captured(live: LiveModel) -> Any:
        found = live.capture(PROMPTS, [str(site) for site in live.layout.sites()], [-1, "all"], kind="moments")
        return [one.mean for one in found.values()]

    both(captured)

    def read(live: LiveModel) -> Any:
        lens = live.logit_lens(live.activations(PROMPTS, ["blocks.*.resid_pre"]))
        return [cpu(lens[site]) for site in lens.sites]

    both(read)


def test_monitors_read_on_the_way(both: Any) -> None:
    sites = (steerkit.Site("resid_post", 0), steerkit.Site("resid_mid", 1))
    monitors = [Monitor("m", direction(0), 0.0, "above", sites)]

    def do(live: LiveModel) -> Any:
        with live.steer(add(direction(1), coefficient=2.0)):
            found = live.completions(PROMPTS, monitors=monitors, max_new_tokens=3)
        return [torch.tensor(one.readings["m"].values[:-1]) for one in found]

    both(do)


@pytest.mark.parametrize("name", ["everywhere", "between the writers"])
def test_a_search_shares_what_it_does_on_one_device(both: Any, name: str) -> None:
    def do(live: LiveModel) -> Any:
        alike = AlikePrompts(live, live.rendered(PROMPTS))
        assert not alike.refused
        return cpu(alike.all_logits(CONDITIONS[name]()))

    both(do)
