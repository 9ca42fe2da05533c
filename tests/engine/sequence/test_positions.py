"""Edit masks from roles: exact columns, and agreement with a literal token-by-token labelling."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerkit.engine.sequence.positions import (
    Frame,
    Turn,
    edit_mask,
    frame_of_mask,
    frame_of_prompts,
    position_intervals,
)
from steerkit.errors import PositionError
from steerkit.types import Positions


def columns(text: str | int, frame: Frame, width: int) -> list[list[int]]:
    mask = edit_mask(position_intervals(Positions.parse(text), frame), 0, width)
    return [row.nonzero().flatten().tolist() for row in mask]


# Two prompts of 4 and 6 tokens in a batch of width 6; the user's text is tokens 1..3 and 2..5.
LENGTHS, SPANS = [4, 6], [(Turn("user", (1, 3)),), (Turn("user", (2, 5)),)]


@pytest.mark.parametrize(
    ("positions", "left", "right"),
    [
        ("all", [[2, 3, 4, 5], [0, 1, 2, 3, 4, 5]], [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]),
        ("last", [[5], [5]], [[3], [5]]),
        (-1, [[5], [5]], [[3], [5]]),
        (0, [[2], [0]], [[0], [0]]),
        ("instruction", [[3, 4], [2, 3, 4]], [[1, 2], [2, 3, 4]]),
        ("instruction[-1]", [[4], [4]], [[2], [4]]),
        ("post_instruction", [[5], [5]], [[3], [5]]),
        ("prompt[1:3]", [[3, 4], [1, 2]], [[1, 2], [1, 2]]),
        ("-2:", [[4, 5], [4, 5]], [[2, 3], [4, 5]]),
        ("[0,-1]", [[2, 5], [0, 5]], [[0, 3], [0, 5]]),
        ("generated", [[], []], [[], []]),
    ],
)
def test_roles_name_the_same_tokens_on_either_padding_side(
    positions: str | int, left: list[list[int]], right: list[list[int]]
) -> None:
    for side, expected in (("left", left), ("right", right)):
        frame = frame_of_prompts(LENGTHS, SPANS, width=6, padding_side=side)
        assert columns(positions, frame, 6) == expected


def test_generated_tokens_follow_the_prompt_however_the_sequence_is_cut() -> None:
    frame = frame_of_prompts(LENGTHS, SPANS, width=6, padding_side="left", growing=True)
    spans = position_intervals(Positions.parse("generated[1:3]"), frame)
    whole = edit_mask(spans, 0, 10)
    assert whole[0].nonzero().flatten().tolist() == [7, 8]
    pieces = torch.cat([edit_mask(spans, 0, 6), *(edit_mask(spans, at, 1) for at in range(6, 10))], 1)
    assert torch.equal(whole, pieces)


def test_beams_follow_their_prompt() -> None:
    frame = frame_of_prompts(LENGTHS, SPANS, width=6, padding_side="left").expand(6)
    assert columns("instruction", frame, 6) == [[3, 4]] * 3 + [[2, 3, 4]] * 3
    with pytest.raises(PositionError, match="no multiple"):
        frame.expand(7)


def test_what_a_bare_pass_does_not_know_is_refused() -> None:
    frame = frame_of_mask(torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]))
    assert columns(-1, frame, 4) == [[3], [3]]
    assert columns(0, frame, 4) == [[1], [0]]
    for role in ("prompt", "last", "generated", "instruction", "post_instruction"):
        with pytest.raises(PositionError, match="prompt_lengths"):
            position_intervals(Positions.parse(role), frame)
    known = frame_of_mask(torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]), [2, 1])
    assert columns("last", known, 4) == [[2], [0]]
    assert columns("generated", known, 4) == [[3], [1, 2, 3]]
    with pytest.raises(PositionError, match="chat template"):
        position_intervals(Positions.parse("instruction"), known)


@pytest.mark.parametrize("lengths", [[0, 1], [2], [5, 1]])
def test_prompt_lengths_that_do_not_fit_are_refused(lengths: list[int]) -> None:
    with pytest.raises(PositionError, match="don't fit"):
        frame_of_mask(torch.ones(2, 4), lengths)


def test_a_row_of_padding_alone_is_refused() -> None:
    with pytest.raises(PositionError, match="no token"):
        frame_of_mask(torch.tensor([[0, 0], [1, 1]]))


def test_a_missing_token_is_an_error_that_names_the_row() -> None:
    frame = frame_of_prompts(LENGTHS, SPANS, width=6, padding_side="left")
    with pytest.raises(PositionError, match="row 1 has only 4"):
        position_intervals(Positions.parse(5), frame)
    growing = frame_of_prompts(LENGTHS, SPANS, width=6, padding_side="left", growing=True)
    with pytest.raises(PositionError, match="isn't known"):
        position_intervals(Positions.parse("generated[-1]"), growing)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=5),
    st.sampled_from(["left", "right"]),
    st.sampled_from(["all", "prompt", "instruction", "post_instruction", "last", "instruction[0]", "prompt[:2]"]),
)
def test_masks_agree_with_labels_written_token_by_token(
    parts: list[tuple[int, int, int]], side: str, positions: str
) -> None:
    """Each row is made of ``before``, instruction and after tokens; every token carries its own labels."""
    lengths = [sum(part) for part in parts]
    width = max(lengths)
    frame = frame_of_prompts(
        lengths, [(Turn("user", (before, before + own)),) for before, own, _ in parts], width=width, padding_side=side
    )
    expected = []
    for before, own, after in parts:
        labels = [{"all", "prompt"} for _ in range(before + own + after)]
        for place in range(before, before + own):
            labels[place].add("instruction")
        for place in range(before + own, before + own + after):
            labels[place].add("post_instruction")
        labels[-1].add("last")
        labels[before].add("instruction[0]")
        for label in labels[:2]:
            label.add("prompt[:2]")
        row = [positions in label for label in labels]
        padding = [False] * (width - len(row))
        expected.append(padding + row if side == "left" else row + padding)
    assert edit_mask(position_intervals(Positions.parse(positions), frame), 0, width).tolist() == expected
