"""A batch of prompts to the token ids that a model puts behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steerkit.engine.runtime.ended import may_be_padded, watched
from steerkit.engine.sites.evaluating import evaluating
from steerkit.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from steerkit.engine.prompts.batches import Batch

GREEDY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
}
"""Plain greedy decoding. Checkpoints ship settings of their own, such as Qwen's repetition penalty, that would
otherwise be part of every measurement. (Temperature and the like are transformers' defaults: unused, and no warning.)
"""


def generate_batch(
    model: PreTrainedModel, batch: Batch, *, max_new_tokens: int, pad_id: int, settings: Mapping[str, Any]
) -> list[list[int]]:
    """New tokens of every returned sequence, up to and without the end token.

    Args:
        model: the model.
        batch: prompts, padded on the left.
        max_new_tokens: most new tokens.
        pad_id: what rows that have ended are filled with.
        settings: of transformers' ``generate``. Plain greedy decoding unless they hold ``do_sample=True``, beams or
            a ``generation_config``, with which the checkpoint's own defaults apply.

    Returns:
        ``rows * num_return_sequences`` lists, the sequences of a row side by side.
    """
    if settings.get("return_dict_in_generate"):
        raise ModelError("return_dict_in_generate is for transformers' own generate; this one returns texts.")
    own = settings.get("do_sample") or "generation_config" in settings
    settings = {**({} if own else GREEDY), **settings}
    settings, ended = watched(settings, batch.input_ids.shape[1])
    tokens = write_tokens(model, batch, max_new_tokens=max_new_tokens, pad_id=pad_id, settings=settings)
    ends, config = end_ids(model, settings), settings.get("generation_config") or model.generation_config
    padded = ended is None and may_be_padded(settings, config)
    lengths = [None] * len(tokens) if ended is None else ended.lengths(len(tokens))
    return [
        until_end(unpadded(row, pad_id) if padded else row[:length], ends)
        for row, length in zip(tokens.tolist(), lengths, strict=True)
    ]


def write_tokens(
    model: PreTrainedModel, batch: Batch, *, max_new_tokens: int, pad_id: int, settings: Mapping[str, Any]
) -> Tensor:
    """What ``generate`` writes behind a batch, ``[rows * num_return_sequences, new]``, ended rows filled up."""
    generate: Any = model.generate
    with evaluating(model):
        output: Tensor = generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask.long(),
            max_new_tokens=max_new_tokens,
            **{"pad_token_id": pad_id, **settings},
        )
    return output[:, batch.input_ids.shape[1] :]


def end_ids(model: PreTrainedModel, settings: Mapping[str, Any]) -> frozenset[int]:
    """The tokens that end a row."""
    config = settings.get("generation_config") or model.generation_config
    ends = settings.get("eos_token_id", getattr(config, "eos_token_id", None))
    if ends is None:
        return frozenset()
    return frozenset(ends) if isinstance(ends, (list, tuple)) else frozenset((int(ends),))


def until_end(ids: list[int], ends: frozenset[int]) -> list[int]:
    """Tokens before the end token, or all."""
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]


def unpadded(ids: list[int], pad_id: int) -> list[int]:
    """Tokens without padding at their end, where nobody knows whether it is padding or was written."""
    while ids and ids[-1] == pad_id:
        ids.pop()
    return ids
