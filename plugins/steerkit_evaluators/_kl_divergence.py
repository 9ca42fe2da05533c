"""The divergence by which Arditi et al., 2024 (arXiv 2406.11717) filter candidates, and the exact one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit_evaluators._outputs import next_token_logits, required, scores
from steerkit_evaluators.kl_divergence import KlDivergenceOptions


class KlDivergence(Evaluator[KlDivergenceOptions]):
    """``Σ_t p_t (log(p_t + ε) − log(q_t + ε))``, ``p`` the baseline's and ``q`` the steered distribution, in float64.

    With ``ε > 0`` this is not a sum of non-negative terms; the baseline against itself is 0 with any ``ε``.
    """

    unit: ClassVar[str] = "nats"

    def score(self, outputs: Outputs) -> Sequence[Score]:
        """One score per prompt; needs ``next_token_logits`` of both models. NaN where either holds NaN."""
        baseline = required(outputs.baseline, "kl_divergence", "the baseline's outputs")
        p_logits = next_token_logits(baseline, "kl_divergence")
        q_logits = next_token_logits(outputs, "kl_divergence")
        p = p_logits.softmax(-1)
        epsilon = self.options.epsilon
        if epsilon > 0:
            return scores((p * ((p + epsilon).log() - (q_logits.softmax(-1) + epsilon).log())).sum(-1))
        terms = p * (p_logits.log_softmax(-1) - q_logits.log_softmax(-1))
        # 0 log 0 is 0. The test is for equality, so that a NaN stays one.
        return scores(torch.where(p == 0, torch.zeros_like(terms), terms).sum(-1))
