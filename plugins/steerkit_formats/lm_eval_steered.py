"""Format ``lm_eval_steered``: what ``lm_eval --model steered`` reads."""

from __future__ import annotations

from pydantic import Field

from steerkit.api.hookspecs import FormatSpec, Options, hookimpl

STEERKIT_CONTRACT = 2


class LmEvalSteeredOptions(Options):
    """Options of ``lm_eval_steered``."""

    hookpoint: str = Field(
        default="layers.{layer}",
        pattern=r"^[^{}]*\{layer\}[^{}]*$",
        description="what a block is called in the model within its head, as h.{layer} for GPT-2",
    )
    coefficient: float = Field(default=1.0, description="by what the harness multiplies each vector")


@hookimpl
def steerkit_formats() -> list[FormatSpec]:
    """Provide ``lm_eval_steered``."""
    return [
        FormatSpec(
            name="lm_eval_steered",
            summary="For lm_eval --model steered: a mapping from hookpoints to vectors that are added.",
            implementation="steerkit_formats._lm_eval_steered:LmEvalSteeredFormat",
            options=LmEvalSteeredOptions,
            suffixes=(".pt", ".pth"),
            acts="output of the module that the hookpoint names: of block k, at all tokens",
            reads=False,
        )
    ]
