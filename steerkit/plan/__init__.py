"""Recipe + catalog → plan: every name resolved, every problem found, no weights loaded, no torch imported."""

from steerkit.plan.build import make_plan, plan_recipe
from steerkit.plan.looks import Look, PlannedGroup, held_out
from steerkit.plan.plan import Plan
from steerkit.plan.planned.conditions import PlannedCondition, PlannedGate, PlannedIntervention
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
