"""Conformance of evaluators: ``EvaluatorSuite``.

from steerkit.testing import EvaluatorSuite
import my_package.entropy as plugin

class TestEntropy(EvaluatorSuite):
    plugin = plugin
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch

from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit.api.hookspecs import EvaluatorSpec, Needs
from steerkit.engine.measuring.scores import summarise
from steerkit.testing._suite import PluginSuite

if TYPE_CHECKING:
    from torch import Tensor

TENSORS = ("next_token_logits", "sequence_logits", "token_ids", "token_mask")


class FakeVocabulary:
    """A vocabulary of ``size`` tokens in which every text that is asked for begins with a token of its own."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: dict[str, int] = {}

    def token_id(self, text: str) -> int:
        """The text's own id, counted from 1 in the order of asking."""
        return self._known.setdefault(text, len(self._known) + 1)

    @property
    def size(self) -> int:
        """Number of logits."""
        return self._size


class EvaluatorSuite(PluginSuite[EvaluatorSpec]):
    """Inherit it, and set ``plugin``. Outputs are random; override ``completions`` where texts matter.

    Class attributes:
        n: examples of a batch.
        vocabulary_size: number of logits.
        n_tokens: tokens of a row, of which the first and a last part don't count.
    """

    _hook: ClassVar[str] = "steerkit_evaluators"
    n: ClassVar[int] = 6
    vocabulary_size: ClassVar[int] = 40
    n_tokens: ClassVar[int] = 7

    def evaluator(self) -> Evaluator[Any]:
        """The evaluator under test."""
        made = self.implementation()(self.options(), FakeVocabulary(self.vocabulary_size))
        assert isinstance(made, Evaluator), "Derive the implementation from steerkit.api.evaluator.Evaluator."
        return made

    def needs(self) -> Needs:
        """What the spec says that it must see."""
        return self.spec().needs(self.options())

    def completions(self) -> Sequence[str]:
        """Completions, one of them empty; ``n`` in number."""
        texts = ["Certainly, here it is.", "", "I'm sorry, but no.", "Yes.", "日本語", "I can't do that.\n\nReally."]
        return [texts[index % len(texts)] for index in range(self.n)]

    def outputs(self) -> Outputs:
        """Random outputs that hold what the spec needs and nothing else."""
        needs = self.needs()
        return self._outputs(needs, 1, self._outputs(needs, 2) if needs.baseline else None)

    def _outputs(self, needs: Needs, seed: int, baseline: Outputs | None = None) -> Outputs:
        generator = torch.Generator().manual_seed(seed)
        shape = (self.n, self.n_tokens)
        long = needs.sequence_logits
        mask = torch.zeros(shape, dtype=torch.bool)
        for row in range(self.n):
            mask[row, 1 : self.n_tokens - row % 3] = True
        next_token = 3 * torch.randn(self.n, self.vocabulary_size, generator=generator)
        sequence = 3 * torch.randn(*shape, self.vocabulary_size, generator=generator)
        ids = torch.randint(0, self.vocabulary_size, shape, generator=generator)
        completed = needs.max_new_tokens > 0 and not needs.baseline_completions
        return Outputs(
            texts=[f"text {index}" for index in range(self.n)],
            next_token_logits=next_token if needs.next_token_logits else None,
            sequence_logits=sequence if long else None,
            token_ids=ids if long else None,
            token_mask=mask if long else None,
            completions=list(self.completions()) if completed else None,
            baseline=baseline,
        )

    def test_needs_something(self) -> None:
        """An evaluator that sees nothing measures nothing."""
        needs = self.needs()
        assert needs.next_token_logits or needs.sequence_logits or needs.max_new_tokens > 0, (
            "The spec's needs name no next-token logits, no sequence logits and no completions."
        )

    def test_derived_names_are_those_of_the_spec(self) -> None:
        """A recipe is checked by the spec's ``derived``, and records are named by the class's."""
        assert set(self.spec().derived) == set(self.evaluator().derived), (
            f"The spec derives {sorted(self.spec().derived)}, and the class {sorted(self.evaluator().derived)}."
        )

    def test_one_finite_score_per_example(self) -> None:
        """In order, as plain floats, from nothing but what the spec needs."""
        scores = self.evaluator().score(self.outputs())
        assert len(scores) == self.n, f"{len(scores)} scores for {self.n} examples."
        for score in scores:
            assert isinstance(score, Score) and type(score.value) is float, "Scores hold plain floats."
            assert math.isfinite(score.value) and math.isfinite(score.weight) and score.weight >= 0

    def test_scores_can_be_summarised(self) -> None:
        """They fit the way in which the class says that they are aggregated."""
        evaluator = self.evaluator()
        assert evaluator.unit, "Say the unit, as the report prints it."
        summary = summarise(evaluator.score(self.outputs()), evaluator.aggregate)
        assert summary.value is not None and summary.ci_low is not None and summary.ci_high is not None
        assert summary.ci_low <= summary.value <= summary.ci_high

    def test_derived_values_are_monotone(self) -> None:
        """The interval's ends go through them, so they keep or turn its order."""
        for name, function in self.evaluator().derived.items():
            values = [function(value) for value in (0.25, 0.5, 1.0, 2.0)]
            assert values in (sorted(values), sorted(values, reverse=True)), f"{name} isn't monotone."

    def test_is_deterministic(self) -> None:
        """The same outputs give the same scores, also from a new evaluator."""
        first = self.evaluator().score(self.outputs())
        torch.rand(3)  # whoever draws from the global generator differs now
        assert _pairs(first) == _pairs(self.evaluator().score(self.outputs()))

    def test_batches_can_be_cut_anywhere(self) -> None:
        """An example's score doesn't depend on its company."""
        outputs, evaluator = self.outputs(), self.evaluator()
        whole = _pairs(evaluator.score(outputs))
        for cut in range(1, self.n):
            head, tail = _rows(outputs, range(cut)), _rows(outputs, range(cut, self.n))
            parts = _pairs([*evaluator.score(head), *evaluator.score(tail)])
            assert _close(parts, whole), f"Cut at {cut}, the scores are {parts} and not {whole}."

    def test_scores_follow_the_order_of_examples(self) -> None:
        """Reversed examples give reversed scores."""
        outputs = self.outputs()
        turned = self.evaluator().score(_rows(outputs, range(self.n - 1, -1, -1)))
        assert _close(_pairs(turned)[::-1], _pairs(self.evaluator().score(outputs)))

    def test_leaves_its_input_alone(self) -> None:
        """Outputs are shared by all evaluators of a run."""
        outputs = self.outputs()
        self.evaluator().score(outputs)
        for given, untouched in ((outputs, self.outputs()), (outputs.baseline, self.outputs().baseline)):
            for name in TENSORS:
                old, new = getattr(untouched, name, None), getattr(given, name, None)
                assert old is None or (new is not None and torch.equal(old, new)), f"The evaluator wrote into {name}."
        assert outputs.completions == self.outputs().completions, "The evaluator wrote into completions."

    @pytest.mark.parametrize("of", ["steered", "baseline"])
    def test_nan_in_nan_out(self, of: str) -> None:
        """An example whose logits are NaN scores NaN, never 0, and its neighbours keep their scores."""
        outputs = self.outputs()
        which = outputs if of == "steered" else outputs.baseline
        if which is None or (which.next_token_logits is None and which.sequence_logits is None):
            pytest.skip(f"sees no logits of the {of} model")
        before = _pairs(self.evaluator().score(outputs))
        for name in ("next_token_logits", "sequence_logits"):
            value = getattr(which, name)
            if value is not None:
                value[1] = float("nan")
        after = _pairs(self.evaluator().score(outputs))
        assert math.isnan(after[1][0]), f"An example whose logits are NaN scores {after[1][0]}."
        others = [index for index in range(self.n) if index != 1]
        assert _close([after[index] for index in others], [before[index] for index in others])

    def test_masked_tokens_do_not_count(self) -> None:
        """What stands at padding and at prompt tokens, NaN included, changes no score."""
        outputs = self.outputs()
        if outputs.sequence_logits is None or outputs.token_mask is None or outputs.token_ids is None:
            pytest.skip("sees no sequences")
        before = _pairs(self.evaluator().score(outputs))
        outputs.sequence_logits[~outputs.token_mask] = float("nan")
        outputs.token_ids[~outputs.token_mask] = 0
        assert _close(_pairs(self.evaluator().score(outputs)), before)

    def test_a_text_without_tokens_weighs_nothing(self) -> None:
        """Where no token counts, the weight is 0: neither an error nor a score of 0."""
        outputs = self.outputs()
        if outputs.token_mask is None:
            pytest.skip("sees no sequences")
        outputs.token_mask[2] = False
        assert self.evaluator().score(outputs)[2].weight == 0


def _rows(outputs: Outputs, rows: range) -> Outputs:
    """Some of the examples, in the order of ``rows``."""

    def some(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[list(rows)]

    return Outputs(
        texts=[outputs.texts[row] for row in rows],
        next_token_logits=some(outputs.next_token_logits),
        sequence_logits=some(outputs.sequence_logits),
        token_ids=some(outputs.token_ids),
        token_mask=some(outputs.token_mask),
        completions=None if outputs.completions is None else [outputs.completions[row] for row in rows],
        baseline=None if outputs.baseline is None else _rows(outputs.baseline, rows),
        examples=[outputs.examples[row] for row in rows],
    )


def _pairs(scores: Sequence[Score]) -> list[tuple[float, float]]:
    return [(score.value, score.weight) for score in scores]


def _close(found: Sequence[tuple[float, float]], expected: Sequence[tuple[float, float]]) -> bool:
    return len(found) == len(expected) and all(
        math.isclose(mine, theirs, rel_tol=1e-6, abs_tol=1e-9)
        for one, other in zip(found, expected, strict=True)
        for mine, theirs in zip(one, other, strict=True)
    )
