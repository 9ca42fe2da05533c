"""Questions to a judge that is slow and fails: each asked once, again where that helps, never beyond a budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit.api.hookspecs import NoOptions, Options
from steerkit.artifacts.answers import AnswersOnDisk
from steerkit.engine.measuring.asking import TRIES, answer, asker_of
from steerkit.errors import PluginError, TryAgainError
from steerkit.testing.evaluator import FakeVocabulary


class JudgeOptions(Options):
    style: str = "short"


class Judge(Evaluator[JudgeOptions]):
    """Answers in capitals; fails as often as it is told to."""

    questions_at_once = 2

    def __init__(self, failures: int = 0, style: str = "short", after: float | None = None) -> None:
        super().__init__(JudgeOptions(style=style), FakeVocabulary(4))
        self.failures, self.after = failures, after
        self.calls: list[list[str]] = []

    def score(self, outputs: Outputs) -> Sequence[Score]:
        return [Score(0.0) for _ in outputs.texts]

    def ask(self, questions: Sequence[str]) -> Sequence[str | None]:
        self.calls.append(list(questions))
        if self.failures:
            self.failures -= 1
            raise TryAgainError("too many requests", self.after)
        return [None if "?" in question else question.upper() for question in questions]


QUESTIONS = (("a", "b"), (), ("b",), ("c",))


def test_a_budget_of_tokens_ends_at_the_first_question_that_is_too_many(tmp_path: Path) -> None:
    kept, texts = AnswersOnDisk(tmp_path), [("four",), ("of eight",), ("of twelve...",), ("x",)]
    assert [Judge().tokens_of(text) for (text,) in texts] == [1, 2, 3, 1]
    for tokens, asked in ((0, 0), (2, 1), (3, 2), (5, 2), (6, 3), (7, 4)):
        found = answer(Judge(), texts, budget=9, tokens=tokens, kept=kept)
        answered = [one is not None for (one,) in found.by_example]
        assert answered == [True] * asked + [False] * (4 - asked), "whatever is kept already"
        assert found.tokens == tokens, "nothing behind is asked by another part of the same data either"
        assert bool(found.note) == (asked < 4) and "beyond the budget of calls" not in found.note
    assert "2 were beyond the budget of tokens" in answer(Judge(), texts, budget=9, tokens=5).note
    assert "3 were beyond the budget of calls" in answer(Judge(), texts, budget=1, tokens=5).note


def test_equal_questions_are_asked_once_in_batches() -> None:
    judge = Judge()
    found = answer(judge, QUESTIONS, budget=10)
    assert found.by_example == (("A", "B"), (), ("B",), ("C",))
    assert judge.calls == [["a", "b"], ["c"]]
    assert not found.note


def test_a_failure_is_tried_again_later_and_later() -> None:
    waits: list[float] = []
    judge = Judge(failures=3)
    assert answer(judge, [("a",)], budget=1, sleep=waits.append).by_example == (("A",),)
    assert waits == [1.0, 2.0, 4.0]
    waits.clear()
    assert answer(Judge(failures=1, after=7.5), [("a",)], budget=1, sleep=waits.append).by_example == (("A",),)
    assert waits == [7.5]


def test_what_stays_unanswered_is_none_and_counted(tmp_path: Path) -> None:
    waits: list[float] = []
    judge, kept = Judge(failures=TRIES), AnswersOnDisk(tmp_path)
    found = answer(judge, [("a", "b"), ("c?",), ("d",)], budget=10, kept=kept, sleep=waits.append)
    assert found.by_example == ((None, None), (None,), ("D",))
    assert found.unanswered == 3 and "3 questions stayed without an answer" in found.note
    assert len(waits) == TRIES - 1
    again = answer(Judge(), [("a", "b"), ("c?",), ("d",)], budget=10, kept=kept)
    assert again.by_example == (("A", "B"), (None,), ("D",)), "no failure is kept"


def test_answers_are_kept_by_who_asks_with_what_options(tmp_path: Path) -> None:
    kept = AnswersOnDisk(tmp_path)
    answer(Judge(), QUESTIONS, budget=10, kept=kept)
    later, other = Judge(), Judge(style="long")
    assert answer(later, QUESTIONS, budget=10, kept=kept).by_example == (("A", "B"), (), ("B",), ("C",))
    assert later.calls == []
    answer(other, QUESTIONS, budget=10, kept=kept)
    assert other.calls == [["a", "b"], ["c"]]
    file = kept.path(asker_of(later), "a")
    file.write_text("{")
    damaged = Judge()
    assert answer(damaged, [("a",)], budget=1, kept=kept).by_example == (("A",),)
    assert damaged.calls == [["a"]] and kept.get(asker_of(damaged), "a") == "A"


def test_a_budget_leaves_out_the_same_questions_whatever_is_kept(tmp_path: Path) -> None:
    kept = AnswersOnDisk(tmp_path)
    first = answer(Judge(), QUESTIONS, budget=2, kept=kept)
    assert first.by_example == (("A", "B"), (), ("B",), (None,))
    assert first.beyond_budget == 1 and "beyond the budget" in first.note
    judge = Judge()
    assert answer(judge, QUESTIONS, budget=2, kept=kept) == first
    assert judge.calls == [], "nothing is spent on what is known, and nothing more is asked"


def test_a_judge_that_breaks_its_contract_is_named() -> None:
    class Broken(Judge):
        def ask(self, questions: Sequence[str]) -> Sequence[str | None]:
            raise OSError("no route")

    class Short(Judge):
        def ask(self, questions: Sequence[str]) -> Sequence[str | None]:
            return []

    class Silent(Evaluator[NoOptions]):
        def score(self, outputs: Outputs) -> Sequence[Score]:
            return []

    with pytest.raises(PluginError, match=r"Broken failed to ask .*TryAgainError"):
        answer(Broken(), [("a",)], budget=1)
    with pytest.raises(PluginError, match="a text or None for each"):
        answer(Short(), [("a",)], budget=1)
    with pytest.raises(PluginError, match="no `ask`"):
        answer(Silent(NoOptions(), FakeVocabulary(2)), [("a",)], budget=1)


class Halting(Judge):
    """Answers the first question that is open at each call, and then asks to come back."""

    questions_at_once = 3

    def ask(self, questions: Sequence[str]) -> Sequence[str | None]:
        self.calls.append(list(questions))
        if len(questions) == 1:
            return [questions[0].upper()]
        raise TryAgainError("slow down", 0.5, [questions[0].upper(), *[None] * (len(questions) - 1)])


def test_what_came_all_the_same_is_not_asked_for_again(tmp_path: Path) -> None:
    judge, kept = Halting(), AnswersOnDisk(tmp_path)
    found = answer(judge, [("a", "b", "c")], budget=9, kept=kept, sleep=lambda seconds: None)
    assert found.by_example == (("A", "B", "C"),) and not found.note
    assert judge.calls == [["a", "b", "c"], ["b", "c"], ["c"]]


def test_where_it_never_ends_what_came_is_kept_and_the_note_says_why(tmp_path: Path) -> None:
    class Stuck(Judge):
        def ask(self, questions: Sequence[str]) -> Sequence[str | None]:
            raise TryAgainError("out of breath", 0, [None if item == "b" else item.upper() for item in questions])

    kept = AnswersOnDisk(tmp_path)
    found = answer(Stuck(), [("a", "b")], budget=9, kept=kept, sleep=lambda seconds: None)
    assert found.by_example == (("A", None),) and found.unanswered == 1
    assert found.note == "1 question stayed without an answer (out of breath)."
    assert kept.get(asker_of(Stuck()), "a") == "A"


def test_partial_answers_are_one_per_question_too() -> None:
    class Short(Judge):
        def ask(self, questions: Sequence[str]) -> Sequence[str | None]:
            raise TryAgainError("later", 0, ["A"])

    with pytest.raises(PluginError, match="was asked 2 questions"):
        answer(Short(), [("a", "b")], budget=9, sleep=lambda seconds: None)


def test_an_evaluator_may_say_what_troubled_it() -> None:
    class Refused(Judge):
        def ask(self, questions: Sequence[str]) -> Sequence[str | None]:
            self.trouble = "nobody listens"
            return [None] * len(questions)

    assert "without an answer (nobody listens)." in answer(Refused(), [("a",)], budget=9).note


def test_answers_are_kept_by_the_options_that_they_depend_on(tmp_path: Path) -> None:
    class Free(Judge):
        asked_with = ()

    kept = AnswersOnDisk(tmp_path)
    answer(Free(), QUESTIONS, budget=10, kept=kept)
    later = Free(style="long")
    answer(later, QUESTIONS, budget=10, kept=kept)
    assert later.calls == []
