"""Evaluator ``kl_divergence``: how far the steered next-token distribution is from the baseline's."""

from __future__ import annotations

from pydantic import Field

from steerkit.api.hookspecs import EvaluatorSpec, Needs, Options, hookimpl

STEERKIT_CONTRACT = 2


class KlDivergenceOptions(Options):
    """Options of ``kl_divergence``."""

    epsilon: float = Field(
        default=1e-6,
        ge=0,
        allow_inf_nan=False,
        description="Added to both probabilities inside the logarithms, as in the paper's code. Above 0 the value is "
        "an approximation that can be negative, down to −log(1 + vocabulary × epsilon); 0 gives the exact divergence.",
    )


def _needs(options: KlDivergenceOptions) -> Needs:
    return Needs(next_token_logits=True, baseline=True)


@hookimpl
def steerkit_evaluators() -> list[EvaluatorSpec]:
    """Provide ``kl_divergence``."""
    return [
        EvaluatorSpec(
            name="kl_divergence",
            summary="KL(baseline ‖ steered) of the next-token distribution after the prompt.",
            implementation="steerkit_evaluators._kl_divergence:KlDivergence",
            options=KlDivergenceOptions,
            needs=_needs,
        )
    ]
