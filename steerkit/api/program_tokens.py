"""How much of a program's update each token of a request gets: from its place in the sequence, and nothing else.

Chunks of a prompt, a cache of its beginning or a request that is computed again after it was put aside change nothing
of it. The engine's own masks say the same of whole batches; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from steerkit.errors import PositionError, agreeing, counted
from steerkit.types import FROM_TOKEN, PREFIX, TURNS, Positions, Schedule

if TYPE_CHECKING:
    from numpy import ndarray

Turn: TypeAlias = tuple[str, int, int]
"""Role and ``[start, stop)`` of a turn's own text among the prompt's tokens; ``answer_prefix`` is a role too."""

BEHIND: Final = ("generated", "completion")
IN_TURNS: Final = ("instruction", "post_instruction", PREFIX, *TURNS)
FAR: Final = 2**62
"""Behind every token that will ever be."""


def spans_of(positions: Positions, prompt_length: int, turns: Sequence[Turn] = ()) -> tuple[tuple[int, int], ...]:
    """The tokens that positions mean in one request, as intervals ``[start, stop)`` of places in its sequence.

    Args:
        positions: which tokens.
        prompt_length: how many tokens the prompt has.
        turns: of the prompt's conversation, in order.

    Raises:
        PositionError: where the request has no such token, or they can't be told from places: ``from_token(...)``,
            turns that nobody named, what is counted from the end of a text that isn't over.
    """
    if positions.each or positions.role == FROM_TOKEN:
        raise PositionError(
            f"Positions '{positions}' are found in a text, and a program that is served acts by places alone. Export a "
            "condition at all, prompt, generated, a turn's or explicit positions."
        )
    found: list[tuple[int, int]] = []
    for start, stop in _bounds(positions, prompt_length, turns):
        found += _chosen(positions, start, stop)
    return tuple(sorted(found))


def require_served(positions: Positions) -> None:
    """Raise ``PositionError`` for positions that no request can have: ``spans_of`` would refuse them whatever it is."""
    if positions.each or positions.role not in (*IN_TURNS, "prompt", ""):
        spans_of(positions, 1)


def needs_turns(positions: Positions) -> bool:
    """Whether they are told by the turns of a conversation."""
    return positions.role in IN_TURNS


class TokenWeights:
    """The weight of every token of one request, for one update or a product of several.

    Args:
        whens: positions and schedule of each factor of the product.
        prompt_length: how many tokens the prompt has.
        turns: of the prompt's conversation, in order.

    Raises:
        PositionError: as ``spans_of``.
    """

    def __init__(
        self, whens: Iterable[tuple[Positions, Schedule]], prompt_length: int, turns: Sequence[Turn] = ()
    ) -> None:
        self.prompt_length = prompt_length
        self.factors = [(spans_of(positions, prompt_length, turns), schedule) for positions, schedule in whens]

    @property
    def settled(self) -> tuple[int, float] | None:
        """From which token on every one has the same weight, and which; None where none is the last to change."""
        since, weight = 0, 1.0
        for spans, schedule in self.factors:
            since = max([since, *(edge for span in spans for edge in span if edge < FAR)])
            inside = any(stop >= FAR for _, stop in spans)
            last = schedule.settled if inside else 0
            if last is None:
                return None
            since = max(since, self.prompt_length + last) if last else since
            weight *= schedule.factor(last) if inside else 0.0
        return since, weight

    def of(self, start: int, stop: int) -> ndarray:
        """Weights of the tokens ``start .. stop``, ``[stop - start]``, float64."""
        import numpy as np

        weights = np.ones(stop - start)
        for spans, schedule in self.factors:
            inside = np.zeros(stop - start)
            for low, high in spans:
                inside[max(low - start, 0) : max(min(high, stop) - start, 0)] = 1.0
            if not schedule.is_constant:
                places = np.arange(start, stop) - self.prompt_length
                # All of a prompt's tokens have the first factor.
                inside *= [schedule.factor(int(place)) for place in places]
            weights *= inside
        return weights


def _bounds(positions: Positions, prompt_length: int, turns: Sequence[Turn]) -> list[tuple[int, int]]:
    """The tokens of a role, before any choice among them."""
    if positions.role == "all":
        return [(0, FAR)]
    if positions.role in ("prompt", ""):
        return [(0, prompt_length)]
    if positions.role in BEHIND:
        return [(prompt_length, FAR)]
    if not turns:
        raise PositionError(
            f"Positions '{positions}' need the places of the conversation's turns, and the request names none. Send "
            "messages, or choose positions such as prompt or an index."
        )
    if positions.role == "post_instruction":
        begun = [start for role, start, _ in turns if role == PREFIX]
        return [(_meant(positions, turns)[0][1], begun[0] if begun else prompt_length)]
    return _meant(positions, turns)


def _meant(positions: Positions, turns: Sequence[Turn]) -> list[tuple[int, int]]:
    role, turn = (positions.role, positions.turn) if positions.role in (*TURNS, PREFIX) else ("user", -1)
    said = [(start, stop) for own, start, stop in turns if own == role]
    meant = said if turn is None else said[turn : turn + 1 or None]
    if not meant:
        there = f"only {len(said)} of its turns {agreeing(len(said))}" if said else "none of its turns is"
        raise PositionError(f"Positions '{positions}': in the request's conversation {there} the {role}'s.")
    return meant


def _chosen(positions: Positions, start: int, stop: int) -> list[tuple[int, int]]:
    edges = (*positions.indices, *(edge for edge in positions.span or () if edge is not None))
    if stop == FAR and any(edge < 0 for edge in edges):
        raise PositionError(f"Positions '{positions}' count from an end that isn't known while tokens are generated.")
    if positions.indices:
        places = [(start if index >= 0 else stop) + index for index in positions.indices]
        if any(not start <= place < stop for place in places):
            raise PositionError(
                f"Positions '{positions}': the request has only {counted(stop - start, 'token')} of that role."
            )
        return [(place, place + 1) for place in places]
    if positions.span is None:
        return [(start, stop)]
    first, last = positions.span
    low = start if first is None else max((start if first >= 0 else stop) + first, start)
    high = stop if last is None else min((start if last >= 0 else stop) + last, stop)
    return [(low, high)]
