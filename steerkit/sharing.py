"""Which conditions are run side by side, as rows of one batch. Plain numbers, no torch: a plan counts with it too.

A condition is run with its own controls, and never with anything else that a recipe holds: what it gives is then its
own, in a recipe that grows as in one that was whole from the start. They share a batch where all their rows fit into
one: there the device isn't full. What that saves is what a pass costs beside its tokens, so it saves much while
decoding, where a pass has a token per row, and little where prompts are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from steerkit.api.hookspecs import Needs

CHUNK: Final = 256
"""Rows whose next-token logits are held at once."""

BY_ITSELF: Final = ("fold", "interpret")
"""Modes of conditions that share no batch with others: rows that differ are hooked."""


def count_batches(lengths: Iterable[int], budget: int, extra: int = 0) -> int:
    """Batches that rows of these lengths make: the longest first, padding and ``extra`` columns in the budget."""
    count, rows, width = 0, 0, 0
    for length in sorted(lengths, reverse=True):
        if count and (rows + 1) * (width + extra) <= budget:
            rows += 1
        else:
            count, rows, width = count + 1, 1, length
    return count


@dataclass(frozen=True)
class Pass:
    """One look at the texts of a data set under a condition.

    Args:
        lengths: tokens of each text.
        new_tokens: tokens to generate behind each.
        most_rows: most rows whose outputs are held at once; 0 where that doesn't matter.
        kind: what is looked at.
        alone: whether no other condition shares its batches, so that what it gives depends on one condition only.
    """

    lengths: tuple[int, ...]
    new_tokens: int = 0
    most_rows: int = 0
    kind: Literal["completions", "samples", "next token", "reading", "along", "baseline along"] = "reading"
    alone: bool = False

    @property
    def tokens(self) -> int:
        """Tokens that pass through the model, without padding: a last new one is only written."""
        return sum(self.lengths) + len(self.lengths) * max(self.new_tokens - 1, 0)

    def together(self, budget: int) -> int:
        """How many conditions share a batch: as many as fit into one with all their rows, at least one."""
        if not self.lengths or self.alone:
            return 1
        rows = len(self.lengths)
        fitting = budget // (rows * max(1, max(self.lengths) + self.new_tokens))
        return max(1, min(fitting, self.most_rows // rows if self.most_rows else fitting))

    def batches(self, budget: int) -> int:
        """Batches of one condition, or of as many as share one."""
        step = self.most_rows or max(1, len(self.lengths))
        starts = range(0, len(self.lengths), step)
        return sum(count_batches(self.lengths[at : at + step], budget, self.new_tokens) for at in starts)

    def batches_of(self, conditions: int, budget: int) -> int:
        """Batches of several conditions."""
        return len(evenly(conditions, self.together(budget))) * self.batches(budget)

    def calls_of(self, conditions: int, budget: int) -> int:
        """Calls of the model for several conditions: per batch one for the prompts, which gives the first new token,
        and one for each token more."""
        return self.batches_of(conditions, budget) * max(1, self.new_tokens)


def completing(prompts: Sequence[int], new_tokens: int) -> Pass:
    """Greedy completions of prompts of these lengths."""
    return Pass(tuple(prompts), new_tokens, kind="completions")


def sampling(prompts: Sequence[int], wanted: Sampling) -> Pass:
    """Sampled completions, those of a prompt side by side."""
    lengths = tuple(length for length in prompts for _ in range(wanted.n))
    return Pass(lengths, wanted.new_tokens, kind="samples", alone=True)


def next_tokens(prompts: Sequence[int]) -> Pass:
    """Next-token logits after prompts of these lengths."""
    return Pass(tuple(prompts), most_rows=CHUNK, kind="next token")


def reading(prompts: Sequence[int], completion_tokens: int) -> Pass:
    """Activations and readings along prompts and completions of that many tokens."""
    return Pass(tuple(length + completion_tokens for length in prompts), kind="reading")


def along(lengths: Sequence[int], limit: int) -> Pass:
    """Logits along texts of these lengths, cut at a limit where there is one."""
    return Pass(tuple(min(n, limit) for n in lengths) if limit else tuple(lengths), kind="along")


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled.

    Args:
        n: of each prompt.
        new_tokens: their length.
        temperature: of the distribution.
        top_p: the share of it that takes part.
    """

    n: int
    new_tokens: int
    temperature: float
    top_p: float

    @classmethod
    def of(cls, needs: Needs) -> Sampling | None:
        """What an evaluator asks for, or None."""
        if not needs.samples:
            return None
        return cls(needs.samples, needs.max_new_tokens, needs.temperature, needs.top_p)


def samplings(needs: Iterable[Needs]) -> list[Sampling]:
    """The distinct ways in which evaluators want samples. Each is a pass of its own: nobody's follow from another's."""
    return list(dict.fromkeys(one for need in needs if (one := Sampling.of(need)) is not None))


def greedy_tokens(needs: Needs) -> int:
    """The length of the greedy completions that an evaluator sees under a condition; 0 for none."""
    return 0 if needs.samples or needs.baseline_completions else needs.max_new_tokens


def reading_lengths(needs: Iterable[Needs]) -> list[int]:
    """How many tokens of greedy completions lie behind the prompts along which activations and readings are wanted."""
    return list(dict.fromkeys(greedy_tokens(need) for need in needs if need.activations or need.monitors))


def texts_wanted(needs: Needs) -> tuple[int, int]:
    """Which texts an evaluator reads along: the baseline's completions of that many tokens (0: the data's own), and
    how far (0: to the end)."""
    return (needs.max_new_tokens if needs.baseline_completions else 0, needs.max_text_tokens)


def compares_along(needs: Iterable[Needs], wanted: tuple[int, int]) -> bool:
    """Whether anybody wants the baseline's logits along these texts too."""
    return any(need.sequence_logits and need.baseline and texts_wanted(need) == wanted for need in needs)


def compares_completions(needs: Needs) -> bool:
    """Whether an evaluator looks at the baseline's completions, beside others or along them."""
    return needs.baseline_completions or (needs.baseline and greedy_tokens(needs) > 0)


def evenly(count: int, most: int) -> list[int]:
    """Parts of at most that size, as few as can be, as equal as can be, the larger ones first."""
    parts = -(-count // most)
    return [count // parts + (place < count % parts) for place in range(parts)]


def impossible(needs: Needs) -> str | None:
    """Why no pass gives what an evaluator asks for, as a sentence that goes on behind its name; None where one does."""
    reads = needs.activations or needs.monitors
    after_prompt = needs.next_token_logits or greedy_tokens(needs) or needs.samples or reads
    if needs.sequence_logits and after_prompt:
        return (
            "needs logits along texts together with outputs after a prompt or along one; these come from different "
            "passes. Make it two evaluators"
        )
    if needs.references and (not needs.activations or needs.next_token_logits or needs.sequence_logits):
        return (
            "refers to other examples, of which there are activations: it must need activations, and no logits. Make "
            "it two evaluators"
        )
    if needs.samples and not needs.max_new_tokens:
        return "needs samples of no length: say max_new_tokens"
    if not needs.sequence_logits and not after_prompt:
        return "needs no output at all, so there is nothing that it could score"
    return None
