"""Conformance of evaluators: ``EvaluatorSuite``.

from steerkit.testing import EvaluatorSuite
import my_package.entropy as plugin

class TestEntropy(EvaluatorSuite):
    plugin = plugin
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch

from steerkit.api.evaluator import Evaluator, Outputs, Score, Scored
from steerkit.api.hookspecs import EvaluatorSpec, Needs, Value
from steerkit.api.monitor import Readings
from steerkit.engine.measuring.scores import summarise
from steerkit.errors import counted
from steerkit.testing._suite import PluginSuite
from steerkit.types import Example, Message, Positions, Site, resolve_sites

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
        d_model: width of activations.
    """

    n: ClassVar[int] = 6
    vocabulary_size: ClassVar[int] = 40
    n_tokens: ClassVar[int] = 7
    d_model: ClassVar[int] = 8

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
        completed = needs.max_new_tokens > 0 and not needs.baseline_completions and not needs.samples
        examples = [self.example(row) for row in range(self.n)]
        return Outputs(
            texts=[f"text {index}" for index in range(self.n)],
            next_token_logits=next_token if needs.next_token_logits else None,
            sequence_logits=sequence if long else None,
            token_ids=ids if long else None,
            token_mask=mask if long else None,
            completions=list(self.completions()) if completed else None,
            baseline=baseline,
            examples=examples,
            samples=self._samples(needs) if needs.samples else None,
            activations=self._activations(needs, generator) if needs.activations else None,
            readings=self._readings(needs, generator) if needs.monitors else None,
            answers=[["yes"] * self.n] * self.n if needs.calls else None,
            references=self._references(needs, generator) if needs.references else None,
        )

    def example(self, row: int) -> Example:
        """One of the examples; override it where labels or reference fields matter."""
        return Example((Message("user", f"text {row}"),), label=row % 2)

    def _samples(self, needs: Needs) -> list[list[str]]:
        texts = list(self.completions())
        return [[texts[(row + number) % self.n] for number in range(needs.samples)] for row in range(self.n)]

    def _activations(self, needs: Needs, generator: torch.Generator) -> dict[tuple[Site, Positions], list[Tensor]]:
        """Of width ``d_model``, two tokens each, at the sites of a model of four layers."""
        keys = [
            (site, Positions.parse(positions))
            for written, positions in needs.activations
            for site in resolve_sites(written, 4)
        ]
        return {key: [torch.randn(2, self.d_model, generator=generator) for _ in range(self.n)] for key in keys}

    def _references(self, needs: Needs, generator: torch.Generator) -> dict[str, Outputs]:
        """The unsteered model's activations for as many other examples."""
        texts = [f"other text {index}" for index in range(self.n)]
        return {name: Outputs(texts, activations=self._activations(needs, generator)) for name in needs.references}

    def _readings(self, needs: Needs, generator: torch.Generator) -> dict[str, list[Readings]]:
        names = ("monitor",) if isinstance(needs.monitors, bool) else needs.monitors
        found: dict[str, list[Readings]] = {}
        for name in names:
            rows = torch.randn(self.n, 5, generator=generator).tolist()
            found[name] = [Readings(tuple(row), tuple(range(5)), 3, max(row), max(row) > 1) for row in rows]
        return found

    def test_needs_something(self) -> None:
        """An evaluator that sees nothing measures nothing."""
        needs = self.needs()
        seen = needs.next_token_logits or needs.sequence_logits or needs.max_new_tokens > 0
        assert seen or needs.activations or needs.monitors, (
            "The spec's needs name no logits, no completions, no activations and no monitors."
        )

    def test_derived_names_are_those_of_the_spec(self) -> None:
        """A recipe is checked by the spec's ``derived``, and records are named by the class's."""
        assert set(self.spec().derived) == set(self.evaluator().derived), (
            f"The spec derives {sorted(self.spec().derived)}, and the class {sorted(self.evaluator().derived)}."
        )

    def test_one_finite_score_per_example(self) -> None:
        """In order, as plain floats, from nothing but what the spec needs."""
        scores = self.evaluator().score(self.outputs())
        assert len(scores) == self.n, f"{counted(len(scores), 'score')} for {counted(self.n, 'example')}."
        for score in (one for scored in scores for one in _named(scored).values()):
            assert isinstance(score, Score) and type(score.value) is float, "Scores hold plain floats."
            assert math.isfinite(score.value) and math.isfinite(score.weight) and score.weight >= 0

    def test_values_are_those_of_the_spec(self) -> None:
        """A recipe is checked by the names that the spec declares, and records are named by what comes."""
        spec, scores = self.spec(), self.evaluator().score(self.outputs())
        names = {name for name, value in spec.values.items() if value.aggregate != "whole"}
        for scored in scores:
            own = set() if isinstance(scored, Score) else set(scored)
            assert own == names or (isinstance(scored, Score) and names <= {spec.name}), (
                f"The spec declares {sorted(names)} per example, and an example has {sorted(own)}."
            )

    def test_whole_values_follow_from_scores_in_any_order(self) -> None:
        """Each that the spec declares is there, is a number, and doesn't depend on the order of examples."""
        wholes = {name for name, value in self.spec().values.items() if value.aggregate == "whole"}
        if not wholes:
            pytest.skip("has no value of the whole set")
        evaluator, outputs = self.evaluator(), self.outputs()
        scores = [_named(scored) for scored in evaluator.score(outputs)]
        found = type(evaluator).whole(evaluator.options, outputs.examples, scores)
        assert set(found) == wholes, f"The spec declares {sorted(wholes)}, and `whole` gives {sorted(found)}."
        assert all(math.isfinite(value) for value in found.values())
        turned = type(evaluator).whole(evaluator.options, list(outputs.examples)[::-1], scores[::-1])
        assert all(math.isclose(turned[name], value, abs_tol=1e-9) for name, value in found.items())

    def test_an_unanswered_question_is_no_score(self) -> None:
        """Where nothing came back, the score is NaN, never 0."""
        if not self.needs().calls:
            pytest.skip("asks nothing")
        outputs, evaluator = self.outputs(), self.evaluator()
        questions = evaluator.questions(outputs)
        assert len(questions) == self.n, (
            f"{counted(len(questions), 'list')} of questions for {counted(self.n, 'example')}."
        )
        answers = [[None] * len(one) for one in questions]
        for scored, asked in zip(evaluator.score(replace(outputs, answers=answers)), questions, strict=True):
            if asked:
                assert all(math.isnan(one.value) for one in _named(scored).values()), "Unanswered, it has a score."

    def test_scores_can_be_summarised(self) -> None:
        """They fit the way in which the class says that they are aggregated."""
        evaluator, spec = self.evaluator(), self.spec()
        values = spec.values or {spec.name: Value(evaluator.unit, evaluator.aggregate)}
        scores = [_named(scored) for scored in evaluator.score(self.outputs())]
        for name, value in values.items():
            assert value.unit, f"Say the unit of {name}, as the report prints it."
            if value.aggregate == "whole":
                continue
            own = [scored.get(name, scored.get("", Score(math.nan))) for scored in scores]
            summary = summarise(own, value.aggregate)
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
        if self.needs().references:
            pytest.skip("is shown all examples at once")
        outputs, evaluator = self.outputs(), self.evaluator()
        whole = _pairs(evaluator.score(outputs))
        for cut in range(1, self.n):
            head, tail = outputs.select(range(cut)), outputs.select(range(cut, self.n))
            parts = _pairs([*evaluator.score(head), *evaluator.score(tail)])
            assert _close(parts, whole), f"Cut at {cut}, the scores are {parts} and not {whole}."

    def test_scores_follow_the_order_of_examples(self) -> None:
        """Reversed examples give reversed scores."""
        outputs = self.outputs()
        turned = self.evaluator().score(outputs.select(range(self.n - 1, -1, -1)))
        assert _close(_pairs(list(turned)[::-1]), _pairs(self.evaluator().score(outputs)))

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
        before = self.evaluator().score(outputs)
        for name in ("next_token_logits", "sequence_logits"):
            value = getattr(which, name)
            if value is not None:
                value[1] = float("nan")
        after = self.evaluator().score(outputs)
        values = [value for value, _ in _pairs([after[1]])]
        assert any(map(math.isnan, values)), f"An example whose logits are NaN scores {values}."
        others = [index for index in range(self.n) if index != 1]
        assert _close(_pairs([after[index] for index in others]), _pairs([before[index] for index in others]))

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
        assert all(one.weight == 0 for one in _named(self.evaluator().score(outputs)[2]).values())


def _pairs(scores: Sequence[Scored]) -> list[tuple[float, float]]:
    """Value and weight of every score, example by example, several of one in the order of their names."""
    return [(one.value, one.weight) for scored in scores for _, one in sorted(_named(scored).items())]


def _named(scored: Scored) -> Mapping[str, Score]:
    return {"": scored} if isinstance(scored, Score) else scored


def _close(found: Sequence[tuple[float, float]], expected: Sequence[tuple[float, float]]) -> bool:
    return len(found) == len(expected) and all(
        math.isclose(mine, theirs, rel_tol=1e-6, abs_tol=1e-9)
        for one, other in zip(found, expected, strict=True)
        for mine, theirs in zip(one, other, strict=True)
    )
