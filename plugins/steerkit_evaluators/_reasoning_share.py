"""How many completions hold a reasoning part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit_evaluators._outputs import required
from steerkit_evaluators._reasoning import split
from steerkit_evaluators.reasoning_share import ReasoningShareOptions


class ReasoningShare(Evaluator[ReasoningShareOptions]):
    """1 for a completion with anything between a model's thinking tags, else 0."""

    def score(self, outputs: Outputs) -> Sequence[Mapping[str, Score]]:
        """One score per prompt, 0 or 1; needs ``completions``."""
        completions = required(outputs.completions, "reasoning_share", "completions")
        thought = (split(text, self.options.tags)[1] for text in completions)
        return [{"reasoning_share": Score(float(bool(part)))} for part in thought]
