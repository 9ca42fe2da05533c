"""Evaluator ``monitor_auroc``: how well a monitor's readings tell examples of one label from the others."""

from __future__ import annotations

from typing import TypeAlias

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from steerkit.api.hookspecs import EvaluatorSpec, Needs, Options, Value, hookimpl

STEERKIT_CONTRACT = 2

LabelValue: TypeAlias = StrictBool | StrictInt | StrictFloat | StrictStr


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


@hookimpl
def steerkit_evaluators() -> list[EvaluatorSpec]:
    """Provide ``monitor_auroc``."""
    return [
        EvaluatorSpec(
            name="monitor_auroc",
            summary="Area under the ROC curve of a monitor's peak reading, and the share of examples that crossed.",
            implementation="steerkit_evaluators._monitor_auroc:MonitorAuroc",
            options=MonitorAurocOptions,
            needs=_needs,
            values={
                "monitor_auroc": Value("AUROC", "whole"),
                "crossed": Value("fraction", "proportion"),
                "peak_reading": Value("projection", "mean"),
            },
        )
    ]
