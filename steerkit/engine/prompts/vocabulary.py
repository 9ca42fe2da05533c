"""What evaluators may ask of a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerkit.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class TokenizerVocabulary:
    """A tokenizer's side of ``steerkit.api.evaluator.Vocabulary``.

    Args:
        tokenizer: the model's.
        size: number of logits (a model may have more than its tokenizer has tokens).
    """

    tokenizer: PreTrainedTokenizerBase
    size: int

    def token_id(self, text: str) -> int:
        """Id of the first token of ``text``, encoded by itself.

        ``" good"`` and ``"good"`` differ in byte-level vocabularies; sentencepiece ones put the mark of a word's
        beginning before both, as the protocol's refusal tokens have it (arXiv 2406.11717).
        """
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if not ids:
            raise DataError(f"The answer {text!r} has no token. Write the word that an answer begins with.")
        return int(ids[0])
