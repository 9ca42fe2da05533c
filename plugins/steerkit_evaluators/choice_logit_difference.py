"""Evaluator ``choice_logit_difference``: log-odds between two sets of answer tokens."""

from __future__ import annotations

from pydantic import Field, model_validator

from steerkit.api.hookspecs import EvaluatorSpec, Needs, Options, hookimpl

STEERKIT_CONTRACT = 2


class ChoiceLogitDifferenceOptions(Options):
    """Options of ``choice_logit_difference``."""

    positive: tuple[str, ...] = Field(
        min_length=1,
        description="Answers that raise the score. The first token of each counts, as it opens an answer; a leading "
        "space is part of the text: ' good' and 'good' are two tokens in most vocabularies.",
    )
    negative: tuple[str, ...] = Field(
        min_length=1, description="Answers that lower the score, read in the same way as `positive`."
    )

    @model_validator(mode="after")
    def _disjoint(self) -> ChoiceLogitDifferenceOptions:
        shared = [text for text in self.positive if text in self.negative]
        if shared:
            names = ", ".join(repr(text) for text in shared)
            raise ValueError(f"{names} stands in both positive and negative: an answer belongs to one side.")
        return self


def _needs(options: ChoiceLogitDifferenceOptions) -> Needs:
    return Needs(next_token_logits=True)


@hookimpl
def steerkit_evaluators() -> list[EvaluatorSpec]:
    """Provide ``choice_logit_difference``."""
    return [
        EvaluatorSpec(
            name="choice_logit_difference",
            summary="Log-odds that the next token opens a positive answer rather than a negative one.",
            implementation="steerkit_evaluators._choice_logit_difference:ChoiceLogitDifference",
            options=ChoiceLogitDifferenceOptions,
            needs=_needs,
        )
    ]
