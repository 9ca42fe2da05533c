"""Why the rows of a batch end, known and told as they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from torch import Tensor

from steerkit.api.monitor import FinishReason
from steerkit.errors import DataError, ModelError
from steerkit.types.examples import require_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Criterion: TypeAlias = Callable[[Tensor, Any], Any]
"""A stopping criterion of transformers: from ``[rows, columns]`` of token ids to which rows are done."""


@dataclass(frozen=True)
class Written:
    """What was written of one row.

    Args:
        ids: up to and without the end token.
        reason: why it ends there.
    """

    ids: list[int]
    reason: FinishReason


class Listener(Protocol):
    """Is told each token as it is written."""

    @property
    def closed(self) -> bool:
        """Whether nobody wants to hear more: then nothing more is written, and nothing told."""
        ...

    def tell(self, row: int, rows: int, token: int, reason: FinishReason | None) -> None:
        """A token was written in a row, of so many; the last one of a row comes with the reason."""
        ...


@dataclass(eq=False)
class Ending:
    """One stopping criterion in place of those that were asked for, which notes for each row why it ends.

    Args:
        ends: tokens that end a row.
        max_new_tokens: most new tokens of a row.
        columns: of the prompts.
        stop_strings: tells where a text that ends a row has just been written.
        further: other criteria that were asked for.
        listener: is told of every token.
    """

    ends: frozenset[int]
    max_new_tokens: int
    columns: int
    stop_strings: Criterion | None = None
    further: Criterion | None = None
    listener: Listener | None = None
    written: dict[int, list[int]] = field(default_factory=dict)
    reasons: dict[int, FinishReason] = field(default_factory=dict)
    _rows: Sequence[int] | None = None
    _of: int = 0

    def goes_on(self, rows: Sequence[int], columns: int) -> None:
        """What follows is written behind some of the rows alone, which have so many columns by now."""
        self._rows, self.columns = rows, columns

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Whether each row is done, ``[rows]``."""
        new, n = input_ids[:, self.columns :].tolist(), input_ids.shape[0]
        self.columns = input_ids.shape[1]
        rows = self._rows if self._rows is not None else range(n)
        self._of = max(self._of, n)
        stopped = _asked(self.stop_strings, input_ids, scores, kwargs)
        done = _asked(self.further, input_ids, scores, kwargs)
        if self.listener is not None and self.listener.closed:
            return torch.ones(n, dtype=torch.bool, device=input_ids.device)
        for place, (row, tokens) in enumerate(zip(rows, new, strict=True)):
            for at, token in enumerate(tokens, 1):
                if row not in self.reasons:
                    last = at == len(tokens)
                    self._note(row, token, last and stopped[place], last and done[place])
        return torch.tensor([row in self.reasons for row in rows], device=input_ids.device)

    def _note(self, row: int, token: int, stopped: bool, done: bool) -> None:
        written = self.written.setdefault(row, [])
        reason: FinishReason | None = None
        if token in self.ends:
            reason = "end_token"
        else:
            written.append(token)
            if stopped:
                reason = "stop_string"
            elif len(written) >= self.max_new_tokens:
                reason = "length"
            elif done:
                reason = "stopped"
        if reason is not None:
            self.reasons[row] = reason
        if self.listener is not None:
            self.listener.tell(row, self._of, token, reason)

    def found(self, rows: int) -> list[Written]:
        """What was written of so many rows. What ended a row unseen, as a limit of time does, stopped it."""
        return [Written(self.written.get(row, []), self.reasons.get(row, "stopped")) for row in range(rows)]


def _asked(criterion: Criterion | None, input_ids: Tensor, scores: Any, kwargs: Mapping[str, Any]) -> list[bool]:
    if criterion is None:
        return [False] * input_ids.shape[0]
    found = torch.as_tensor(criterion(input_ids, scores, **kwargs), dtype=torch.bool)
    return [bool(one) for one in found.expand(input_ids.shape[0]).tolist()]


def stop_strings_of(model: PreTrainedModel, settings: Mapping[str, Any]) -> list[str]:
    """The texts that end a row: those that are asked for, or those of the checkpoint.

    Raises:
        DataError: for what is no text that could be found.
    """
    config = settings.get("generation_config") or model.generation_config
    asked: object = settings.get("stop_strings", getattr(config, "stop_strings", None))
    listed = [asked] if isinstance(asked, str) else asked
    if listed is None:
        return []
    if not isinstance(listed, (list, tuple)) or not all(isinstance(one, str) and one for one in listed):
        raise DataError(f"stop_strings is a text or a list of texts, none of them empty, not {asked!r}.")
    for one in listed:
        require_whole(one, "A stop string")
    return list(listed)


class StopTexts:
    """Tells which rows have just written a text that ends them.

    transformers' own criterion looks at the prompt as well, so that a text that begins in it would end an answer.

    Args:
        stops: the texts, at least one.
        tokenizer: what reads the answers.
        columns: of the prompts.
    """

    def __init__(self, stops: Sequence[str], tokenizer: Any, columns: int) -> None:
        self.stops, self.tokenizer, self.columns = tuple(stops), tokenizer, columns
        # A token holds a byte at least; some more, because the text of a token may depend on those before it.
        self.tail = max(len(stop.encode()) for stop in stops) + 4

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Which rows hold one at their end, ``[rows]``."""
        tails = input_ids[:, max(self.columns, input_ids.shape[1] - self.tail) :]
        texts = self.tokenizer.batch_decode(tails)
        return torch.tensor([any(stop in text for stop in self.stops) for text in texts])


def stop_criterion(stops: Sequence[str], tokenizer: Any, columns: int) -> StopTexts | None:
    """What looks for texts in answers; None for none of them.

    Args:
        stops: the texts.
        tokenizer: what reads the answers.
        columns: of the prompts.

    Raises:
        ModelError: without a tokenizer.
    """
    if not stops:
        return None
    if tokenizer is None:
        raise ModelError(
            "stop_strings are looked for in text, and this model came without a tokenizer. "
            "Pass one: steerkit.wrap(model, tokenizer)."
        )
    return StopTexts(stops, tokenizer, columns)


def until_end(ids: list[int], ends: frozenset[int], max_new_tokens: int) -> Written:
    """Tokens before the end token of a row that nothing but an end token, its length or a limit of time ends."""
    for place, token in enumerate(ids):
        if token in ends:
            return Written(ids[:place], "end_token")
    return Written(ids, "length" if len(ids) >= max_new_tokens else "stopped")
