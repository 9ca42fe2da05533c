"""What a plugin can provide, on one page.

A plugin is a module that an entry point in the group ``steerkit`` names. It imports no torch: its
hooks return specs, and a spec names its implementation as ``"module:attribute"``, which is imported
when a plan needs it. So plugins can be listed, and recipes checked down to every option, at once.

The base classes of implementations are in ``steerkit.api.architecture``, ``estimator``, ``intervention`` and
``evaluator``; ``steerkit.testing`` has a suite for each.

    from steerkit.api.hookspecs import EstimatorSpec, Options, hookimpl

    class MedianOptions(Options):
        \"\"\"Options of ``median_difference``.\"\"\"

    @hookimpl
    def steerkit_estimators() -> list[EstimatorSpec]:
        summary = "Difference of the medians."
        where = "my_package.median:Median"  # a class from steerkit.api.estimator.Estimator
        return [EstimatorSpec("median_difference", summary, where, MedianOptions, statistics="rows")]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import pluggy
from pydantic import BaseModel, ConfigDict

hookspec = pluggy.HookspecMarker("steerkit")
hookimpl = pluggy.HookimplMarker("steerkit")

StatisticsKind: TypeAlias = Literal["mean", "moments", "rows"]


class Options(BaseModel):
    """Base of a plugin's options: frozen, and unknown keys are errors. Give each field a description."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NoOptions(Options):
    """For plugins that have nothing to set."""


@dataclass(frozen=True)
class ModelFacts:
    """What a checkpoint says about itself, read without its weights.

    Args:
        model_type: ``config.model_type``.
        config: the whole config as a plain mapping.
        special_tokens: the texts of the tokenizer's special tokens; empty where there is no tokenizer.
    """

    model_type: str
    config: Mapping[str, Any]
    special_tokens: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Needs:
    """What an evaluator must see. The runner makes each pass once per condition and shares it.

    Args:
        next_token_logits: logits after the last prompt token, ``[n, vocab]``.
        sequence_logits: logits at every token of a text, a batch at a time.
        max_text_tokens: how many tokens of each text ``sequence_logits`` reads, from its start; 0 for all.
        max_new_tokens: length of completions; 0 for none.
        samples: so many sampled completions of each prompt, in place of the greedy one.
        temperature: of the samples.
        top_p: samples come from the likeliest tokens that have this share of the probability together.
        baseline: the same outputs of the unsteered model beside the steered ones.
        baseline_completions: the unsteered model's own completions, of ``max_new_tokens``, as the texts of
            ``sequence_logits``; the steered model then generates nothing.
        activations: ``(site or pattern of sites, positions)`` to read along the prompt, and along the completion
            where there is a greedy one.
        monitors: names of monitors whose readings it scores, along the same tokens; True: all that there are.
        calls: most questions that it asks of something slow outside, for a data set under a condition; 0: it asks none.
    """

    next_token_logits: bool = False
    sequence_logits: bool = False
    max_text_tokens: int = 0
    max_new_tokens: int = 0
    samples: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    baseline: bool = False
    baseline_completions: bool = False
    activations: tuple[tuple[str, str], ...] = ()
    monitors: bool | tuple[str, ...] = False
    calls: int = 0


@dataclass(frozen=True)
class Value:
    """One of several values that an evaluator gives.

    Args:
        unit: as the report prints it.
        aggregate: ``mean`` or ``proportion`` of a score per example; ``whole``: a value of all examples together.
        bootstrap: for ``whole``: whether drawing examples anew tells its uncertainty; without it there is no interval.
    """

    unit: str = ""
    aggregate: Literal["mean", "proportion", "whole"] = "mean"
    bootstrap: bool = True


@dataclass(frozen=True)
class Spec:
    """What every plugin says about itself.

    Args:
        name: as recipes write it; unique within its kind.
        summary: one line.
        implementation: ``"module:attribute"`` of a class from ``steerkit.api``.
        options: the options model; its fields are what a recipe may set.
    """

    kind: ClassVar[str] = ""
    name: str
    summary: str
    implementation: str
    options: type[Options] = NoOptions


@dataclass(frozen=True)
class ArchitectureSpec(Spec):
    """An adapter for one family. See ``steerkit.api.architecture.ArchitectureAdapter``.

    Args:
        model_types: the ``model_type`` values of transformers that it handles.
        recognise: a further test of the checkpoint, for families that share a model type.
        refines: names of adapters whose claim yields to this one's (Yi refines Llama).
        refuses: model types that are known and can't be handled, with the reason.
        note: a limitation that ``steerkit check`` and ``steerkit plugins`` show.
    """

    kind: ClassVar[str] = "architecture"
    model_types: tuple[str, ...] = ()
    recognise: Callable[[ModelFacts], bool] | None = None
    refines: tuple[str, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def claims(self, facts: ModelFacts) -> bool:
        """Whether this adapter is one for the checkpoint."""
        known = facts.model_type in self.model_types
        return known and (self.recognise is None or self.recognise(facts))


@dataclass(frozen=True)
class EstimatorSpec(Spec):
    """An estimator of directions. See ``steerkit.api.estimator.Estimator``.

    Args:
        statistics: what it asks of each class: ``mean``; ``moments`` (also second moments); ``rows``.
    """

    kind: ClassVar[str] = "estimator"
    statistics: StatisticsKind = "mean"


@dataclass(frozen=True)
class InterventionSpec(Spec):
    """An intervention on the residual stream. See ``steerkit.api.intervention.Intervention``.

    Args:
        directions: how many directions it takes: 0, 1, 2, ...
        many_sites: whether it takes a direction at several sites as such, and uses at each site the vectors of that
            site. Otherwise a direction at several sites needs an option ``at`` that chooses one of them.
        idle: from the options to whether it does nothing at all with them, so that a plan can say so.
    """

    kind: ClassVar[str] = "intervention"
    directions: int = 1
    many_sites: bool = False
    idle: Callable[[Any], bool] | None = None


def _no_needs(options: Any) -> Needs:
    return Needs()


@dataclass(frozen=True)
class EvaluatorSpec(Spec):
    """An evaluator. See ``steerkit.api.evaluator.Evaluator``.

    Args:
        needs: from the options to what it must see.
        derived: names of the values that the implementation's ``derived`` adds, so that a plan knows them.
        values: its values by name, where they are several; the plugin's own name is the one that it is called by.
            Empty: one score per example, with the class's unit and aggregate.
    """

    kind: ClassVar[str] = "evaluator"
    needs: Callable[[Any], Needs] = _no_needs
    derived: tuple[str, ...] = ()
    values: Mapping[str, Value] = field(default_factory=dict)

    def label(self, value: str, called: str) -> str:
        """What results call one of its values, where a recipe calls the evaluator so."""
        if value == self.name:
            return called
        return value if called == self.name else f"{called}.{value}"


@hookspec
def steerkit_architectures() -> Sequence[ArchitectureSpec]:  # type: ignore[empty-body]
    """Provide adapters for architectures."""


@hookspec
def steerkit_estimators() -> Sequence[EstimatorSpec]:  # type: ignore[empty-body]
    """Provide estimators of directions."""


@hookspec
def steerkit_interventions() -> Sequence[InterventionSpec]:  # type: ignore[empty-body]
    """Provide interventions."""


@hookspec
def steerkit_evaluators() -> Sequence[EvaluatorSpec]:  # type: ignore[empty-body]
    """Provide evaluators."""
