"""A model that lacks what passes usually rely on gives each prompt what it gives alone all the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from steerkit.api.direction import Direction
from steerkit.api.monitor import Completion, Monitor
from steerkit.engine.prompts.chat import Rendered
from steerkit.engine.reading.passes import next_token_logits, sequence_logits
from steerkit.engine.runtime.shareable import shareable
from steerkit.engine.searching.alike import AlikePrompts
from steerkit.engine.sites.behaviours import Behaviours
from steerkit.errors import DataError
from steerkit.session import add
from steerkit.session.model import LiveModel
from steerkit.types import Positions, Site
from tests.conftest import tiny_live
from tests.engine.runtime.odd_models import odd_live

# They begin alike, so that what follows their beginning could be read behind it; two are of one length.
PROMPTS = [[*range(10, 40), *rest] for rest in ([50, 51, 52, 53, 54], [60], [70, 71, 72], [80, 81, 82])]


@pytest.fixture(params=["rwkv", "bert"])
def live(request: pytest.FixtureRequest) -> Iterator[LiveModel]:
    yield odd_live(request.param)


def test_what_they_lack_is_measured() -> None:
    assert odd_live("rwkv").behaviours == Behaviours(left_padding=False, cached=False)
    assert odd_live("bert").behaviours == Behaviours(causal=False, cached=False)


def whole(live: LiveModel, ids: list[int]) -> Tensor:
    """Logits of one prompt alone, ``[pos, vocab]``, by the model itself."""
    with torch.no_grad():
        found: Tensor = live.hf_model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return found


def greedy(live: LiveModel, ids: list[int], steps: int) -> list[int]:
    """What follows one prompt alone, every token by a whole pass; by definition."""
    found: list[int] = []
    for _ in range(steps):
        found.append(int(whole(live, ids + found)[-1].argmax()))
    return found


READ: dict[str, Callable[[LiveModel, list[list[int]]], list[Tensor]]] = {
    "activations": lambda live, ids: list(live.activations(ids, ["blocks.1.resid_post"]).ragged()),
    "padded on the left": lambda live, ids: list(
        rows_of(live.capture(ids, "blocks.1.resid_post", kind="rows", padding_side="left"))
    ),
    "next token": lambda live, ids: list(next_token_logits(live, ids)),
    "a search's": lambda live, ids: list(AlikePrompts(live, live.rendered(ids)).all_logits(())),
    "along the text": lambda live, ids: along(live, ids),
}


def rows_of(captured: Any) -> Tensor:
    rows = captured["blocks.1.resid_post"].rows
    assert isinstance(rows, Tensor)
    return rows


def along(live: LiveModel, ids: list[list[int]]) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    for batch in sequence_logits(live, [Rendered(tuple(one)) for one in ids], [1] * len(ids)):
        for row, place in enumerate(batch.order):
            found[place] = batch.logits[row][batch.token_mask[row]]
    return [found[place] for place in range(len(ids))]


@pytest.mark.parametrize("how", READ)
def test_prompts_are_read_as_alone(live: LiveModel, how: str) -> None:
    together = READ[how](live, PROMPTS)
    for found, ids in zip(together, PROMPTS, strict=True):
        (alone,) = READ[how](live, [ids])
        torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("how", ["complete", "stream", "completions", "settings of one's own"])
def test_prompts_are_completed_as_alone_and_without_a_cache(live: LiveModel, how: str) -> None:
    if how == "stream":
        found = [list(one.token_ids) for one in sorted_ends(live)]
    elif how == "completions":
        found = [list(one.token_ids) for one in live.completions(PROMPTS, max_new_tokens=4)]
    else:
        more: dict[str, Any] = {} if how == "complete" else {"do_sample": False}
        found = live.complete(PROMPTS, max_new_tokens=4, **more)
    assert found == [until_end(live, greedy(live, ids, 4)) for ids in PROMPTS]


def test_steered_completions_are_those_of_whole_passes(live: LiveModel) -> None:
    vector = 3 * torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    steer = add(Direction(vector, Site("resid_post", 0), -1, "d"), positions="all")
    conditions = [[steer], None, [steer], None]
    found = live.complete(PROMPTS, max_new_tokens=4, steer=conditions)
    expected = []
    for ids, condition in zip(PROMPTS, conditions, strict=True):
        with live.steer(*condition or (), mode="hook"):
            expected.append(until_end(live, greedy(live, ids, 4)))
    assert found == expected
    plain = [until_end(live, greedy(live, ids, 4)) for ids in PROMPTS]
    assert found[1] == plain[1] and found != plain


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_doing_without_changes_nothing_of_a_model_that_lacks_nothing(model_type: str) -> None:
    """Completions, what monitors read meanwhile and what steers by positions are those of cached, padded batches."""
    live = tiny_live(model_type)
    vector = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    direction = Direction(vector, Site("resid_post", 1), -1, "d")
    monitors = [Monitor("m", direction, 0.0, positions=Positions.parse("all"))]
    steers = [add(direction, coefficient=3.0, positions=one) for one in ("generated", "last", "all")]

    def completed(behaviours: Behaviours) -> list[Completion]:
        own = copy.copy(live)
        own.behaviours = behaviours
        steer = [[steers[place]] if place < len(steers) else None for place in range(len(PROMPTS))]
        return own.completions(PROMPTS, monitors=monitors, max_new_tokens=5, steer=steer)

    usual = completed(Behaviours())
    for lacking in (Behaviours(cached=False), Behaviours(left_padding=False), Behaviours(causal=False, cached=False)):
        for found, expected in zip(completed(lacking), usual, strict=True):
            assert found.token_ids == expected.token_ids
            one, other = found.readings["m"], expected.readings["m"]
            assert one.places == other.places
            torch.testing.assert_close(
                torch.tensor(one.values), torch.tensor(other.values), atol=1e-4, rtol=1e-4, equal_nan=True
            )


def test_no_beginning_is_shared_with_a_reason(live: LiveModel) -> None:
    assert shareable(live).refused and shareable(live, generating=True).refused
    refused = AlikePrompts(live, live.rendered(PROMPTS)).refused
    assert any("a common beginning is read with every prompt" in one for one in refused)


def test_what_is_lacking_is_said_once_each() -> None:
    notes = Behaviours(causal=False, left_padding=False, cached=False).notes
    assert [bool(part in note) for part, note in zip(("later token", "padded", "without a cache"), notes, strict=True)]
    assert Behaviours().notes == ()


def test_a_bare_pass_pads_no_prompts_that_padding_changes() -> None:
    live = odd_live("rwkv")
    with pytest.raises(DataError, match="unequal length"):
        live.forward(PROMPTS)
    same = [PROMPTS[2], PROMPTS[3]]
    logits: Any = live.forward(same).logits
    torch.testing.assert_close(logits[1], whole(live, PROMPTS[3])[: logits.shape[1]], atol=1e-4, rtol=1e-4)


def test_a_model_that_counts_for_itself_is_told_no_positions() -> None:
    assert not odd_live("rwkv").takes_positions and odd_live("bert").takes_positions


def until_end(live: LiveModel, ids: list[int]) -> list[int]:
    end = live.model.config.eos_token_id
    return ids[: ids.index(end)] if end in ids else ids


def sorted_ends(live: LiveModel) -> list[Any]:
    ends = {
        event.prompt: event.completion
        for event in live.generate(PROMPTS, max_new_tokens=4, stream=True)
        if event.completion
    }
    return [ends[place] for place in sorted(ends)]
