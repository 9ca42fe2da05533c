"""A completion holds every token that was written, whatever the padding token is, and nothing behind its end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.session import wrap
from steerkit.session.model import LiveModel

A, B = 70, 71


class Says:
    """A logits processor under which row ``i`` writes ``rows[i]``.

    Args:
        rows: a list of tokens for each row.
        columns: of the prompts.
    """

    def __init__(self, rows: list[list[int]], columns: int) -> None:
        self.rows, self.columns = rows, columns

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.columns
        only = torch.full_like(scores, -torch.inf)
        for row, tokens in enumerate(self.rows):
            only[row, tokens[step]] = 0.0
        return only


@pytest.fixture(scope="module")
def live() -> LiveModel:
    """Without a tokenizer and without an end token: its padding is token 0, which is one like others."""
    found = wrap(tiny_model("llama", n_layers=2), self_test=False)
    found.model.generation_config.eos_token_id = None
    found.model.generation_config.pad_token_id = None
    assert found.pad_id == 0
    return found


def written(live: LiveModel, rows: list[list[int]], **more: Any) -> list[list[int]]:
    prompts = torch.full((len(rows), 2), A)
    return live.complete(prompts, max_new_tokens=len(rows[0]), logits_processor=[Says(rows, 2)], **more)


def test_real_tokens_at_the_end_stay_where_padding_is_a_real_token(live: LiveModel) -> None:
    rows = [[5, 0, 0], [0, 0, 0], [7, 8, 9]]
    assert written(live, rows) == rows


def test_a_criterion_ends_a_row_and_what_it_had_written_stays(live: LiveModel) -> None:
    def at_seven(input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        # It stays so behind the seven, as a criterion that looks at all of a text does.
        return (input_ids == 7).any(1)

    rows = [[5, 0, 7, 1, 1], [0, 7, 2, 2, 2], [5, 5, 0, 0, 0]]
    assert written(live, rows, stopping_criteria=[at_seven]) == [[5, 0, 7], [0, 7], [5, 5, 0, 0, 0]]


def test_an_end_token_still_ends_a_row(live: LiveModel) -> None:
    rows = [[5, 9, 0, 0], [0, 0, 9, 1], [9, 1, 1, 1], [0, 0, 0, 0]]
    assert written(live, rows, eos_token_id=9) == [[5], [0, 0], [], [0, 0, 0, 0]]


def test_a_stop_string_ends_a_row_and_leaves_its_last_tokens() -> None:
    tokenizer = tiny_tokenizer()
    live = wrap(tiny_model("llama", n_layers=2), tokenizer, self_test=False)
    live.model.generation_config.eos_token_id = None
    a, stop = (tokenizer.encode(text, add_special_tokens=False) for text in ("a", "!!"))
    pad = live.pad_id
    rows = [[*a, *stop, *a, *a], [*a, *a, pad, pad, pad], [pad, *a, *a, *stop]]
    found = live.complete(
        torch.full((3, 2), A),
        max_new_tokens=5,
        logits_processor=[Says(rows, 2)],
        stop_strings=["!!"],
        tokenizer=tokenizer,
    )
    assert found == [[*a, *stop], rows[1], rows[2]]
