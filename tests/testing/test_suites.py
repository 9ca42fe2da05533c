"""The suites must catch what they are for: each broken plugin here fails the check that names its fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from pydantic import Field

import steerkit.testing
import steerkit_evaluators.kl_divergence
import steerkit_interventions.add
from steerkit.api.architecture import Layout
from steerkit.api.estimator import ClassStatistics, Estimate, EstimationRequest, Estimator, PlacedUpdate
from steerkit.api.hookspecs import (
    EstimatorNeeds,
    EstimatorSpec,
    InterventionSpec,
    NoOptions,
    Options,
)
from steerkit.api.intervention import Affine, Intervention, Pointwise
from steerkit.errors import DataError
from steerkit.testing import EstimatorSuite, EvaluatorSuite, InterventionSuite
from steerkit.types import Site
from tests.testing.common import module

Check = Callable[[Any], None]


# Estimators


def estimator_suite(function: Callable[[ClassStatistics, ClassStatistics], torch.Tensor]) -> EstimatorSuite:
    class Made(Estimator[NoOptions]):
        def estimate(self, request: EstimationRequest) -> Estimate:
            for classes in request.statistics.values():
                for item in classes.values():
                    if item.count < 1 or not bool(torch.isfinite(item.mean).all()):
                        raise DataError("empty or not finite")
            found = request.statistics.items()
            return Estimate({site: function(classes["positive"], classes["negative"]) for site, classes in found})

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
        def estimate(self, request: EstimationRequest) -> Estimate:
            found = request.statistics.items()
            return Estimate(
                {site: torch.nan_to_num(difference(one["positive"], one["negative"])) for site, one in found}
            )

    suite = estimator_suite(difference)
    suite.implementation = lambda: Made  # type: ignore[method-assign]
    arguments = ("positive", float("nan")) if "finite" in check else ("positive",)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        getattr(suite, check)(*arguments)


def handle_suite(function: Callable[[EstimationRequest], Any]) -> EstimatorSuite:
    class Made(Estimator[NoOptions]):
        def estimate(self, request: EstimationRequest) -> Estimate:
            return Estimate({site: function(request) for site in request.sites})

    class Suite(EstimatorSuite):
        plugin = module(
            "steerkit_estimators",
            EstimatorSpec(
                "made_up", "M.", "nowhere:Made", needs=lambda options: EstimatorNeeds(statistics=None, handle=True)
            ),
        )

        def implementation(self) -> type[Any]:
            return Made

    return Suite()


def learned(request: EstimationRequest, step: float = 1.0) -> torch.Tensor:
    """One step down the gradient."""
    assert request.model is not None
    site = request.sites[0]
    vector = torch.zeros(request.layout.width(site), requires_grad=True)
    placed = PlacedUpdate(Affine(bias=vector), (site,))
    loss = -request.model.run(request.examples["positive"], [placed]).completion_log_probabilities().mean()
    (gradient,) = torch.autograd.grad(loss, vector)
    return -step * gradient[None]


def test_an_estimator_with_a_handle_is_held_to_the_suite() -> None:
    good = handle_suite(learned)
    for check in (
        "test_needs_fit_together",
        "test_gives_vectors_of_the_width",
        "test_is_deterministic",
        "test_leaves_the_model_alone",
        "test_leaves_its_input_alone",
    ):
        getattr(good, check)()
    with pytest.raises(AssertionError, match="differ"):
        handle_suite(lambda request: learned(request) + torch.rand(1)).test_is_deterministic()


def test_needs_that_cant_be_met_are_caught() -> None:
    for needs, said in (
        (EstimatorNeeds(statistics=None), "sees nothing"),
        (EstimatorNeeds(statistics="paired_rows"), "classes='pairs'"),
        (EstimatorNeeds(outputs="labels"), "classes='labels'"),
        (EstimatorNeeds(outputs=("two words",)), "two words"),
    ):
        suite = handle_suite(learned)
        suite.needs = lambda needs=needs: needs  # type: ignore[method-assign, misc]
        with pytest.raises(AssertionError, match=said):
            suite.test_needs_fit_together()


def test_further_directions_that_the_needs_dont_name_are_caught() -> None:
    suite = estimator_suite(difference)
    suite.needs = lambda: EstimatorNeeds(outputs=("second",))  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        suite.test_gives_the_outputs_that_its_needs_name()


def test_a_plugin_that_says_no_contract_is_caught() -> None:
    suite = estimator_suite(difference)
    suite.test_declares_the_contract()
    del suite.plugin.STEERKIT_CONTRACT
    with pytest.raises(AssertionError, match="STEERKIT_CONTRACT is None"):
        suite.test_declares_the_contract()


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
