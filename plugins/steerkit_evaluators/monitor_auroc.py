"""Evaluator ``monitor_auroc``: how well a monitor's readings tell examples of one label from the others."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from steerkit.api.hookspecs import EvaluatorSpec, Lack, Needs, Options, Value, hookimpl
from steerkit.types import Example, same_value

STEERKIT_CONTRACT = 2

LabelValue: TypeAlias = StrictBool | StrictInt | StrictFloat | StrictStr
_SHOWN: Final = 8


class MonitorAurocOptions(Options):
    """Options of ``monitor_auroc``."""

    monitor: str = Field(min_length=1, description="Name of the monitor, as section `monitors` has it.")
    positive: LabelValue = Field(description="The label of the examples that it should tell from all others.")
    field: str = Field(
        default="label", min_length=1, description="Where the label stands: `label`, or the name of another field."
    )
    max_new_tokens: int = Field(
        default=0,
        ge=0,
        strict=True,
        description="Length of a greedy completion that is read behind the prompt; 0: prompts are read alone.",
    )


def _needs(options: MonitorAurocOptions) -> Needs:
    return Needs(monitors=(options.monitor,), max_new_tokens=options.max_new_tokens)


def label_of(example: Example, field: str) -> Any:
    """What an example is labelled with, or None where it isn't."""
    return example.label if field == "label" and example.label is not None else example.fields.get(field)


def _lacks(options: MonitorAurocOptions, examples: Sequence[Example]) -> Lack | None:
    """That an AUROC has no two classes to tell apart, with what there is instead."""
    called, wanted = ("label" if options.field == "label" else f"field {options.field!r}"), _written(options.positive)
    labels = [label for example in examples if (label := label_of(example, options.field)) is not None]
    if not labels:
        what = f"no example has a {called}, so none has {wanted} there"
        fields = list(dict.fromkeys(name for example in examples for name in example.fields))
        # Data without labels can be read by a monitor all the same; a field is named for what it holds.
        return Lack(what) if called == "label" else Lack(what + _instead(options.field, fields), "field")
    positive = [same_value(label, options.positive) for label in labels]
    if not any(positive):
        there = list(dict.fromkeys(map(_written, labels)))
        return Lack(f"no example has {called} {wanted}{_instead(wanted, there)}", "positive")
    if all(positive):
        return Lack(f"every example with a {called} has {wanted}, so there are no others to tell them from")
    return None


def _instead(name: str, known: Sequence[str]) -> str:
    """What there is instead, the nearest one by name."""
    bare = {one.strip('"'): one for one in known}  # quotes are no likeness
    near = difflib.get_close_matches(name.strip('"'), bare, n=1, cutoff=0.5)
    hint = f" Did you mean {bare[near[0]]}?" if near else ""
    return f".{hint} Available: {', '.join(known[:_SHOWN])}{', …' if len(known) > _SHOWN else ''}" if known else ""


def _written(label: Any) -> str:
    """As JSON has it, so that a text of digits isn't taken for a number."""
    return json.dumps(label, ensure_ascii=False, default=str)


@hookimpl
def steerkit_evaluators() -> list[EvaluatorSpec]:
    """Provide ``monitor_auroc``."""
    return [
        EvaluatorSpec(
            name="monitor_auroc",
            summary="Area under the ROC curve of a monitor's peak reading; what it catches, and its false alarms.",
            implementation="steerkit_evaluators._monitor_auroc:MonitorAuroc",
            options=MonitorAurocOptions,
            needs=_needs,
            values={
                "monitor_auroc": Value("AUROC", "whole"),
                "crossed": Value("fraction", "proportion"),
                "peak_reading": Value("projection", "mean"),
                "caught": Value("fraction", "proportion", verdict=False, partial=True),
                "false_alarms": Value("fraction", "proportion", verdict=False, partial=True),
            },
            lacks=_lacks,
        )
    ]
