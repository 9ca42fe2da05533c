"""Recipe + catalog → plan: every name resolved, every problem found, no weights loaded, no torch imported."""

from steerkit.plan.build import make_plan, plan_recipe
from steerkit.plan.looks import Look, PlannedGroup, held_out
from steerkit.plan.plan import Plan
from steerkit.plan.suffixes import PlannedSuffixes
from steerkit.plan.types import (
    Cost,
    PlannedCompletions,
    PlannedCondition,
    PlannedDirection,
    PlannedEvaluation,
    PlannedFilter,
    PlannedGate,
    PlannedIntervention,
    PlannedLoading,
    PlannedModel,
    PlannedMonitor,
    PlannedReport,
    PlannedSamples,
    PlannedScore,
    PlannedSearch,
    PlannedSeparation,
    PlannedTokens,
)
from steerkit.recipe.data import DataRef

__all__ = [
    "Cost",
    "DataRef",
    "Look",
    "Plan",
    "PlannedCompletions",
    "PlannedCondition",
    "PlannedDirection",
    "PlannedEvaluation",
    "PlannedFilter",
    "PlannedGate",
    "PlannedGroup",
    "PlannedIntervention",
    "PlannedLoading",
    "PlannedModel",
    "PlannedMonitor",
    "PlannedReport",
    "PlannedSamples",
    "PlannedScore",
    "PlannedSearch",
    "PlannedSeparation",
    "PlannedSuffixes",
    "PlannedTokens",
    "held_out",
    "make_plan",
    "plan_recipe",
]
