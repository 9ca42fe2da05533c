"""Evaluator ``reasoning_share``: the fraction of completions that hold a reasoning part."""

from __future__ import annotations

from pydantic import Field

from steerkit.api.hookspecs import EvaluatorSpec, Needs, Options, Value, hookimpl
from steerkit_evaluators._reasoning import TAGS, Tags

STEERKIT_CONTRACT = 2


class ReasoningShareOptions(Options):
    """Options of ``reasoning_share``."""

    tags: Tags = TAGS
    max_new_tokens: int = Field(
        default=512, ge=1, strict=True, description="Length of the greedy completions, in tokens."
    )


def _needs(options: ReasoningShareOptions) -> Needs:
    return Needs(max_new_tokens=options.max_new_tokens)


@hookimpl
def steerkit_evaluators() -> list[EvaluatorSpec]:
    """Provide ``reasoning_share``."""
    return [
        EvaluatorSpec(
            name="reasoning_share",
            summary="Fraction of greedy completions with a reasoning part, which refusal_rate leaves out.",
            implementation="steerkit_evaluators._reasoning_share:ReasoningShare",
            options=ReasoningShareOptions,
            role="side effect",
            needs=_needs,
            values={"reasoning_share": Value("fraction", "proportion", verdict=False)},
        )
    ]
