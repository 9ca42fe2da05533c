"""What the evaluators of this package share: reading outputs that must be there, and turning answers into tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

from steerkit.api.evaluator import Outputs, Score, Vocabulary
from steerkit.errors import DataError, PluginError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

T = TypeVar("T")

# In float64 a row of a vocabulary of 256,000 takes 2 MB; this many rows are converted at a time.
CHUNK = 64


def required(value: T | None, evaluator: str, what: str) -> T:
    """The value, or a ``PluginError``: what runs the evaluator didn't give what its spec says that it needs."""
    if value is None:
        raise PluginError(f"{evaluator} needs {what}, and the outputs hold none. Give what its spec's `needs` names.")
    return value


def next_token_logits(outputs: Outputs, evaluator: str) -> Float[Tensor, "n vocab"]:
    """The next-token logits in float64."""
    return required(outputs.next_token_logits, evaluator, "next-token logits").to(torch.float64)


def scores(values: Tensor) -> list[Score]:
    """One score for each item of ``[n]``, all of weight 1."""
    return [Score(float(value)) for value in values.tolist()]


def token_ids(tokens: Sequence[str | int], vocabulary: Vocabulary, evaluator: str) -> dict[int, str | int]:
    """The distinct token ids of answers, each with the first answer that it came from.

    Args:
        tokens: texts, of which the first token counts, or token ids.

    Raises:
        DataError: where a text gives no token, or an id is not one of the model's.
    """
    found: dict[int, str | int] = {}
    for token in tokens:
        number = token if isinstance(token, int) else vocabulary.token_id(token)
        if not 0 <= number < vocabulary.size:
            raise DataError(
                f"{evaluator}: {token!r} is token {number}, and the model has logits for 0 to {vocabulary.size - 1}. "
                "Write the text of the token, or an id of this model's tokenizer."
            )
        found.setdefault(number, token)
    return found
