"""Evaluator ``kl_divergence``: how far steered next-token distributions are from the baseline's."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from steerkit.api.hookspecs import EvaluatorSpec, Needs, Options, hookimpl

STEERKIT_CONTRACT = 2


class KlDivergenceOptions(Options):
    """Options of ``kl_divergence``."""

    along: Literal["prompt", "completions"] = Field(
        default="prompt",
        description="Where the distributions are compared: after the prompt, or at every token of the completion that "
        "the unsteered model gives (the value is then per token, and long completions count more).",
    )
    max_new_tokens: int = Field(
        default=64, ge=1, strict=True, description="With `along: completions`, their length in tokens."
    )
    epsilon: float = Field(
        default=1e-6,
        ge=0,
        allow_inf_nan=False,
        description="Added to both probabilities inside the logarithms, as in the paper's code. Above 0 the value is "
        "an approximation that can be negative, down to −log(1 + vocabulary × epsilon); 0 gives the exact divergence.",
    )


def _needs(options: KlDivergenceOptions) -> Needs:
    if options.along == "prompt":
        return Needs(next_token_logits=True, baseline=True)
    return Needs(sequence_logits=True, baseline=True, baseline_completions=True, max_new_tokens=options.max_new_tokens)


def _limits(options: KlDivergenceOptions, vocabulary: int) -> tuple[float, float]:
    """With ε inside the logarithms a value can fall below 0: Σ p log((p+ε)/(q+ε)) ≥ −log Σ p (q+ε)/(p+ε)."""
    return -math.log1p(vocabulary * options.epsilon), math.inf


@hookimpl
def steerkit_evaluators() -> list[EvaluatorSpec]:
    """Provide ``kl_divergence``."""
    return [
        EvaluatorSpec(
            name="kl_divergence",
            summary="KL(baseline ‖ steered) of next-token distributions, after the prompt or along completions.",
            implementation="steerkit_evaluators._kl_divergence:KlDivergence",
            options=KlDivergenceOptions,
            role="side effect",
            needs=_needs,
            limits=_limits,
        )
    ]
