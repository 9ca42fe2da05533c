"""Which candidate a search takes, as pure functions over tables of scores: an objective, bounds, ties. Plain values:
no model, no torch, and none of ours but errors."""

from steerkit.selection.presets import ARDITI_2024, COSMIC, PRESETS
from steerkit.selection.rule import LAYER, NAN, Bound, Candidate, LayerBound, Removed, Rule, Selection, select
from steerkit.selection.table import read_table
from steerkit.selection.written import Written, rule_as_json, rule_of_table, table_name

__all__ = [
    "ARDITI_2024",
    "COSMIC",
    "LAYER",
    "NAN",
    "PRESETS",
    "Bound",
    "Candidate",
    "LayerBound",
    "Removed",
    "Rule",
    "Selection",
    "Written",
    "read_table",
    "rule_as_json",
    "rule_of_table",
    "select",
    "table_name",
]
