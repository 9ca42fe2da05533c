"""Evaluator ``next_token_entropy``: how undecided the model is about its first token. Imports no torch."""

from __future__ import annotations

from steerkit.api.hookspecs import EvaluatorSpec, Needs, NoOptions, hookimpl

STEERKIT_CONTRACT = 2


class NextTokenEntropyOptions(NoOptions):
    """Options of ``next_token_entropy``: there are none."""


def needs(options: NextTokenEntropyOptions) -> Needs:
    """Logits after the last prompt token."""
    return Needs(next_token_logits=True)


@hookimpl
def steerkit_evaluators() -> list[EvaluatorSpec]:
    """Provide ``next_token_entropy``."""
    return [
        EvaluatorSpec(
            name="next_token_entropy",
            summary="Entropy of the next-token distribution after each prompt.",
            implementation="steerkit_template._next_token_entropy:NextTokenEntropy",
            options=NextTokenEntropyOptions,
            needs=needs,
        )
    ]
