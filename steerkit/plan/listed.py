"""Parts of a plan as ``plan.json`` lists them."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_jsonable_python

from steerkit.api.hookspecs import Options
from steerkit.plan.planned.conditions import PlannedCondition, PlannedIntervention
from steerkit.plan.types import (
    CHOSEN,
    PlannedCompletions,
    PlannedDirection,
    PlannedEvaluation,
    PlannedFilter,
    PlannedSearch,
    as_text,
)


def options_as_json(options: Options, *, changed_only: bool = False) -> dict[str, Any]:
    """Options as JSON values. (pydantic's own JSON mode warns about a tuple in a union with a number.)"""
    values: dict[str, Any] = to_jsonable_python(options.model_dump(exclude_defaults=changed_only))
    return values


def intervention_options(item: PlannedIntervention, *, changed_only: bool = False) -> dict[str, Any]:
    """Options of an intervention as JSON values, as a recipe writes a coefficient that a search chooses."""
    values = options_as_json(item.options, changed_only=changed_only)
    return {**values, item.spec.additive: CHOSEN} if item.chosen else values


def direction_as_json(item: PlannedDirection) -> dict[str, Any]:
    """A direction as ``plan.json`` lists it."""
    if item.file is not None:
        given = {
            "format": item.format,
            "options": options_as_json(item.options, changed_only=True),
            "site": as_text(item.site),
            "positions": as_text(item.positions),
        }
        return {"name": item.name, "file": str(item.file), **{key: value for key, value in given.items() if value}}
    return {
        "name": item.name,
        "estimator": item.estimator.name if item.estimator else None,
        "options": options_as_json(item.options),
        **(
            {"classes": {label: str(ref) for label, ref in item.labelled}}
            if item.labelled
            else {"positive": as_text(item.positive), "negative": as_text(item.negative)}
        ),
        "site": as_text(item.site),
        "positions": as_text(item.positions),
    }


def condition_as_json(item: PlannedCondition, controls: int) -> dict[str, Any]:
    """A condition as ``plan.json`` lists it."""
    interventions = [
        {
            "name": one.spec.name,
            "direction": one.direction_text,
            "options": intervention_options(one),
            "sites": None if one.sites is None else [str(site) for site in one.sites],
            "positions": str(one.positions),
            **one.when(),
        }
        for one in item.interventions
    ]
    return {
        "name": item.name,
        "sweep": item.sweep,
        "swept": dict(item.swept),
        "interventions": interventions,
        "controls": controls,
        **item.how(),
    }


def completions_as_json(item: PlannedCompletions) -> dict[str, Any]:
    """Completions that are data as ``plan.json`` lists them."""
    of = [str(ref) for ref in item.of]
    return {"name": item.name, "of": of, "condition": item.under, "max_new_tokens": item.new_tokens}


def evaluation_as_json(item: PlannedEvaluation) -> dict[str, Any]:
    """An evaluator as ``plan.json`` lists it."""
    uncontrolled = {"uncontrolled": [str(ref) for ref in item.uncontrolled]} if item.uncontrolled else {}
    return {
        "name": item.name,
        "evaluator": item.spec.name,
        "options": options_as_json(item.options),
        "data": [str(ref) for ref in item.data],
        **uncontrolled,
    }


def filter_as_json(item: PlannedFilter) -> dict[str, Any]:
    """A filter as ``plan.json`` lists it."""
    return {"data": [str(ref) for ref in item.data], "keep": str(item), "options": options_as_json(item.options)}


def search_as_json(item: PlannedSearch) -> dict[str, Any]:
    """A search as ``plan.json`` lists it."""
    from steerkit.selection import NAN, rule_as_json

    scores = [
        {
            "name": one.name,
            "evaluator": one.spec.name,
            "options": options_as_json(one.options),
            "data": str(one.data),
            "under": [under.spec.name for under in one.under],
        }
        for one in item.scores
    ]
    return {
        "name": item.name,
        "over": list(item.over),
        "scores": scores,
        "maximise" if item.rule.maximise else "minimise": item.rule.aim,
        "subject_to": {name: says for name, says in item.rule.says().items() if name != NAN},
        "rule": rule_as_json(item.rule),
        "exhaustive": item.exhaustive,
        **({"coefficients": list(item.coefficients)} if item.coefficients else {}),
    }
