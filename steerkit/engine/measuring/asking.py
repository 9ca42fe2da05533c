"""Questions to something slow outside, such as a judge: asked in one place, again where that is worth it, kept on disk.

An answer is kept by who asks, with what options, and by the text, so that it is asked for once, whatever
else a run holds. Which questions a budget leaves out follows from their order alone, never from what is kept already.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Protocol

from steerkit.api.evaluator import Evaluator
from steerkit.engine.parallel.group import first_tells
from steerkit.errors import PluginError, SteerkitError, TryAgainError, counted

TRIES: Final = 6
FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 60.0


@dataclass(frozen=True)
class Answers:
    """What came back.

    Args:
        by_example: per example one answer for each question, None where there is none.
        asked: how many distinct questions were within the budget.
        tokens: what these take of a budget of tokens.
        unanswered: how many distinct questions stay without an answer although they were asked.
        beyond_budget: how many distinct questions were not asked.
        budget: of what there was no more.
        trouble: why questions stay without an answer, as far as it is known.
    """

    by_example: tuple[tuple[str | None, ...], ...]
    asked: int = 0
    unanswered: int = 0
    beyond_budget: int = 0
    trouble: str = ""
    tokens: int = 0
    budget: str = "calls"

    @property
    def note(self) -> str:
        """What a reader must know; empty where all was answered."""
        why = f" ({self.trouble})" if self.trouble else ""
        parts = [f"{counted(self.unanswered, 'question')} stayed without an answer{why}"] if self.unanswered else []
        parts += [f"{self.beyond_budget} were beyond the budget of {self.budget}"] if self.beyond_budget else []
        return f"{' and '.join(parts)}." if parts else ""


class Kept(Protocol):
    """Answers that were got before, by who asked and what."""

    def get(self, asker: str, question: str) -> str | None:
        """The answer to a question that was kept, or None."""
        ...

    def put(self, asker: str, question: str, answer: str) -> None:
        """Keep an answer to a question."""
        ...


def asker_of(evaluator: Evaluator[Any]) -> str:
    """Who asks: the evaluator's class with the options that its answers depend on. A name that a recipe gives it plays
    no part."""
    kind = type(evaluator)
    named = None if kind.asked_with is None else set(kind.asked_with)
    options = json.dumps(evaluator.options.model_dump(mode="json", include=named), sort_keys=True)
    return f"{kind.__module__}:{kind.__qualname__} {options}"


def answer(
    evaluator: Evaluator[Any],
    questions: Sequence[Sequence[str]],
    *,
    budget: int,
    tokens: int | None = None,
    kept: Kept | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Answers:
    """Have an evaluator's questions answered: by one process, where several run the model together.

    Args:
        evaluator: asks.
        questions: per example.
        budget: most distinct questions; those behind stay unanswered, whether an answer is kept or not.
        tokens: most tokens of these and their answers (``Evaluator.tokens_of``); the first question that is too many,
            and those behind, stay unanswered. None: any number.
        kept: answers on disk.
        sleep: waits so many seconds between two tries.

    Raises:
        PluginError: for an error other than ``TryAgainError``, and for answers that are no texts, or not one each.
    """
    return first_tells(lambda: _answered(evaluator, questions, budget, tokens, kept, sleep))


def _answered(
    evaluator: Evaluator[Any],
    questions: Sequence[Sequence[str]],
    budget: int,
    tokens: int | None,
    kept: Kept | None,
    sleep: Callable[[float], None],
) -> Answers:
    asker = asker_of(evaluator)
    distinct = list(dict.fromkeys(question for one in questions for question in one))
    asked, took = _within(evaluator, distinct[:budget], tokens)
    known = {question: found for question in asked if kept and (found := kept.get(asker, question)) is not None}
    open_ones = [question for question in asked if question not in known]
    step = max(1, evaluator.questions_at_once)
    trouble = ""
    for start in range(0, len(open_ones), step):
        batch = open_ones[start : start + step]
        answers, why = _ask(evaluator, batch, sleep)
        trouble = trouble or why
        for question, found in zip(batch, answers, strict=True):
            if found is None:
                continue
            known[question] = found
            if kept is not None:
                kept.put(asker, question, found)
    by_example = tuple(tuple(known.get(question) for question in one) for one in questions)
    short = "calls" if len(asked) == budget else "tokens"
    return Answers(by_example, len(asked), len(asked) - len(known), len(distinct) - len(asked), trouble, took, short)


def _within(evaluator: Evaluator[Any], questions: Sequence[str], tokens: int | None) -> tuple[Sequence[str], int]:
    """The first questions that a budget of tokens allows, and what they take of it: all, where one was too many."""
    if tokens is None:
        return questions, 0
    sums = list(accumulate(map(evaluator.tokens_of, questions)))
    asked = bisect_right(sums, tokens)
    return questions[:asked], tokens if asked < len(sums) else sum(sums[-1:])


def _ask(
    evaluator: Evaluator[Any], batch: Sequence[str], sleep: Callable[[float], None]
) -> tuple[list[str | None], str]:
    """One call, tried again later and later for what is still open, and why something stays so at the end."""
    found: dict[str, str | None] = dict.fromkeys(batch)
    wait, trouble, left = FIRST_WAIT, "", list(batch)
    for attempt in range(TRIES):
        evaluator.trouble = ""
        try:
            found |= zip(left, _checked(evaluator, left, _call(evaluator, left)), strict=True)
            return [found[question] for question in batch], evaluator.trouble
        except TryAgainError as error:
            trouble = str(error)
            if error.answers:
                found |= zip(left, _checked(evaluator, left, error.answers), strict=True)
                left = [question for question in left if found[question] is None]
            if not left:
                return [found[question] for question in batch], ""
            if attempt < TRIES - 1:
                sleep(min(LONGEST_WAIT, wait if error.after is None else error.after))
            wait *= 2
    return [found[question] for question in batch], trouble


def _call(evaluator: Evaluator[Any], batch: Sequence[str]) -> Sequence[str | None]:
    try:
        return evaluator.ask(batch)
    except SteerkitError:
        raise
    except Exception as error:
        raise PluginError(
            f"{type(evaluator).__name__} failed to ask {counted(len(batch), 'question')}: {type(error).__name__}: "
            f"{error}. "
            "Raise steerkit.errors.TryAgainError from `ask` where it is worth trying again."
        ) from error


def _checked(evaluator: Evaluator[Any], batch: Sequence[str], answers: Sequence[str | None]) -> Sequence[str | None]:
    if len(answers) != len(batch) or not all(found is None or isinstance(found, str) for found in answers):
        name = type(evaluator).__name__
        raise PluginError(
            f"{name} was asked {counted(len(batch), 'question')}; its `ask` must give a text or None for each."
        )
    return answers
