"""Each row under a condition of its own, in every pass that takes ``steer=``: against one condition at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from steerkit.api.direction import Direction
from steerkit.api.intervention import Gate, Placement
from steerkit.engine.lowering.edits import Steer
from steerkit.engine.reading.passes import next_token_logits, sequence_logits
from steerkit.session import ablate, add
from steerkit.session.model import LiveModel
from steerkit.types import Site
from tests.conftest import assert_clean, tiny_live

DENSE = ["llama", "qwen3", "gemma3_text"]
MIXTURES = ["qwen3_moe", "qwen2_moe"]
TEXTS = ["one", "two words", "three words now", "and a fourth one", "two words", "the last of all these rows"]
SITES = ["embed", "blocks.0.mlp_out", "blocks.1.resid_post"]


def direction(live: LiveModel, seed: int, rank: int = 1) -> Direction:
    vectors = torch.randn(rank, live.layout.d_model, generator=torch.Generator().manual_seed(seed))
    return Direction(vectors, Site("resid_pre", 1), name=f"d{seed}")


def row_conditions(live: LiveModel) -> list[Steer]:
    """One for each text; rows 1 and 4 are left alone."""
    fading = add(direction(live, 3), coefficient=2.0, schedule="linear(1, 0, 4)")
    gate = Gate(direction(live, 5), 0.0, "above", Site("resid_pre", 1))
    gated = add(direction(live, 4), coefficient=-3.0, sites="blocks.1.resid_mid", gate=gate)
    return [
        add(direction(live, 0), coefficient=2.0),
        None,
        [ablate(direction(live, 1)), add(direction(live, 2), sites=["blocks.1.resid_post"], positions="last")],
        fading,
        [],
        [gated, ablate(direction(live, 6, rank=3), sites=["blocks.0.attn_out"])],
    ]


def read_next(live: LiveModel, steer: Sequence[Steer] | None) -> list[Tensor]:
    return list(next_token_logits(live, TEXTS, steer=steer))


def read_along(live: LiveModel, steer: Sequence[Steer] | None) -> list[Tensor]:
    # As prompts, so that positions within them mean something.
    found: dict[int, Tensor] = {}
    for part in sequence_logits(live, live.rendered(TEXTS), [1] * len(TEXTS), steer):
        for row, index in enumerate(part.order):
            found[index] = part.logits[row][part.token_mask[row]]
    return [found[index] for index in range(len(TEXTS))]


def read_sites(live: LiveModel, steer: Sequence[Steer] | None) -> list[Tensor]:
    read = live.capture(TEXTS, SITES, ["-1", "prompt"], kind="rows", steer=steer, progress=False)
    pieces: list[list[Tensor]] = [[] for _ in TEXTS]
    for statistics in read.values():
        assert statistics.rows is not None and statistics.tokens_per_prompt is not None
        for row, piece in enumerate(statistics.rows.split(statistics.tokens_per_prompt.tolist())):
            pieces[row].append(piece.flatten())
    return [torch.cat(row) for row in pieces]


Read = Callable[[LiveModel, "Sequence[Steer] | None"], list[Tensor]]
PASSES: dict[str, Read] = {"next token": read_next, "along": read_along, "capture": read_sites}


def alone(live: LiveModel, read: Read, conditions: Sequence[Steer]) -> list[Tensor]:
    """Every row from a pass of the same batch in which all rows are under that row's condition."""
    found = []
    for row, condition in enumerate(conditions):
        listed = [condition] if isinstance(condition, Placement) else condition or []
        with live.steer(*listed, mode="hook"):
            found.append(read(live, None)[row])
    return found


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("model_type", [*DENSE, *MIXTURES])
def test_a_row_gives_what_its_condition_gives_by_itself(model_type: str, name: str) -> None:
    live = tiny_live(model_type)
    conditions = row_conditions(live)
    plain = PASSES[name](live, None)
    rows = PASSES[name](live, conditions)
    expected = alone(live, PASSES[name], conditions)
    for row, condition in enumerate(conditions):
        scale = max(1.0, float(expected[row].abs().max()))
        assert float((rows[row] - expected[row]).abs().max()) <= 1e-5 * scale, row
        if condition:
            assert float((rows[row] - plain[row]).abs().max()) > 1e-3, "a condition that changes nothing proves nothing"
        elif model_type in DENSE:
            assert torch.equal(rows[row], plain[row]), row
        else:
            assert float((rows[row] - plain[row]).abs().max()) <= 1e-5 * scale, row
    assert_clean(live)


@pytest.mark.parametrize("name", PASSES)
def test_rows_follow_their_texts_through_several_batches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are made by length, so a row's place in its batch isn't that of its text."""
    live = tiny_live("llama")
    conditions = row_conditions(live)
    expected = PASSES[name](live, conditions)
    monkeypatch.setattr(live, "batch_tokens", 40)
    assert len(live.batched(live.rendered(TEXTS), "right")) > 2
    for row, value in enumerate(PASSES[name](live, conditions)):
        assert torch.allclose(value, expected[row], atol=1e-5), row


def test_completions_follow_their_row_and_one_left_alone_is_as_it_would_be() -> None:
    live = tiny_live("llama")
    conditions = row_conditions(live)
    found = live.complete(TEXTS, max_new_tokens=6, steer=conditions)
    plain = live.complete(TEXTS, max_new_tokens=6)
    for row, condition in enumerate(conditions):
        listed = [condition] if isinstance(condition, Placement) else condition or []
        with live.steer(*listed, mode="hook"):
            assert found[row] == live.complete(TEXTS, max_new_tokens=6)[row]
        assert condition or found[row] == plain[row]
    assert found != plain
