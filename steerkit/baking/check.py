"""The checkpoint against the hooked model: logits after prompts of the run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from steerkit import stages
from steerkit.errors import ArtifactError, AttachError, DataError, counted
from steerkit.plan import DataRef, Plan
from steerkit.recipe.rows import prompt_of

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.engine.prompts.chat import Rendered
    from steerkit.session.model import LiveModel
    from steerkit.types import Example

MOST_PROMPTS: Final = 64
TOLERANCE: Final[Mapping[str, float]] = {"float16": 1e-2, "bfloat16": 5e-2}
"""Of 16-bit weights: a fold rounds what a hook leaves in more digits."""
_EXACT: Final = 1e-3


@dataclass(frozen=True)
class Compared:
    """What the comparison found.

    Args:
        largest_difference: the largest absolute difference of two logits.
        largest_logit: the largest absolute logit of the hooked model.
        tolerance: what the difference may be.
        rule: how it follows, in words.
        prompts: how many prompts.
        data: the splits that they are of.
    """

    largest_difference: float
    largest_logit: float
    tolerance: float
    rule: str
    prompts: int
    data: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the two are the same model. NaN is no difference that is small."""
        return self.largest_difference <= self.tolerance


def prompts_of(plan: Plan, live: LiveModel) -> tuple[list[Example], tuple[str, ...]]:
    """Up to 64 prompts, in turn of each split: of validation; where there is none, those that are evaluated; else any.

    Raises:
        DataError: where no row of the data is a prompt.
    """
    for choice in _choices(plan):
        found: dict[str, list[Example]] = {}
        seen: set[str] = set()  # data sets may be of one another's rows
        for ref, example in _in_turn(choice):
            if len(seen) < MOST_PROMPTS and (text := prompt_of(example)) not in seen and _open(live, example):
                seen.add(text)
                found.setdefault(ref, []).append(example)
        if found:
            return [example for rows in found.values() for example in rows], tuple(found)
    raise DataError("The recipe has no prompt on which the checkpoint could be compared with the hooked model.")


def _choices(plan: Plan) -> Iterator[Mapping[str, Sequence[Example]]]:
    """Splits, the better ones first."""
    by_ref = {DataRef(name, part): rows for name, parts in plan.data.items() for part, rows in parts.items()}
    yield {str(ref): rows for ref, rows in by_ref.items() if ref.part == "validation"}
    yield stages.evaluated_examples(plan)
    yield {str(ref): rows for ref, rows in by_ref.items()}


def _in_turn(choice: Mapping[str, Sequence[Example]]) -> Iterator[tuple[str, Example]]:
    for row in zip_longest(*choice.values()):
        yield from ((ref, example) for ref, example in zip(choice, row, strict=True) if example is not None)


def _open(live: LiveModel, example: Example) -> bool:
    """Whether an answer can follow."""
    try:
        rendered = live.chat.render(example)
        live.require_fitting([rendered])
    except DataError:
        return False
    return not rendered.closed


def hooked_logits(live: LiveModel, condition: stages.Condition, prompts: Iterable[Rendered]) -> Tensor:
    """Next-token logits of the model with the condition as hooks, ``[n, vocab]``."""
    from steerkit.engine.reading.passes import next_token_logits

    with live.steer(*condition.placements, mode="hook"):
        return next_token_logits(live, list(prompts))


def plain_logits(live: LiveModel, examples: Sequence[Example], rendered: Sequence[Rendered]) -> Tensor:
    """Next-token logits of the checkpoint, whose tokenizer must read prompts as the original's does.

    Raises:
        ArtifactError: where it doesn't.
    """
    from steerkit.engine.reading.passes import next_token_logits

    texts = live.rendered(examples)
    if [one.token_ids for one in texts] != [one.token_ids for one in rendered]:
        raise ArtifactError("The tokenizer that was written reads prompts otherwise than the original's.")
    return next_token_logits(live, texts)


def compare(wanted: Tensor, found: Tensor, dtype: str, prompts: int, data: tuple[str, ...]) -> Compared:
    """Logits of the hooked model, and of the checkpoint that was read back.

    Raises:
        ArtifactError: where they have other shapes.
    """
    if wanted.shape != found.shape:
        raise ArtifactError(f"The checkpoint gives {found.shape[-1]} logits, and the model {wanted.shape[-1]}.")
    factor, largest = TOLERANCE.get(dtype, _EXACT), float(wanted.abs().max())
    difference = float((wanted - found).abs().max())
    rule = f"{factor:g} of the largest logit, or of 1 if that is more, in {dtype}"
    return Compared(difference, largest, factor * max(1.0, largest), rule, prompts, data)


def require_fits(compared: Compared, name: str) -> None:
    """Raise ``AttachError`` where the checkpoint isn't the hooked model."""
    if not compared.fits:
        raise AttachError(
            f"The checkpoint with {name} folded in isn't the model with {name} as hooks: on "
            f"{counted(compared.prompts, 'prompt')} "
            f"next-token logits differ by up to {compared.largest_difference:.3g}, and {compared.tolerance:.3g} is "
            f"allowed ({compared.rule}). The checkpoint was removed."
        )
