"""A plan: a recipe with every name resolved, and every look that a run takes. No weights, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from steerkit.api.hookspecs import ArchitectureSpec
from steerkit.catalog import Catalog
from steerkit.plan.listed import (
    completions_as_json,
    condition_as_json,
    direction_as_json,
    evaluation_as_json,
    filter_as_json,
    search_as_json,
)
from steerkit.plan.looks import PlannedGroup, plan_groups, plan_separations
from steerkit.plan.planned.conditions import PlannedCondition
from steerkit.plan.planned.model import PlannedLoading, PlannedModel
from steerkit.plan.planned.monitors import PlannedMonitor
from steerkit.plan.planned.reporting import PlannedReport, PlannedSamples
from steerkit.plan.suffixes import PlannedSuffixes
from steerkit.plan.types import (
    Cost,
    PlannedCompletions,
    PlannedDirection,
    PlannedEvaluation,
    PlannedFilter,
    PlannedSearch,
    PlannedSeparation,
    PlannedTokens,
)
from steerkit.recipe.data import DataRef, Splits
from steerkit.recipe.schema import Recipe
from steerkit.types import Example


@dataclass(frozen=True)
class Plan:
    """Everything that a run does, resolved. Stages read this and nothing else.

    Args:
        recipe: as written, for those who show it; whatever a run needs of it stands beside it, resolved.
        source: the recipe's file, or None.
        report: what readers are told.
        seed: of splits and random controls.
        hash: sha256 over the recipe, its examples, template, saved directions and plugins' versions.
        model: what is known of the model.
        loading: how it is loaded.
        architecture: the adapter; None where only the loaded model can tell.
        adapters: the adapters among which it is then chosen.
        data: ``{data set: {split: examples}}``.
        directions: in the recipe's order.
        conditions: in the recipe's order, sweeps expanded; without the baseline and the controls.
        evaluations: in the recipe's order.
        samples: completions to keep, or None.
        random_directions: how many controls stand beside each condition.
        separated: whether the classes of directions are told apart at every layer.
        cost: what it will take.
        plugins: kind, name, distribution and version of each plugin that is used.
        notes: what a reader should know, as sentences.
        monitors: in the recipe's order.
        profiles: names of the profiles that the recipe has; none where one of them was chosen.
        searches: in the recipe's order.
        filters: in the recipe's order.
        tokens: first tokens of refusals that are found before anything else is computed, by how options ask for them.
        completions: data sets of what the model says, each behind those that its condition's directions come from.
        suffixes: studies of texts behind the user's turn, in the recipe's order.
        not_held_out: those of the notes that say what depends on prompts that are measured, for the report.
        unread: those of the notes that say where monitors read nothing, for the report.
    """

    recipe: Recipe
    source: Path | None
    report: PlannedReport
    seed: int
    hash: str
    model: PlannedModel
    loading: PlannedLoading
    architecture: ArchitectureSpec | None
    adapters: Catalog
    data: Mapping[str, Splits]
    directions: tuple[PlannedDirection, ...]
    conditions: tuple[PlannedCondition, ...]
    evaluations: tuple[PlannedEvaluation, ...]
    samples: PlannedSamples | None
    random_directions: int
    separated: bool
    cost: Cost
    plugins: tuple[Mapping[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    monitors: tuple[PlannedMonitor, ...] = ()
    profiles: tuple[str, ...] = ()
    searches: tuple[PlannedSearch, ...] = ()
    filters: tuple[PlannedFilter, ...] = ()
    tokens: Mapping[str, PlannedTokens] = field(default_factory=dict)
    completions: tuple[PlannedCompletions, ...] = ()
    suffixes: tuple[PlannedSuffixes, ...] = ()
    not_held_out: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @cached_property
    def groups(self) -> tuple[PlannedGroup, ...]:
        """The baseline, and each condition with its controls, with the looks that they take."""
        return plan_groups(
            self.conditions, self.random_directions, self.evaluations, self.samples, monitored=bool(self.monitors)
        )

    @cached_property
    def separations(self) -> tuple[PlannedSeparation, ...]:
        """Which classes are told apart at every layer."""
        return plan_separations(self.directions, self.data) if self.separated else ()

    def examples(self, ref: DataRef) -> tuple[Example, ...]:
        """The examples of a split."""
        return self.data[ref.dataset][ref.split]

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values; texts by their number."""
        return {
            "name": self.report.name,
            "source": None if self.source is None else str(self.source),
            "hash": self.hash,
            "seed": self.seed,
            "model": {
                "source": self.model.source,
                "model_type": self.model.model_type,
                "n_layers": self.model.n_layers,
                "adapter": self.architecture.name if self.architecture else None,
            },
            "data": {
                str(DataRef(name, part)): len(rows) for name, by in self.data.items() for part, rows in by.items()
            },
            **({"completions": [completions_as_json(item) for item in self.completions]} if self.completions else {}),
            "directions": [direction_as_json(item) for item in self.directions],
            **({"filter": [filter_as_json(item) for item in self.filters]} if self.filters else {}),
            **({"search": [search_as_json(item) for item in self.searches]} if self.searches else {}),
            "conditions": [
                condition_as_json(item, item.n_controls(self.random_directions)) for item in self.conditions
            ],
            **({"monitors": [item.to_json() for item in self.monitors]} if self.monitors else {}),
            **({"suffixes": [item.to_json() for item in self.suffixes]} if self.suffixes else {}),
            "evaluate": [evaluation_as_json(item) for item in self.evaluations],
            "samples": None
            if self.samples is None
            else {
                "data": str(self.samples.data),
                "n": self.samples.n,
                "max_new_tokens": self.samples.max_new_tokens,
            },
            "random_directions": self.random_directions,
            "cost": {
                "forward_passes": self.cost.forward_passes,
                "prompt_tokens": self.cost.prompt_tokens,
                "generated_tokens": self.cost.generated_tokens,
                "estimated": self.cost.estimated,
                "basis": self.cost.basis,
                "parts": dict(self.cost.parts),
            },
            "plugins": [dict(plugin) for plugin in self.plugins],
            "notes": list(self.notes),
        }
