"""The stages of a run, each from plain values to plain values. ``run.py`` knows their order."""

from steerkit.stages.condition import (
    BASELINE,
    Condition,
    announce,
    conditions,
    groups,
    name_group,
    random_like,
    require_possible,
)
from steerkit.stages.measure import (
    estimate,
    evaluated_examples,
    evaluation,
    facts_of,
    load,
    monitors,
    plugins_of,
    separations,
)
from steerkit.stages.preview import Preview, preview
from steerkit.stages.records import collect, describe_condition, pack_group, unpack_group

__all__ = [
    "BASELINE",
    "Condition",
    "Preview",
    "announce",
    "collect",
    "conditions",
    "describe_condition",
    "estimate",
    "evaluated_examples",
    "evaluation",
    "facts_of",
    "groups",
    "load",
    "monitors",
    "name_group",
    "pack_group",
    "plugins_of",
    "preview",
    "random_like",
    "require_possible",
    "separations",
    "unpack_group",
]
