"""Whether all that a plan reads fits into the model's context, told before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from steerkit.errors import counted
from steerkit.plan.cost import Meter
from steerkit.recipe.data import DataRef
from steerkit.recipe.rows import quote


@dataclass(frozen=True)
class TooLong:
    """A data set with a text that the model can't read whole, and the sentence that says so."""

    ref: DataRef
    message: str


def too_long(meter: Meter, context: int | None) -> list[TooLong]:
    """What the run would refuse for its length, the longest of each data set; nothing where tokens are estimates.

    Args:
        meter: has counted every pass.
        context: most tokens that the model reads; None where that isn't known.
    """
    if context is None or meter.counter.estimated:
        return []
    found: dict[str, TooLong] = {}
    for prompt, new_tokens in sorted(meter.longest, reverse=True):
        if prompt + new_tokens <= context:
            continue
        for (ref, how, _), lengths in meter.counted.items():
            # How long completions become that are still to be written, only the run knows.
            if prompt not in lengths or (how != "prompt" and ref.dataset in meter.written):
                continue
            example = meter.data[ref.dataset][ref.split][lengths.index(prompt)]
            more = f" and {new_tokens:,} to generate" if new_tokens else ""
            message = (
                f"a text of {counted(prompt, 'token', form=',')}{more} is longer than the model's context of "
                f"{context:,}: shorten it or leave it out ({quote(example.text)})"
            )
            found.setdefault(ref.dataset, TooLong(ref, message))
    return list(found.values())
