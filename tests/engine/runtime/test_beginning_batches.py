"""Where batches begin: what their rows have in common, laid apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from steerkit.engine.prompts.batches import common_beginning, pad
from steerkit.engine.prompts.chat import Rendered
from steerkit.engine.reading.passes import next_token_logits
from steerkit.engine.runtime import beginning as module
from steerkit.session import ablate
from steerkit.session.model import LiveModel
from tests.conftest import assert_clean
from tests.engine.runtime.beginnings import PROMPTS, apart_from, assert_close, direction, steered, tokens_read


def test_rows_that_begin_apart_and_a_single_one_share_nothing() -> None:
    def shared(*rows: Sequence[int]) -> int:
        prompts = [Rendered(tuple(row)) for row in rows]
        return pad(prompts, tuple(range(len(rows))), "right", 0, torch.device("cpu")).shared

    alike = list(range(3, 33))
    assert shared([*alike, 1, 2], [*alike, 2, 3], [*alike, 1]) == 30
    assert shared([*alike, 1]) == shared([9, *alike], [8, *alike]) == 0
    # At least one token of each is left over, and little in common isn't worth it.
    assert shared(alike, alike) == 29
    assert shared([*alike[:8], 1, 2], [*alike[:8], 2, 3]) == 0
    assert shared(*([*alike[:8], 1 + row, 2] for row in range(4))) == 8
    assert common_beginning([[3, 4, 5, 6, 7], [3, 4, 5, 6, 7, 8]]) == 4
    assert common_beginning([[3, 4, 5, 7], [3, 4, 5, 6]]) == 0


def test_apart_the_beginning_stands_first_and_every_other_token_where_it_was() -> None:
    rows = [Rendered((*range(3, 33), *range(70, 70 + more))) for more in (4, 2, 3)]
    batch = pad(rows, (0, 1, 2), "left", 0, torch.device("cpu"))
    # What they have in common is more than was meant: the shortest keeps one token.
    assert batch.shared == 31
    apart = batch.apart()
    assert apart.frame.shared == 31
    for row in range(3):
        first, ids = int(batch.frame.first[row]), rows[row].token_ids
        assert apart.input_ids[row, :31].tolist() == list(ids[:31])
        assert apart.input_ids[row, first + 31 :].tolist() == list(ids[31:])
        assert apart.attention_mask[row].tolist() == [True] * 31 + [False] * first + [True] * (len(ids) - 31)
    assert batch.beginning.tolist() == [list(rows[0].token_ids[:31])]


def test_a_capture_on_a_cpu_cuts_rows_of_like_length_together(llama: LiveModel) -> None:
    lengths = [50, 49, 20, 19, 48, 21] * 8
    prompts = [Rendered((*range(5, 17), *(40 + (row + at) % 60 for at in range(n)))) for row, n in enumerate(lengths)]
    coarse, fine = llama.batched(prompts, "right"), llama.batched(prompts, "right", fine=True)
    assert len(coarse) == 1 and len(fine) == 2
    assert sorted(place for batch in fine for place in batch.order) == list(range(len(prompts)))
    assert [batch.input_ids.shape[1] for batch in fine] == [62, 33]

    def captured(live: LiveModel) -> Any:
        return live.capture(prompts, ["blocks.1.resid_pre"], -1, kind="rows", progress=False)

    sizes = tokens_read(llama, captured)
    assert sizes == sum(12 + len(batch.order) * (batch.input_ids.shape[1] - 12) for batch in fine)
    ((key, found),) = captured(llama).items()
    assert_close(found.rows, captured(apart_from(llama))[key].rows)


def test_no_part_of_it_is_left_after_an_exception(llama: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "cache_for_rows", fail)
    with steered(llama, [ablate(direction(llama, 1))]), pytest.raises(ZeroDivisionError):
        next_token_logits(llama, PROMPTS)
    assert_clean(llama)
