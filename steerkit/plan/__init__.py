"""Recipe + catalog → plan: every name resolved, every problem found, no weights loaded, no torch imported."""

from steerkit.plan.build import make_plan, plan_recipe
from steerkit.plan.cost import held_out
from steerkit.plan.types import (
    Cost,
    Plan,
    PlannedCondition,
    PlannedDirection,
    PlannedEvaluation,
    PlannedGate,
    PlannedIntervention,
    PlannedModel,
    PlannedSamples,
)
from steerkit.recipe.data import DataRef

__all__ = [
    "Cost",
    "DataRef",
    "Plan",
    "PlannedCondition",
    "PlannedDirection",
    "PlannedEvaluation",
    "PlannedGate",
    "PlannedIntervention",
    "PlannedModel",
    "PlannedSamples",
    "held_out",
    "make_plan",
    "plan_recipe",
]
