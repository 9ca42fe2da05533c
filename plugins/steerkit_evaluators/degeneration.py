"""Evaluator ``degeneration``: whether completions repeat themselves, so that a low refusal rate isn't babble."""

from __future__ import annotations

from pydantic import Field

from steerkit.api.hookspecs import EvaluatorSpec, Needs, Options, Value, hookimpl

STEERKIT_CONTRACT = 2


class DegenerationOptions(Options):
    """Options of ``degeneration``."""

    max_new_tokens: int = Field(
        default=512, ge=1, strict=True, description="Length of the greedy completions, in tokens."
    )
    below: float = Field(
        default=0.35,
        gt=0,
        allow_inf_nan=False,
        description="A completion that compresses to less than this share of its size is degenerate. Ordinary prose "
        "of 100 to 3,000 bytes compresses to 0.45 to 0.9 of it, a sentence said four times over to less than 0.3.",
    )
    from_bytes: int = Field(
        default=100,
        ge=1,
        strict=True,
        description="Size in UTF-8 from which a completion can be called degenerate: a shorter one doesn't compress.",
    )


def _needs(options: DegenerationOptions) -> Needs:
    return Needs(max_new_tokens=options.max_new_tokens)


@hookimpl
def steerkit_evaluators() -> list[EvaluatorSpec]:
    """Provide ``degeneration``."""
    return [
        EvaluatorSpec(
            name="degeneration",
            summary="How repetitive greedy completions are: compressed size over size, and distinct n-grams of words.",
            implementation="steerkit_evaluators._degeneration:Degeneration",
            options=DegenerationOptions,
            role="side effect",
            needs=_needs,
            values={
                "degenerate": Value("fraction", "proportion", verdict=False),
                "compression": Value("compressed size / size", "mean"),
                "distinct_2": Value("distinct / all", "mean"),
                "distinct_3": Value("distinct / all", "mean"),
            },
        )
    ]
