"""From a model's outputs to a score per example. An evaluator never sees a hook or a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol

from typing_extensions import TypeVar

from steerkit.api.hookspecs import Options
from steerkit.types import Example

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.types import TokenIds, TokenMask

OptionsT = TypeVar("OptionsT", bound=Options, default=Any)


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
        baseline: the unsteered model's outputs for the same examples.
        examples: the examples themselves, with conversation, completion, label and other fields; where none are given,
            each text as one user turn.
    """

    texts: Sequence[str]
    next_token_logits: Tensor | None = None
    sequence_logits: Tensor | None = None
    token_ids: TokenIds | None = None
    token_mask: TokenMask | None = None
    completions: Sequence[str] | None = None
    baseline: Outputs | None = None
    examples: Sequence[Example] = ()

    def __post_init__(self) -> None:
        if not self.examples:
            object.__setattr__(self, "examples", tuple(Example.of(text) for text in self.texts))


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


class Evaluator(ABC, Generic[OptionsT]):
    """Scores a model's outputs, example by example.

    Class attributes:
        aggregate: ``mean`` (normal interval) or ``proportion`` of examples with value 1 (Wilson interval).
        unit: as the report prints it: ``nats``, ``log-odds``, ``fraction``.
        derived: further names with a monotone function of the mean, such as perplexity of cross-entropy.
    """

    aggregate: ClassVar[Literal["mean", "proportion"]] = "mean"
    unit: ClassVar[str] = ""
    derived: ClassVar[Mapping[str, Callable[[float], float]]] = {}

    def __init__(self, options: OptionsT, vocabulary: Vocabulary) -> None:
        self.options = options
        self.vocabulary = vocabulary

    @abstractmethod
    def score(self, outputs: Outputs) -> Sequence[Score]:
        """One score per example of the batch, in order. A score that can't be computed is NaN, never 0."""
