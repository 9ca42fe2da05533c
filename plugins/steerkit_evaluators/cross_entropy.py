"""Evaluator ``cross_entropy``: how well the model still predicts text, and perplexity from it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from steerkit.api.hookspecs import EvaluatorSpec, Needs, Options, hookimpl

STEERKIT_CONTRACT = 2


class CrossEntropyOptions(Options):
    """Options of ``cross_entropy``."""

    of: Literal["text", "baseline_completions"] = Field(
        default="text",
        description="What is predicted: the texts of the data set as they are (of a completion, or a conversation that "
        "ends with an answer, that answer alone), or the greedy completions that the unsteered model gives to its "
        "prompts (the prompts' own tokens don't count).",
    )
    max_tokens: int = Field(
        default=256,
        ge=2,
        strict=True,
        description="With `of: text`, how many tokens of each text are read, from its start.",
    )
    max_new_tokens: int = Field(
        default=512, ge=1, strict=True, description="With `of: baseline_completions`, their length in tokens."
    )


def _needs(options: CrossEntropyOptions) -> Needs:
    if options.of == "text":
        return Needs(sequence_logits=True, max_text_tokens=options.max_tokens)
    return Needs(sequence_logits=True, baseline_completions=True, max_new_tokens=options.max_new_tokens)


@hookimpl
def steerkit_evaluators() -> list[EvaluatorSpec]:
    """Provide ``cross_entropy``."""
    return [
        EvaluatorSpec(
            name="cross_entropy",
            summary="Mean negative log-probability per token of texts, or of the unsteered model's completions.",
            implementation="steerkit_evaluators._cross_entropy:CrossEntropy",
            options=CrossEntropyOptions,
            role="side effect",
            needs=_needs,
            derived=("perplexity",),
        )
    ]
