"""Cross-entropy per token, with perplexity as its exponential."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit_evaluators._outputs import CHUNK, required
from steerkit_evaluators.cross_entropy import CrossEntropyOptions

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


class CrossEntropy(Evaluator[CrossEntropyOptions]):
    """Mean of ``−log p(token)`` over a text's tokens, in float64, weighted by their number.

    The data set's value is thus the mean over all of its tokens, and long texts count more. A text
    without a token to predict (an empty completion, a text of one token) gives NaN with weight 0:
    there is nothing to measure in it, and it takes no part in the mean.
    """

    unit: ClassVar[str] = "nats"
    derived: ClassVar[Mapping[str, Callable[[float], float]]] = {"perplexity": math.exp}

    def score(self, outputs: Outputs) -> Sequence[Score]:
        """One score per text; needs ``sequence_logits``, ``token_ids`` and ``token_mask``."""
        logits = required(outputs.sequence_logits, "cross_entropy", "sequence logits")
        tokens = required(outputs.token_ids, "cross_entropy", "token ids")
        mask = required(outputs.token_mask, "cross_entropy", "a token mask")
        return [self._text(logits[row][mask[row]], tokens[row][mask[row]]) for row in range(logits.shape[0])]

    def _text(self, logits: Float[Tensor, "pos vocab"], tokens: Int[Tensor, " pos"]) -> Score:
        count = int(tokens.shape[0])
        if count == 0:
            return Score(math.nan, 0.0)
        total = 0.0
        for start in range(0, count, CHUNK):
            some, wanted = logits[start : start + CHUNK].to(torch.float64), tokens[start : start + CHUNK, None]
            total += float((some.logsumexp(-1) - some.gather(-1, wanted)[:, 0]).sum())
        return Score(total / count, float(count))
