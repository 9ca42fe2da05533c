"""Log-odds between two sets of answer tokens, for any behaviour that shows in the first token of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from steerkit.api.evaluator import Evaluator, Outputs, Score, Vocabulary
from steerkit.errors import DataError
from steerkit_evaluators._outputs import next_token_logits, scores, token_ids
from steerkit_evaluators.choice_logit_difference import ChoiceLogitDifferenceOptions


class ChoiceLogitDifference(Evaluator[ChoiceLogitDifferenceOptions]):
    """``log Σ_{t∈positive} p_t − log Σ_{t∈negative} p_t`` after the last prompt token, in float64.

    Two answers of one side that begin with the same token count once.

    Raises:
        DataError: where answers of both sides begin with the same token.
    """

    unit: ClassVar[str] = "log-odds"

    def __init__(self, options: ChoiceLogitDifferenceOptions, vocabulary: Vocabulary) -> None:
        super().__init__(options, vocabulary)
        positive = token_ids(options.positive, vocabulary, "choice_logit_difference")
        negative = token_ids(options.negative, vocabulary, "choice_logit_difference")
        shared = sorted(positive.keys() & negative.keys())
        if shared:
            pairs = "; ".join(f"{positive[item]!r} and {negative[item]!r} (token {item})" for item in shared)
            raise DataError(
                f"choice_logit_difference: positive and negative answers begin with the same token: {pairs}. "
                "Choose answers that differ in their first token; a leading space can make the difference."
            )
        self.positive, self.negative = tuple(sorted(positive)), tuple(sorted(negative))

    def score(self, outputs: Outputs) -> Sequence[Score]:
        """One score per prompt; needs ``next_token_logits``. NaN where the logits hold NaN."""
        logits = next_token_logits(outputs, "choice_logit_difference")
        positive = logits[:, list(self.positive)].logsumexp(-1)
        negative = logits[:, list(self.negative)].logsumexp(-1)
        return scores(positive - negative)
