"""The suites must catch what they are for: each broken plugin here fails the check that names its fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import Field

import steerkit.testing
import steerkit_evaluators.kl_divergence
import steerkit_interventions.add
from steerkit.api.architecture import Layout
from steerkit.api.estimator import ClassStatistics, Estimator
from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit.api.hookspecs import EstimatorSpec, EvaluatorSpec, InterventionSpec, Needs, NoOptions, Options
from steerkit.api.intervention import Affine, Intervention, Pointwise
from steerkit.errors import DataError
from steerkit.testing import EstimatorSuite, EvaluatorSuite, InterventionSuite
from steerkit.types import Site

Check = Callable[[Any], None]


def module(hook: str, spec: Any) -> ModuleType:
    """A plugin's module, as an entry point would name it."""
    made = ModuleType("made_up")
    setattr(made, hook, lambda: [spec])
    return made


# Estimators


def estimator_suite(function: Callable[[ClassStatistics, ClassStatistics], torch.Tensor]) -> EstimatorSuite:
    class Made(Estimator[NoOptions]):
        def estimate(self, classes: Mapping[str, ClassStatistics]) -> torch.Tensor:
            for item in classes.values():
                if item.count < 1 or not bool(torch.isfinite(item.mean).all()):
                    raise DataError("empty or not finite")
            return function(classes["positive"], classes["negative"])

    class Suite(EstimatorSuite):
        plugin = module("steerkit_estimators", EstimatorSpec("made_up", "Made up.", "nowhere:Made"))

        def implementation(self) -> type[Any]:
            return Made

    return Suite()


def difference(positive: ClassStatistics, negative: ClassStatistics) -> torch.Tensor:
    return (positive.mean - negative.mean)[None]


def overwriting(positive: ClassStatistics, negative: ClassStatistics) -> torch.Tensor:
    return positive.mean.sub_(negative.mean)[None].clone()


BAD_ESTIMATORS: list[tuple[Any, str]] = [
    (lambda p, n: difference(p, n)[0], "test_gives_vectors_of_the_width"),
    (lambda p, n: difference(p, n).half(), "test_gives_vectors_of_the_width"),
    (lambda p, n: 0 * difference(p, n), "test_gives_vectors_of_the_width"),
    (lambda p, n: difference(p, n) + 1e-3 * torch.rand(1), "test_is_deterministic"),
    (lambda p, n: difference(n, p), "test_points_to_the_positive_class"),
    (lambda p, n: p.mean[None], "test_finds_a_planted_direction"),
    (overwriting, "test_leaves_its_input_alone"),
    (lambda p, n: p.mean[None], "test_result_is_its_own_memory"),
    (difference, "test_equal_classes_give_no_zero_direction"),
]


@pytest.mark.parametrize(("function", "check"), BAD_ESTIMATORS)
def test_a_bad_estimator_is_caught(function: Any, check: str) -> None:
    with pytest.raises(AssertionError):
        getattr(estimator_suite(function), check)()


@pytest.mark.parametrize("check", ["test_refuses_values_that_are_not_finite", "test_refuses_an_empty_class"])
def test_an_estimator_that_swallows_nan_is_caught(check: str) -> None:
    class Made(Estimator[NoOptions]):
        def estimate(self, classes: Mapping[str, ClassStatistics]) -> torch.Tensor:
            return torch.nan_to_num(difference(classes["positive"], classes["negative"]))

    suite = estimator_suite(difference)
    suite.implementation = lambda: Made  # type: ignore[method-assign]
    arguments = ("positive", float("nan")) if "finite" in check else ("positive",)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        getattr(suite, check)(*arguments)


# Interventions


class MadeOptions(Options):
    coefficient: float = Field(default=1.0, description="How much.")


def intervention_suite(
    update: Callable[[Any, Site], Any], default: Callable[[Any, Layout], Sequence[Site]] | None = None
) -> InterventionSuite:
    class Made(Intervention[MadeOptions]):
        def default_sites(self, layout: Layout) -> Sequence[Site]:
            return (self.direction.site,) if default is None else default(self, layout)

        def update(self, site: Site, layout: Layout) -> Any:
            return update(self, site)

    class Suite(InterventionSuite):
        plugin = module("steerkit_interventions", InterventionSpec("made_up", "M.", "nowhere:Made", MadeOptions))

        def implementation(self) -> type[Any]:
            return Made

        def definition(self, x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
            return x + vectors[0]

    return Suite()


def adding(made: Any, site: Site) -> Any:
    return Affine(bias=made.options.coefficient * made.direction.vectors[0])


def adding_in_place(made: Any, site: Site) -> Any:
    return Pointwise(lambda x: x.add_(made.direction.vectors[0]))


def remembering(made: Any, site: Site) -> Any:
    # Forgets that controls give another direction.
    kept = made.__class__.__dict__.get("kept")
    if kept is None:
        kept = made.direction.vectors[0].clone()
        made.__class__.kept = kept
    return Affine(bias=kept)


def bad_interventions() -> list[tuple[Any, Any, str]]:
    twice = Site("resid_pre", 0)
    return [
        (lambda made, site: Affine(bias=2 * made.direction.vectors[0]), None, "test_update_is_its_definition"),
        (lambda made, site: None, None, "test_update_is_its_definition"),
        (lambda made, site: Affine(bias=made.direction.vectors), None, "test_affine_updates_are_well_formed"),
        (lambda made, site: Affine(reads=made.direction.vectors), None, "test_affine_updates_are_well_formed"),
        (adding_in_place, None, "test_leaves_its_input_alone"),
        (adding, lambda made, layout: (twice, twice), "test_default_sites_are_the_models"),
        (adding, lambda made, layout: (), "test_default_sites_are_the_models"),
        (adding, None, "test_zero_is_nothing"),
        (lambda made, site: Affine(bias=-made.direction.vectors[0]), None, "test_acts_at_its_site"),
        (adding_in_place, None, "test_edits_its_positions_only"),
        (lambda made, site: Affine(bias=-made.direction.vectors[0]), None, "test_composes"),
        (lambda made, site: None, None, "test_leaves_no_trace"),
        (lambda made, site: None, None, "test_works_in_bfloat16"),
    ]


@pytest.mark.parametrize(("update", "default", "check"), bad_interventions())
def test_a_bad_intervention_is_caught(update: Any, default: Any, check: str) -> None:
    arguments = {"test_edits_its_positions_only": ("left",), "test_leaves_no_trace": (False,)}.get(check, ())
    with pytest.raises(AssertionError):
        getattr(intervention_suite(update, default), check)(*arguments)


def test_an_intervention_that_keeps_its_first_direction_is_caught() -> None:
    suite = intervention_suite(remembering)
    suite.test_update_is_its_definition()
    with pytest.raises(AssertionError, match="With another direction"):
        suite.test_takes_another_direction()


def test_without_a_definition_there_is_nothing_to_hold_it_to() -> None:
    class Suite(InterventionSuite):
        plugin = steerkit_interventions.add

    with pytest.raises(NotImplementedError, match=r"Write Suite\.definition"):
        Suite().test_update_is_its_definition()


# Evaluators


def evaluator_suite(
    function: Callable[[Outputs], Sequence[Score]],
    needs: Needs | None = None,
    *,
    kind: str = "mean",
    label: str = "nats",
) -> EvaluatorSuite:
    wanted = needs or Needs(next_token_logits=True)

    class Made(Evaluator[NoOptions]):
        unit = label

        def score(self, outputs: Outputs) -> Sequence[Score]:
            return function(outputs)

    class Suite(EvaluatorSuite):
        plugin = module(
            "steerkit_evaluators",
            EvaluatorSpec("made_up", "Made up.", "nowhere:Made", NoOptions, needs=lambda options: wanted),
        )

        def implementation(self) -> type[Any]:
            return Made

    return Suite()


def logits(outputs: Outputs) -> torch.Tensor:
    assert outputs.next_token_logits is not None
    return outputs.next_token_logits


def first(outputs: Outputs) -> list[Score]:
    return [Score(float(row[0])) for row in logits(outputs)]


def overwriting_scores(outputs: Outputs) -> list[Score]:
    logits(outputs).sub_(logits(outputs).mean())
    return first(outputs)


def whole_rows(outputs: Outputs) -> list[Score]:
    assert outputs.sequence_logits is not None
    return [Score(float(row.mean())) for row in outputs.sequence_logits]


SEQUENCES = Needs(sequence_logits=True)
BAD_EVALUATORS: list[tuple[EvaluatorSuite, str, str]] = [
    (evaluator_suite(first, Needs()), "test_needs_something", ""),
    (evaluator_suite(lambda o: first(o)[1:]), "test_one_finite_score_per_example", ""),
    (evaluator_suite(lambda o: [Score(row[0]) for row in logits(o)]), "test_one_finite_score_per_example", ""),  # type: ignore[arg-type]
    (evaluator_suite(first, label=""), "test_scores_can_be_summarised", ""),
    (
        evaluator_suite(lambda o: [Score(float(row[0] + torch.rand(()))) for row in logits(o)]),
        "test_is_deterministic",
        "",
    ),
    (
        evaluator_suite(lambda o: [Score(float(row[0] - logits(o).mean())) for row in logits(o)]),
        "test_batches_can_be_cut_anywhere",
        "",
    ),
    (
        evaluator_suite(lambda o: [Score(float(i)) for i in range(len(o.texts))]),
        "test_scores_follow_the_order_of_examples",
        "",
    ),
    (evaluator_suite(overwriting_scores), "test_leaves_its_input_alone", ""),
    (
        evaluator_suite(lambda o: [Score(float(torch.nan_to_num(row[0]))) for row in logits(o)]),
        "test_nan_in_nan_out",
        "steered",
    ),
    (evaluator_suite(first, Needs(next_token_logits=True, baseline=True)), "test_nan_in_nan_out", "baseline"),
    (evaluator_suite(whole_rows, SEQUENCES), "test_masked_tokens_do_not_count", ""),
    (evaluator_suite(whole_rows, SEQUENCES), "test_a_text_without_tokens_weighs_nothing", ""),
]


@pytest.mark.parametrize(("suite", "check", "argument"), BAD_EVALUATORS)
def test_a_bad_evaluator_is_caught(suite: EvaluatorSuite, check: str, argument: str) -> None:
    with pytest.raises(AssertionError):
        getattr(suite, check)(*[argument] * bool(argument))


def test_a_derived_value_that_rises_and_falls_is_caught() -> None:
    suite = evaluator_suite(first)
    suite.implementation().derived = {"bump": lambda value: (value - 1) ** 2}
    with pytest.raises(AssertionError, match="bump isn't monotone"):
        suite.test_derived_values_are_monotone()


# What all suites share


class Careless(Options):
    loud: bool = False


class Lenient(Options, extra="ignore"):
    loud: bool = Field(default=False, description="Whether it is.")


@pytest.mark.parametrize(
    ("spec", "check"),
    [
        (EstimatorSpec("two words", "Fine.", "a:B"), "test_spec_says_what_it_is"),
        (EstimatorSpec("fine", "", "a:B"), "test_spec_says_what_it_is"),
        (EstimatorSpec("fine", "Fine.", "a:B", Careless), "test_every_option_is_described"),
        (EstimatorSpec("fine", "Fine.", "a:B", Lenient), "test_options_are_frozen_and_refuse_unknown_keys"),
    ],
)
def test_a_careless_spec_is_caught(spec: EstimatorSpec, check: str) -> None:
    class Suite(EstimatorSuite):
        plugin = module("steerkit_estimators", spec)

    with pytest.raises(AssertionError):
        getattr(Suite(), check)()


def test_a_module_that_imports_torch_is_caught() -> None:
    import steerkit_estimators._mean_difference as heavy

    class Suite(EstimatorSuite):
        plugin = heavy

    with pytest.raises(AssertionError, match="imports torch"):
        Suite().test_module_imports_no_torch()


def test_a_module_without_the_hook_is_named() -> None:
    class Suite(EstimatorSuite):
        plugin = steerkit_interventions.add

    with pytest.raises(AssertionError, match=r"has no hook steerkit_estimators\(\)"):
        Suite().spec()


def test_a_check_that_is_replaced_is_caught_and_an_expected_failure_is_not() -> None:
    class Quiet(EvaluatorSuite):
        plugin = steerkit_evaluators.kl_divergence

        def test_is_deterministic(self) -> None:
            """Nothing."""

    class Shrug(EvaluatorSuite):
        plugin = steerkit_evaluators.kl_divergence

        @pytest.mark.xfail
        def test_is_deterministic(self) -> None:
            """Nothing."""

    class Honest(EvaluatorSuite):
        plugin = steerkit_evaluators.kl_divergence

        @pytest.mark.xfail(reason="samples its answer")
        def test_is_deterministic(self) -> None:
            """Nothing."""

    for suite in (Quiet(), Shrug()):
        with pytest.raises(AssertionError, match="test_is_deterministic replaces a check"):
            suite.test_no_check_was_weakened()
    Honest().test_no_check_was_weakened()


def test_the_public_names_are_there() -> None:
    for name in steerkit.testing.__all__:
        assert getattr(steerkit.testing, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Suite'"):
        _ = steerkit.testing.Suite
