"""``−Σ p log p`` over the vocabulary, in nats."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit_template.next_token_entropy import NextTokenEntropyOptions


class NextTokenEntropy(Evaluator[NextTokenEntropyOptions]):
    """One value per prompt: 0 where the model is certain, ``log(vocabulary)`` where it has no idea."""

    unit = "nats"

    def score(self, outputs: Outputs) -> Sequence[Score]:
        """The entropy after each prompt. Reads ``next_token_logits``, ``[n, vocab]``."""
        assert outputs.next_token_logits is not None  # the spec asks for it
        scores = outputs.next_token_logits.double().log_softmax(-1)
        return [Score(float(value)) for value in -(scores.exp() * scores).sum(-1)]
