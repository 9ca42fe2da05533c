"""The suite of evaluators covers all that evaluators may need and give, and catches who breaks that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

import pytest

from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit.api.hookspecs import CONTRACT, EvaluatorSpec, Needs, NoOptions, Value
from steerkit.testing import EvaluatorSuite
from steerkit.types import Example

NEEDS = Needs(
    next_token_logits=True,
    max_new_tokens=4,
    samples=2,
    baseline=True,
    activations=(("blocks.*.resid_post", "-1"),),
    monitors=("harm",),
    calls=9,
)
VALUES = {"odd": Value("points", "whole"), "mine": Value("points"), "agreed": Value("fraction", "proportion")}


class Greedy(Evaluator[NoOptions]):
    """Uses all that there is."""

    def questions(self, outputs: Outputs) -> Sequence[Sequence[str]]:
        return [(f"rate {text}",) for text in outputs.texts]

    def ask(self, questions: Sequence[str]) -> Sequence[str | None]:
        return ["yes"] * len(questions)

    def score(self, outputs: Outputs) -> Sequence[Mapping[str, Score]]:
        assert outputs.next_token_logits is not None and outputs.samples is not None
        assert outputs.activations is not None and outputs.readings is not None and outputs.answers is not None
        assert outputs.baseline is not None and outputs.baseline.samples is not None
        assert outputs.baseline.next_token_logits is not None
        found = []
        for row in range(len(outputs.texts)):
            total = float(outputs.next_token_logits[row].double().sum()) + len(outputs.samples[row])
            total += sum(float(rows[row].double().sum()) for rows in outputs.activations.values())
            total -= float(outputs.baseline.next_token_logits[row].double().max())
            total += outputs.readings["harm"][row].peak + len(outputs.baseline.samples[row])
            answer = outputs.answers[row][0]
            said = math.nan if answer is None else float(answer == "yes")
            found.append({"mine": Score(total if answer is not None else math.nan), "agreed": Score(said)})
        return found

    @classmethod
    def whole(
        cls, options: NoOptions, examples: Sequence[Example], scores: Sequence[Mapping[str, Score]]
    ) -> Mapping[str, float]:
        odd = [score["mine"].value for example, score in zip(examples, scores, strict=True) if example.label]
        return {"odd": math.fsum(odd)}


def plugin(values: Mapping[str, Value] = VALUES) -> ModuleType:
    made = ModuleType("made_up")
    made.STEERKIT_CONTRACT = CONTRACT  # type: ignore[attr-defined]
    where = f"{__name__}:Greedy"
    spec = EvaluatorSpec("greedy", "All at once.", where, NoOptions, needs=lambda options: NEEDS, values=values)
    made.steerkit_evaluators = lambda: [spec]  # type: ignore[attr-defined]
    return made


class TestGreedy(EvaluatorSuite):
    plugin = plugin()
    test_module_imports_no_torch: ClassVar[None] = None  # type: ignore[assignment]  # no module of its own
    test_no_check_was_weakened: ClassVar[None] = None  # type: ignore[assignment]


def suite(kind: type[Greedy], values: Mapping[str, Value] = VALUES) -> EvaluatorSuite:
    made = plugin(values)

    class Suite(EvaluatorSuite):
        plugin = made

        def implementation(self) -> type[Any]:
            return kind

    return Suite()


class Hopeful(Greedy):
    """Takes silence for a no."""

    def score(self, outputs: Outputs) -> Sequence[Mapping[str, Score]]:
        return [
            {name: one if math.isfinite(one.value) else Score(0.0) for name, one in scored.items()}
            for scored in super().score(outputs)
        ]


class Last(Greedy):
    """Looks at the order of examples."""

    @classmethod
    def whole(
        cls, options: NoOptions, examples: Sequence[Example], scores: Sequence[Mapping[str, Score]]
    ) -> Mapping[str, float]:
        return {"odd": scores[-1]["mine"].value}


class Nameless(Greedy):
    @classmethod
    def whole(
        cls, options: NoOptions, examples: Sequence[Example], scores: Sequence[Mapping[str, Score]]
    ) -> Mapping[str, float]:
        return {}


@pytest.mark.parametrize(
    ("made", "check"),
    [
        (suite(Hopeful), "test_an_unanswered_question_is_no_score"),
        (suite(Last), "test_whole_values_follow_from_scores_in_any_order"),
        (suite(Nameless), "test_whole_values_follow_from_scores_in_any_order"),
        (suite(Greedy, {**VALUES, "more": Value("points")}), "test_values_are_those_of_the_spec"),
        (suite(Greedy, {"mine": Value("points")}), "test_values_are_those_of_the_spec"),
        (suite(Greedy, {**VALUES, "mine": Value()}), "test_scores_can_be_summarised"),
    ],
)
def test_who_breaks_the_contract_is_caught(made: EvaluatorSuite, check: str) -> None:
    with pytest.raises(AssertionError):
        getattr(made, check)()
