"""A rule as JSON, as a run's ``plan.json`` holds it beside the tables that were chosen from by it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from steerkit.errors import SelectionError
from steerkit.selection.rule import Bound, LayerBound, Rule

PLAN: Final = "plan.json"
TABLE: Final = "candidates-"


@dataclass(frozen=True)
class Written:
    """What a run's plan says of one of its tables.

    Args:
        rule: what was chosen by.
        n_layers: of the model, or None where the plan doesn't know.
    """

    rule: Rule
    n_layers: int | None


def table_name(search: str) -> str:
    """The file that holds what a search's candidates scored."""
    return f"{TABLE}{search}.json"


def rule_as_json(rule: Rule) -> dict[str, Any]:
    """A rule as JSON values, with every number as it is."""
    return {
        "maximise" if rule.maximise else "minimise": list(rule.aims),
        "bounds": [
            {
                "name": bound.name,
                "score": bound.score,
                "at_least": bound.at_least,
                "at_most": bound.at_most,
                "strict": bound.strict,
            }
            for bound in rule.bounds
        ],
        "layers_below": None if rule.layers is None else rule.layers.share,
    }


def rule_of_table(path: Path) -> Written | None:
    """The rule of a table that a run wrote, from the plan beside it; None for any other table.

    Raises:
        SelectionError: for a plan that can't be read.
    """
    plan = path.parent / PLAN
    if not (path.name.startswith(TABLE) and path.suffix == ".json" and plan.is_file()):
        return None
    name = path.stem.removeprefix(TABLE)
    try:
        whole = json.loads(plan.read_text("utf-8-sig"))
        written = next((one["rule"] for one in whole.get("search", ()) if one["name"] == name and "rule" in one), None)
        layers = whole["model"]["n_layers"]
        return (
            None if written is None else Written(rule_from_json(written), layers if isinstance(layers, int) else None)
        )
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise SelectionError(
            f"{plan}, which says by what rule {path.name} is chosen from, can't be read ({type(error).__name__}). "
            "Choose by a published rule with --preset and --layers, or make the run's files again."
        ) from error


def rule_from_json(written: Mapping[str, Any]) -> Rule:
    """The rule that ``rule_as_json`` gave.

    Raises:
        LookupError, TypeError: for what is no rule.
    """
    maximise = "maximise" in written
    first, *plus = written["maximise" if maximise else "minimise"]
    share = written["layers_below"]
    return Rule(
        objective=first,
        bounds=tuple(Bound(**one) for one in written["bounds"]),
        layers=None if share is None else LayerBound(share),
        maximise=maximise,
        plus=tuple(plus),
    )
