"""From a model's outputs to a score per example. An evaluator never sees a hook or a model."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Literal, Protocol, TypeAlias

from typing_extensions import TypeVar

from steerkit.api.hookspecs import Options
from steerkit.api.showing import brief
from steerkit.types import Example

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.api.monitor import Readings
    from steerkit.types import Example, Positions, Site, TokenIds, TokenMask

OptionsT = TypeVar("OptionsT", bound=Options, default=Any)


CHARACTERS_PER_TOKEN: Final = 4
"""By which texts are counted for somebody whose tokenizer isn't known."""

_ROUNDING: Final = 16 * 2.0**-23
"""How far float32 may carry equal numbers apart, as a share of their size: a pass rounds more than once."""


def only_rounding(values: Sequence[float], size: float | None = None) -> bool:
    """Whether values lie no further apart than float32 rounds: then what orders them, as an AUROC does, reads noise.

    Args:
        values: two or more that are finite; of fewer nothing can be said. Values that are all one are no noise.
        size: of what they were computed from, such as the length of the projected vectors; the largest value if None.
    """
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return False
    spread = max(finite) - min(finite)
    return 0 < spread <= _ROUNDING * (max(map(abs, finite)) if size is None else size)


class Vocabulary(Protocol):
    """What an evaluator may ask of a tokenizer."""

    def token_id(self, text: str) -> int:
        """The id of the first token of ``text`` as it opens an answer.

        Raises:
            DataError: where the text gives no token.
        """
        ...

    @property
    def size(self) -> int:
        """Number of logits."""
        ...


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the model gave for a batch of examples. Only what was asked for is there.

    Args:
        texts: what a reader takes each example by: its text, or the last user turn of its conversation.
        next_token_logits: ``[n, vocab]``, float32, after the last prompt token.
        sequence_logits: ``[n, pos, vocab]``: row ``t`` holds the logits from which token ``t`` of
            ``token_ids`` is predicted (already shifted).
        token_ids: ``[n, pos]``, the tokens to be predicted.
        token_mask: ``[n, pos]``, True where a token counts (no padding, no prompt).
        completions: greedy completions.
        baseline: the unsteered model's outputs for the same examples. Its ``sequence_logits`` are along the same
            tokens.
        examples: the examples themselves, with conversation, completion, label and other fields; where none are given,
            each text as one user turn.
        samples: per example its sampled completions, ``needs.samples`` of them.
        activations: ``{(site, positions): one [tokens, d_model] per example}``, float32 on the CPU, after that site's
            own updates; no token where a range is empty.
        readings: ``{monitor: one per example}``.
        answers: per example what came back for each of its ``questions``; None for one that stays unanswered.
        references: ``{data reference, as ``needs`` has it: the unsteered model's outputs for all its examples}``, of
            which ``activations`` are there.
    """

    texts: Sequence[str]
    next_token_logits: Tensor | None = None
    sequence_logits: Tensor | None = None
    token_ids: TokenIds | None = None
    token_mask: TokenMask | None = None
    completions: Sequence[str] | None = None
    baseline: Outputs | None = None
    examples: Sequence[Example] = ()
    samples: Sequence[Sequence[str]] | None = None
    activations: Mapping[tuple[Site, Positions], Sequence[Tensor]] | None = None
    readings: Mapping[str, Sequence[Readings]] | None = None
    answers: Sequence[Sequence[str | None]] | None = None
    references: Mapping[str, Outputs] | None = None

    def __repr__(self) -> str:
        return brief(self)

    def __post_init__(self) -> None:
        if not self.examples:
            object.__setattr__(self, "examples", tuple(Example.of(text) for text in self.texts))

    def select(self, rows: Sequence[int]) -> Outputs:
        """The outputs of some of the examples, in the order of ``rows``."""
        places = list(rows)
        tensors = ("next_token_logits", "sequence_logits", "token_ids", "token_mask")
        lists = ("texts", "completions", "examples", "samples", "answers")
        changes: dict[str, Any] = {
            name: value[places] for name in tensors if (value := getattr(self, name)) is not None
        }
        changes |= {name: [value[row] for row in places] for name in lists if (value := getattr(self, name))}
        for name in ("activations", "readings"):
            if (held := getattr(self, name)) is not None:
                changes[name] = {key: [value[row] for row in places] for key, value in held.items()}
        return replace(self, **changes, baseline=None if self.baseline is None else self.baseline.select(places))


@dataclass(frozen=True)
class Score:
    """One example's score. The data set's value is the mean weighted by ``weight``.

    Args:
        value: in the evaluator's unit.
        weight: how much the example counts, such as its number of tokens; 0 where there is nothing to
            measure in it (a text without tokens), which leaves it out of the mean.
    """

    value: float
    weight: float = 1.0


Scored: TypeAlias = Score | Mapping[str, Score]
"""What an evaluator gives for an example: its score, or one for each of its values that isn't of the whole set."""


class Evaluator(ABC, Generic[OptionsT]):
    """Scores a model's outputs, example by example.

    One that asks something slow outside, such as a judge, writes ``questions`` and ``ask``: the runner calls them in
    one place, with retries, a cache on disk and the budget of ``needs.calls``, and then ``score`` finds the answers
    in ``outputs.answers``.

    Class attributes:
        aggregate: ``mean`` (normal interval) or ``proportion`` of examples with value 1 (Wilson interval).
        unit: as the report prints it: ``nats``, ``log-odds``, ``fraction``.
        derived: further names with a monotone function of the mean, such as perplexity of cross-entropy.
        questions_at_once: most questions of one call of ``ask``.
        asked_with: names of the options that an answer depends on beside the question, by which it is kept; None for
            all of them.

    Attributes:
        trouble: why the last questions that ``ask`` gave None for have no answer, as the report says it. Never a key.
    """

    aggregate: ClassVar[Literal["mean", "proportion"]] = "mean"
    unit: ClassVar[str] = ""
    derived: ClassVar[Mapping[str, Callable[[float], float]]] = {}
    questions_at_once: ClassVar[int] = 16
    asked_with: ClassVar[Sequence[str] | None] = None
    trouble: str = ""

    def __init__(self, options: OptionsT, vocabulary: Vocabulary) -> None:
        self.options = options
        self.vocabulary = vocabulary

    @abstractmethod
    def score(self, outputs: Outputs) -> Sequence[Scored]:
        """One score per example of the batch, in order, or one mapping with a score for each value by its name.

        A score that can't be computed is NaN, never 0; such scores are counted.
        """

    @classmethod
    def whole(
        cls, options: OptionsT, examples: Sequence[Example], scores: Sequence[Mapping[str, Score]]
    ) -> Mapping[str, float]:
        """Values of a whole data set, such as a correlation, for each that the spec's ``values`` call ``whole``.

        It is also called with examples drawn anew, some of them several times, for the interval.

        Args:
            options: the plugin's.
            examples: the rows of data.
            scores: what ``score`` gave for each, by name.

        Returns:
            NaN for what can't be computed.
        """
        return {}

    @classmethod
    def remarks(
        cls, options: OptionsT, examples: Sequence[Example], scores: Sequence[Mapping[str, Score]]
    ) -> Sequence[str]:
        """What a reader must know of the values of a whole data set, as sentences: that they tell noise apart.

        Args: as of ``whole``, which gave a value.
        """
        return ()

    def questions(self, outputs: Outputs) -> Sequence[Sequence[str]]:
        """Per example what to ask about it. Equal texts are asked once, and an answer is kept on disk."""
        return [()] * len(outputs.texts)

    def tokens_of(self, question: str) -> int:
        """About how many tokens a question takes with its answer, as a budget of them (``Needs.call_tokens``) counts.

        It follows from the text alone, so that a budget leaves out the same questions whatever is kept already.
        """
        return -(-len(question) // CHARACTERS_PER_TOKEN)

    def ask(self, questions: Sequence[str]) -> Sequence[str | None]:
        """Ask something outside, at most ``questions_at_once`` questions at a time; one answer each, or None.

        Raises:
            TryAgainError: where it is worth trying again: these questions are asked again, later and later, but for
                those whose answers it carries.
        """
        raise NotImplementedError(f"{type(self).__name__} has questions and no `ask` to ask them.")
