"""A batch of prompts to the token ids that a model puts behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from steerkit.engine.parallel.shards import mesh_of, of_each
from steerkit.engine.runtime.ending import (
    Ending,
    Listener,
    Written,
    stop_criterion,
    stop_strings_of,
    until_end,
)
from steerkit.engine.sites.evaluating import evaluating
from steerkit.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
    model: PreTrainedModel,
    batch: Batch,
    *,
    max_new_tokens: int,
    pad_id: int,
    settings: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase | None = None,
    listener: Listener | None = None,
) -> list[Written]:
    """New tokens of every returned sequence, up to and without the end token, and why each ends.

    Args:
        model: the model.
        batch: prompts, padded on the left.
        max_new_tokens: most new tokens.
        pad_id: what rows that have ended are filled with.
        settings: of transformers' ``generate``. Plain greedy decoding unless they hold ``do_sample=True``, beams or
            a ``generation_config``, with which the checkpoint's own defaults apply.
        tokenizer: for texts at which rows end.
        listener: is told of every token; not with beams.

    Returns:
        ``rows * num_return_sequences`` of them, the sequences of a row side by side.
    """
    if settings.get("return_dict_in_generate"):
        raise ModelError("return_dict_in_generate is for transformers' own generate; this one returns texts.")
    stops = stop_strings_of(model, settings)
    if not stops and settings.get("stop_strings") is not None:
        settings = {**settings, "stop_strings": None}  # none at all, of which transformers would ask for a tokenizer
    tokenizer = settings.get("tokenizer") or tokenizer
    if stops and tokenizer is not None:
        settings = {**settings, "tokenizer": tokenizer}
    ends, beams = end_ids(model, settings), has_beams(model, settings)
    ending = None
    if not beams and (stops or listener is not None or settings.get("stopping_criteria")):
        columns = batch.input_ids.shape[1]
        ending = Ending(ends, max_new_tokens, columns, stop_criterion(stops, tokenizer, columns))
        ending.listener, ending.further = listener, _list_of(settings.get("stopping_criteria"))
        settings = {**settings, "stopping_criteria": _list_of([ending])}
        if getattr(settings.get("generation_config") or model.generation_config, "stop_strings", None) is None:
            # Looked for once, and not by transformers as well. What a config says, it looks for all the same.
            settings = {name: value for name, value in settings.items() if name not in ("stop_strings", "tokenizer")}
    elif stops:
        stop_criterion(stops, tokenizer, batch.input_ids.shape[1])  # which says where there is no tokenizer
    settings = _with_defaults(settings)
    if beams:
        chosen = {**settings, "return_dict_in_generate": True}
        output = _generated(model, batch, max_new_tokens=max_new_tokens, pad_id=pad_id, settings=chosen)
        # Of every token the beam that it was written in, and -1 behind the end of a row.
        lengths = (output.beam_indices >= 0).sum(1).tolist()
        rows = output.sequences[:, batch.input_ids.shape[1] :].tolist()
        return [
            _of_beams(row[:length], ends, max_new_tokens, bool(stops))
            for row, length in zip(rows, lengths, strict=True)
        ]
    tokens = write_tokens(model, batch, max_new_tokens=max_new_tokens, pad_id=pad_id, settings=settings)
    if ending is not None:
        return ending.found(tokens.shape[0])
    return [until_end(row, ends, max_new_tokens) for row in tokens.tolist()]


def _list_of(criteria: Any) -> Any:
    from transformers import StoppingCriteriaList

    if criteria is not None and not isinstance(criteria, (list, tuple)):
        raise DataError(f"stopping_criteria is a list of them, not a {type(criteria).__name__}: write [...] around it.")
    return StoppingCriteriaList(criteria) if criteria else None


def _with_defaults(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    own = settings.get("do_sample") or "generation_config" in settings
    return {**({} if own else GREEDY), **settings}


def has_beams(model: PreTrainedModel, settings: Mapping[str, Any]) -> bool:
    """Whether rows are chosen among beams, so that a row isn't written from its first token to its last."""
    config = settings.get("generation_config") or model.generation_config
    return (_with_defaults(settings).get("num_beams", getattr(config, "num_beams", None)) or 1) > 1


def write_tokens(
    model: PreTrainedModel, batch: Batch, *, max_new_tokens: int, pad_id: int, settings: Mapping[str, Any]
) -> Tensor:
    """What ``generate`` writes behind a batch, ``[rows * num_return_sequences, new]``, ended rows filled up."""
    output: Tensor = _generated(model, batch, max_new_tokens=max_new_tokens, pad_id=pad_id, settings=settings)
    return output[:, batch.input_ids.shape[1] :]


def _generated(
    model: PreTrainedModel, batch: Batch, *, max_new_tokens: int, pad_id: int, settings: Mapping[str, Any]
) -> Any:
    """What ``generate`` gives."""
    generate: Any = model.generate
    with evaluating(model), _as_at_first(model), _drawn_alike(model, settings):
        return generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask.long(),
            max_new_tokens=max_new_tokens,
            **{"pad_token_id": pad_id, **settings},
        )


@contextmanager
def _drawn_alike(model: PreTrainedModel, settings: Mapping[str, Any]) -> Iterator[None]:
    """Run the body so that processes which run a model together draw the same tokens: by the first one's numbers."""
    config = settings.get("generation_config") or model.generation_config
    mesh = mesh_of(model) if settings.get("do_sample", getattr(config, "do_sample", False)) else None
    if mesh is None:
        yield
        return
    seed = int(of_each(torch.randint(2**62, ()), mesh)[0])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


_OF_LAST_PASS: Final = "rope_deltas"
"""What image-text models keep of the images of their last pass, by row. Behind a cache they take it for this one's,
whose rows may be others, and fewer."""


@contextmanager
def _as_at_first(model: nn.Module) -> Iterator[None]:
    """Run the body with nothing kept of the last pass, which may have been anybody's; it is put back."""
    kept = [(module, value) for module in model.modules() if (value := vars(module).get(_OF_LAST_PASS)) is not None]
    for module, _ in kept:
        setattr(module, _OF_LAST_PASS, None)
    try:
        yield
    finally:
        for module, value in kept:
            setattr(module, _OF_LAST_PASS, value)


def end_ids(model: PreTrainedModel, settings: Mapping[str, Any]) -> frozenset[int]:
    """The tokens that end a row."""
    config = settings.get("generation_config") or model.generation_config
    ends = settings.get("eos_token_id", getattr(config, "eos_token_id", None))
    if ends is None:
        return frozenset()
    listed = ends.flatten().tolist() if isinstance(ends, Tensor) else ends
    return frozenset(listed) if isinstance(listed, (list, tuple)) else frozenset((int(listed),))


def _of_beams(ids: list[int], ends: frozenset[int], max_new_tokens: int, stops: bool) -> Written:
    """What was written of a row that was chosen among beams, of which not everything says why it ends."""
    found = until_end(ids, ends, max_new_tokens)
    return Written(found.ids, "stop_string") if stops and found.reason == "stopped" else found


def require_new_tokens(max_new_tokens: object) -> None:
    """Raise ``DataError`` unless it is a number of tokens."""
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise DataError(f"max_new_tokens is a whole number of at least 1, not {max_new_tokens!r}.")
