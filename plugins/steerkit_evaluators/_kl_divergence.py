"""The divergence by which Arditi et al., 2024 (arXiv 2406.11717) filter candidates, and the exact one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit_evaluators._outputs import CHUNK, next_token_logits, required, scores
from steerkit_evaluators.kl_divergence import KlDivergenceOptions

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class KlDivergence(Evaluator[KlDivergenceOptions]):
    """``Σ_t p_t (log(p_t + ε) − log(q_t + ε))``, ``p`` the baseline's and ``q`` the steered distribution, in float64.

    With ``ε > 0`` this is not a sum of non-negative terms; the baseline against itself is 0 with any ``ε``.
    """

    unit: ClassVar[str] = "nats"

    def score(self, outputs: Outputs) -> Sequence[Score]:
        """One score per prompt; needs logits of both models. NaN where either holds NaN.

        Along completions it is the mean over their tokens, weighted by their number; an empty one has weight 0.
        """
        baseline = required(outputs.baseline, "kl_divergence", "the baseline's outputs")
        if self.options.along == "prompt":
            p_logits, q_logits = (
                next_token_logits(baseline, "kl_divergence"),
                next_token_logits(outputs, "kl_divergence"),
            )
            return scores(self._divergence(p_logits, q_logits))
        p_all = required(baseline.sequence_logits, "kl_divergence", "the baseline's sequence logits")
        q_all = required(outputs.sequence_logits, "kl_divergence", "sequence logits")
        mask = required(outputs.token_mask, "kl_divergence", "a token mask")
        return [self._along(p_all[row][mask[row]], q_all[row][mask[row]]) for row in range(mask.shape[0])]

    def _along(self, p_logits: Float[Tensor, "pos vocab"], q_logits: Float[Tensor, "pos vocab"]) -> Score:
        count = int(p_logits.shape[0])
        if count == 0:
            return Score(math.nan, 0.0)
        total = 0.0
        for start in range(0, count, CHUNK):
            some = slice(start, start + CHUNK)
            total += float(self._divergence(p_logits[some].double(), q_logits[some].double()).sum())
        return Score(total / count, float(count))

    def _divergence(self, p_logits: Float[Tensor, "n vocab"], q_logits: Float[Tensor, "n vocab"]) -> Tensor:
        """``[n]``, in nats, of logits in float64."""
        p, epsilon = p_logits.softmax(-1), self.options.epsilon
        if epsilon > 0:
            return (p * ((p + epsilon).log() - (q_logits.softmax(-1) + epsilon).log())).sum(-1)
        terms = p * (p_logits.log_softmax(-1) - q_logits.log_softmax(-1))
        # 0 log 0 is 0. The test is for equality, so that a NaN stays one.
        return torch.where(p == 0, torch.zeros_like(terms), terms).sum(-1)
