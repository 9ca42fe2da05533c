"""Which columns of a batch are which tokens: from roles to edit masks.

Columns, not ``position_ids``, are what masks are made of: a token's column is its place in the
padded row, counted from the start of the sequence however many forward passes it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import torch
from torch import Tensor

from steerkit.errors import PositionError, agreeing, counted
from steerkit.types import FROM_TOKEN, PREFIX, TURNS, Positions

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

FAR = 2**40
"""A column that no sequence reaches: the end of a row that is still growing."""

BEHIND: Final = ("generated", "completion")
"""Roles of what stands behind the prompt: given or generated, it is the same place."""

SAY_WHERE: Final = (
    "Complete prompts with model.generate instead of hf_model.generate (model is what load_model or wrap gave): it "
    "knows where prompts end, and takes streamer, sampling and everything else that transformers' own takes. Or pass "
    "prompt_lengths to model.forward"
)
"""What to do where nobody said where prompts end."""


@dataclass(frozen=True)
class Turn:
    """One turn of a row's conversation.

    Args:
        role: ``system``, ``user``, ``assistant`` or ``tool``; ``answer_prefix`` for the words that an answer is made to
            begin with.
        span: ``[start, stop)``, the tokens (in a frame: the columns) that hold some of its own text; None where the
            chat template leaves it out, or where nobody can tell.
    """

    role: str
    span: tuple[int, int] | None

    def moved(self, by: int) -> Turn:
        """The same turn that many columns on."""
        return self if self.span is None else Turn(self.role, (self.span[0] + by, self.span[1] + by))


Turns: TypeAlias = tuple[Turn, ...]
"""The turns of one conversation, in its order, whatever the order in which a template shows them."""


@dataclass(frozen=True, eq=False)
class Frame:
    """Where the parts of each row lie, in columns, on the CPU. Ends are exclusive.

    Args:
        first: ``[rows]``, the first column that isn't padding.
        end: ``[rows]``, the column after the row's last token; ``FAR`` while the row grows.
        prompt_end: ``[rows]``, the column after the prompt, or None where nobody knows.
        turns: the turns of each row's conversation, in columns, or None where nobody knows any.
        shared: how many first tokens of each row were read apart, in the first columns, whatever padding stands
            before or behind them. A pass behind them holds none of them.
        number: what its first row is called where a message names one, counted from 1 as rows of data are.
    """

    first: Int[Tensor, " rows"]
    end: Int[Tensor, " rows"]
    prompt_end: Int[Tensor, " rows"] | None = None
    turns: tuple[Turns, ...] | None = None
    shared: int = 0
    number: int = 1

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.first.shape[0])

    def select(self, rows: tuple[int, ...]) -> Frame:
        """The frame of some of the rows."""
        if rows == tuple(range(self.rows)):
            return self
        chosen = list(rows)
        return Frame(
            self.first[chosen],
            self.end[chosen],
            None if self.prompt_end is None else self.prompt_end[chosen],
            None if self.turns is None else tuple(self.turns[row] for row in chosen),
            self.shared,
        )

    def from_start(self) -> Frame:
        """The frame of the same rows without the padding before them."""
        turns = self.turns
        if turns is not None:
            starts = self.first.tolist()
            turns = tuple(tuple(one.moved(-by) for one in row) for row, by in zip(turns, starts, strict=True))
        end = torch.where(self.end >= FAR, self.end, self.end - self.first)
        prompt_end = None if self.prompt_end is None else self.prompt_end - self.first
        return Frame(torch.zeros_like(self.first), end, prompt_end, turns)

    def expand(self, rows: int) -> Frame:
        """The frame of a batch in which every row was repeated in place (beams, return sequences)."""
        if rows == self.rows:
            return self
        if rows % self.rows:
            raise PositionError(
                f"{counted(rows, 'row')} in the batch {agreeing(rows)} no multiple of the "
                f"{counted(self.rows, 'prompt')} it began with."
            )
        times = rows // self.rows
        return Frame(
            self.first.repeat_interleave(times, 0),
            self.end.repeat_interleave(times, 0),
            None if self.prompt_end is None else self.prompt_end.repeat_interleave(times, 0),
            None if self.turns is None else tuple(turns for turns in self.turns for _ in range(times)),
            self.shared,
        )


def frame_of_prompts(
    lengths: Sequence[int],
    turns: Sequence[Turns],
    *,
    width: int,
    padding_side: str,
    growing: bool = False,
    prompts: Sequence[int] | None = None,
    number: int = 1,
) -> Frame:
    """The frame of a padded batch of whole prompts, or of prompts with their completions.

    Args:
        lengths: tokens of each row.
        turns: the turns of each row's conversation, in its own tokens; empty where nobody knows any.
        width: columns of the batch.
        padding_side: ``left`` or ``right``.
        growing: whether tokens will be generated behind the prompts.
        prompts: how many tokens of each row are its prompt; all if not given.
        number: what messages call its first row.
    """
    length = torch.tensor(list(lengths))
    first = width - length if padding_side == "left" else torch.zeros_like(length)
    starts = first.tolist()
    moved = tuple(tuple(turn.moved(start) for turn in row) for row, start in zip(turns, starts, strict=True))
    end = torch.full_like(length, FAR) if growing else first + length
    prompt_end = first + (length if prompts is None else torch.tensor(list(prompts)))
    return Frame(first, end, prompt_end, moved, number=number)


def frame_of_mask(
    attention_mask: Tensor, prompt_lengths: Sequence[int] | None = None, *, growing: bool = False
) -> Frame:
    """The frame of a bare forward pass, from its ``[rows, columns]`` mask of real tokens.

    Without ``prompt_lengths`` nobody knows where prompts end, and roles that depend on it are refused.

    Args:
        attention_mask: of all columns so far.
        prompt_lengths: tokens of each row's prompt.
        growing: whether more columns will follow: then ends aren't known, a prompt may go on behind the last column,
            and a row may still be all padding.
    """
    real = attention_mask.bool().cpu()
    some = real.any(1)
    if not growing and not bool(some.all()):
        raise PositionError("A row of the attention mask holds no token at all.")
    columns = real.shape[1]
    first = torch.where(some, real.int().argmax(1), columns)
    last = columns - real.flip(1).int().argmax(1)
    end = torch.full_like(first, FAR) if growing else last
    prompt_end = None
    if prompt_lengths is not None:
        lengths = torch.as_tensor(list(prompt_lengths))
        odd = lengths.shape[0] != real.shape[0] or bool((lengths < 1).any())
        if odd or (not growing and bool((first + lengths > end).any())):
            raise PositionError(
                f"prompt_lengths {lengths.tolist()} don't fit the batch: one per row ({real.shape[0]}), "
                f"each at least 1 and at most the row's tokens {(last - first).tolist()}."
            )
        prompt_end = first + lengths
    return Frame(first, end, prompt_end)


def goes_on(attention_mask: Tensor) -> bool:
    """Whether columns can follow those of a mask ``[rows, columns]``: no row has padding on its right."""
    real = attention_mask.bool()
    return bool((real[:, -1] | ~real.any(1)).all())


def bounds(positions: Positions, frame: Frame) -> tuple[Tensor, Tensor]:
    """The columns ``[start, end)`` of a role in each row, before any choice within it: two ``[rows, k]`` tensors.

    ``k`` is 1 but for all turns of a role; a row with fewer has empty ones.
    """
    if positions.role == FROM_TOKEN:
        raise PositionError(f"Positions '{positions}' depend on tokens, not on places: they are searched for.")
    if positions.role == "all" or (positions.role == "" and frame.prompt_end is None):
        return frame.first[:, None], frame.end[:, None]
    if frame.prompt_end is None:
        raise PositionError(
            f"Positions '{positions}' depend on where each prompt ends, and a bare forward pass doesn't say. "
            f"{SAY_WHERE}, or use 'all' or explicit indices."
        )
    if positions.role in ("prompt", ""):
        return frame.first[:, None], frame.prompt_end[:, None]
    if positions.role in BEHIND:
        return frame.prompt_end[:, None], frame.end[:, None]
    spans = _spans(positions, frame)
    if positions.role == "post_instruction":
        return spans[:, 0, 1:], _template_end(frame)[:, None]
    return spans[..., 0], spans[..., 1]


def _template_end(frame: Frame) -> Tensor:
    """``[rows]``, the column behind what the chat template puts before an answer: words put into it come after."""
    assert frame.prompt_end is not None and frame.turns is not None  # whoever asks has both
    ends = frame.prompt_end.tolist()
    begun = ([one.span[0] for one in turns if one.role == PREFIX and one.span is not None] for turns in frame.turns)
    return torch.tensor([starts[0] if starts else end for starts, end in zip(begun, ends, strict=True)])


def _spans(positions: Positions, frame: Frame) -> Tensor:
    """The columns of the turns that are meant, ``[rows, k, 2]``."""
    if frame.turns is None or not all(frame.turns):
        raise PositionError(
            f"Positions '{positions}' need the place of the user's text in each prompt, or of other turns, which is "
            "known where prompts are rendered by a chat template. Pass prompts as text or messages, or use 'prompt' "
            "or explicit indices."
        )
    spans = [_spans_of(positions, turns, row) for row, turns in enumerate(frame.turns, frame.number)]
    most = max(len(row) for row in spans)
    return torch.tensor([[*row, *[(row[-1][1],) * 2] * (most - len(row))] for row in spans])


def _spans_of(positions: Positions, turns: Turns, row: int) -> list[tuple[int, int]]:
    role, turn = (positions.role, positions.turn) if positions.role in (*TURNS, PREFIX) else ("user", -1)
    said = [one for one in turns if one.role == role]
    meant = said if turn is None else said[turn : turn + 1 or None]
    shown = [one.span for one in meant if one.span is not None]
    if shown:
        return sorted(shown)
    if not meant and role == PREFIX:
        raise PositionError(
            f"Positions '{positions}': row {row}'s answer isn't made to begin with anything. Give its example an "
            "answer_prefix, or choose other positions."
        )
    if not meant:
        there = f"only {len(said)} of its turns {agreeing(len(said))}" if said else "none of its turns is"
        raise PositionError(f"Positions '{positions}': in row {row}'s conversation {there} the {role}'s.")
    raise PositionError(
        f"Positions '{positions}': the chat template doesn't show that turn of row {row}'s conversation, or changes it "
        "so that its place can't be told. Choose positions that it shows, such as 'prompt' or an index."
    )


def position_intervals(positions: Positions, frame: Frame) -> tuple[Tensor, Tensor]:
    """The columns that are meant, as ``k`` intervals ``[start, end)`` per row: two ``[rows, k]`` tensors.

    Raises:
        PositionError: where a row's role has no such token, or its end is not known yet.
    """
    if positions.each:
        raise PositionError(
            f"'{positions}' are tokens among which a search chooses. Estimate directions there and name a search over "
            f"them, or leave out [*] to mean all of them together."
        )
    start, end = bounds(positions, frame)
    from_end = any(index < 0 for index in positions.indices) or any((edge or 0) < 0 for edge in positions.span or ())
    if from_end and bool((end >= FAR).any()):
        told = f" {SAY_WHERE}." if frame.prompt_end is None else ""
        raise PositionError(
            f"Positions '{positions}' count from an end that isn't known while tokens are generated.{told}"
        )
    if positions.indices:
        columns = torch.cat([(start if index >= 0 else end) + index for index in positions.indices], 1)
        outside = (columns < start) | (columns >= end)
        if bool(outside.any()):
            row = int(outside.any(1).nonzero()[0])
            raise PositionError(
                f"Positions '{positions}': row {row + frame.number} has only "
                f"{counted(int(end[row] - start[row]), 'token')} of that role."
            )
        return columns, columns + 1
    if positions.span is not None:
        first, last = positions.span
        low = start if first is None else torch.maximum((start if first >= 0 else end) + first, start)
        high = end if last is None else torch.minimum((start if last >= 0 else end) + last, end)
        return low, high
    return start, end


def edit_mask(spans: tuple[Tensor, Tensor], start: int, length: int) -> Bool[Tensor, "rows length"]:
    """Which of the columns ``start .. start + length`` lie in any of a row's intervals."""
    low, high = spans
    columns = torch.arange(start, start + length, device=low.device)
    inside = (columns >= low[:, :, None]) & (columns < high[:, :, None])
    return inside.any(1)
