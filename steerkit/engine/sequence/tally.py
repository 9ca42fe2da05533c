"""How many tokens conditional edits reach, counted while somebody asks.

An edit of every token needs no count. One at some positions, behind a gate or behind a text may reach none, which a
reader of its numbers must be told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from steerkit.engine.sequence.when import When


@dataclass
class Tally:
    """Counts of one kind of pass.

    Args:
        order: places of the running batch's rows among the texts.
        edited: ``{(place of the text, when it acts): tokens that were edited}``; 0 where it was looked at and edited
            none.
    """

    order: tuple[int, ...] = ()
    edited: dict[tuple[int, When], int] = field(default_factory=dict)

    def note(self, whens: Sequence[When | None], weights: Tensor | bool | None, length: int) -> None:
        """Take in the weights ``[rows, pos]`` that edits have in a pass; True: all of them, None: none."""
        rows = len(self.order)
        counts = [length if weights is True else 0] * rows
        if isinstance(weights, Tensor):
            # Copies of a row, as beams are, lie side by side and count together.
            counts = (weights != 0).reshape(rows, -1).sum(1).tolist()
        for row, place in enumerate(self.order):
            when = whens[0] if len(whens) == 1 else whens[row]
            if when is not None and not when.always:
                key = (place, when)
                self.edited[key] = self.edited.get(key, 0) + counts[row]


_ASKED: ContextVar[Tally | None] = ContextVar("steerkit_tally", default=None)


@contextmanager
def counting_edited_tokens(tally: Tally) -> Iterator[Tally]:
    """Count in the body which tokens of which texts are edited."""
    token = _ASKED.set(tally)
    try:
        yield tally
    finally:
        _ASKED.reset(token)


def count_nothing() -> Tally | None:
    """Stop counting, for passes that are nobody's to count. ``count_again`` takes what comes back."""
    tally = _ASKED.get()
    if tally is not None:
        _ASKED.set(None)
    return tally


def count_again(tally: Tally | None) -> None:
    """Go on counting edited tokens."""
    if tally is not None:
        _ASKED.set(tally)


def begin_batch(order: Sequence[int]) -> None:
    """The coming passes hold these texts."""
    tally = _ASKED.get()
    if tally is not None:
        tally.order = tuple(order)


def note_edited(whens: Sequence[When | None], weights: Tensor | bool | None, length: int) -> None:
    """Tell whoever asks which tokens of a pass are edited."""
    tally = _ASKED.get()
    if tally is not None and tally.order:
        tally.note(whens, weights, length)


@contextmanager
def counting_for(texts: Sequence[Sequence[int]]) -> Iterator[None]:
    """Run the body, passes of rows that each stand for several texts, and count what they edit for all of these.

    Args:
        texts: for each row of the passes the texts that it stands for.
    """
    asked = _ASKED.get()
    if asked is None:
        yield
        return
    with counting_edited_tokens(Tally(tuple(range(len(texts))))) as tally:
        yield
    for (row, when), tokens in tally.edited.items():
        for place in texts[row]:
            asked.edited[place, when] = asked.edited.get((place, when), 0) + tokens
