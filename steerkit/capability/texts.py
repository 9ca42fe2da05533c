"""Tokens and passes of capability tasks: how likely continuations are, and what is written greedily.

Texts are cut into tokens, truncated and stopped as ``HFLM``, the transformers model of lm-evaluation-harness, does it
(Gao et al., "The Language Model Evaluation Harness", EleutherAI/lm-evaluation-harness, 0.4.13), so that an unsteered
model gets the scores that it has there. The passes are steerkit's own: whatever steers the model steers them, the
context is the prompt, and what follows it is the completion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from steerkit.engine.prompts.chat import Rendered
from steerkit.engine.prompts.encoding import token_ids
from steerkit.engine.reading.passes import logits_of
from steerkit.engine.runtime.beginning import complete_batch, read_batch
from steerkit.errors import DataError, counted

if TYPE_CHECKING:
    from steerkit.session.model import LiveModel

Ids = tuple[int, ...]

MAX_NEW_TOKENS: Final = 256
"""Of a task that doesn't say how long an answer may be: the harness's own."""
_CONTEXT: Final = 2048
_LENGTHS: Final = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_LOGITS: Final = 2**27
"""About half a gigabyte of logits at a time."""


def prefix_id(live: LiveModel) -> int:
    """The token that a text without any context stands behind: the tokenizer's begin token, else its end token."""
    tokenizer = live.chat.tokenizer
    found = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if found is None:
        raise DataError(
            "The tokenizer has neither a begin nor an end token, behind which a text without context could be read. "
            "Give it one of the two."
        )
    return int(found)


def context_length(live: LiveModel) -> int:
    """How many tokens the model reads at most; 2,048 where neither its config nor its tokenizer says."""
    config = live.model.config.get_text_config()
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if name == "max_position_embeddings" and live.context is not None:
            return live.context
        if (value := getattr(config, name, None)) is not None:
            return int(value)
    told = int(getattr(live.tokenizer, "model_max_length", _CONTEXT) or _CONTEXT)
    return told if told < 10**9 else _CONTEXT  # transformers' "no limit" is 10³⁰


def encode_pair(live: LiveModel, context: str, continuation: str) -> tuple[Ids, Ids]:
    """Tokens of a context, and of what follows it.

    Both are cut as one text; white space at the context's end belongs to the continuation, because a word's first token
    holds it. Without a context the continuation stands behind ``prefix_id``.
    """
    tokenizer = live.chat.tokenizer
    if context:
        stripped = context.rstrip()
        continuation, context = context[len(stripped) :] + continuation, stripped
        before = token_ids(tokenizer, context, special=True)
        if before:
            return before, token_ids(tokenizer, context + continuation, special=True)[len(before) :]
    alone, prefix = token_ids(tokenizer, continuation, special=False), prefix_id(live)
    return (alone[:1], alone[1:]) if alone[:1] == (prefix,) else ((prefix,), alone)


@torch.no_grad()
def loglikelihoods(live: LiveModel, pairs: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, bool]]:
    """Of each continuation its log-probability behind its context, in nats, and whether greedy decoding writes it.

    A pair that is too long loses the context's first tokens. Pairs that read the same tokens share a pass.

    Args:
        pairs: tokens of context and continuation, at least one of each.

    Raises:
        DataError: for a continuation without a token, or one that is longer than what the model reads.
    """
    limit = context_length(live)
    shared: dict[tuple[Ids, int], list[int]] = {}
    for place, (context, continuation) in enumerate(pairs):
        if not context or not continuation:
            raise DataError("A task asks for the likelihood of a text without a token. Look at its choices.")
        if len(continuation) > limit:
            raise DataError(
                f"A continuation of {counted(len(continuation), 'token')} is longer than the model's context of "
                f"{limit}. Leave "
                "the task out, or its row."
            )
        read = (*context, *continuation)[-limit - 1 :][:-1]
        shared.setdefault((read, len(read) + 1 - len(continuation)), []).append(place)
    keys = list(shared)
    found: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
    for batch in live.batched([Rendered(read, prompt=prompt) for read, prompt in keys], "right", fine=True):
        hidden = read_batch(live, batch)
        assert hidden is not None  # nobody asked to leave the pass
        for row, index in enumerate(batch.order):
            read, prompt = keys[index]
            places = shared[keys[index]]
            continuations = torch.tensor([pairs[place][1] for place in places])
            scored = _score(live, hidden[row, prompt - 1 : len(read)], continuations)
            for place, one in zip(places, scored, strict=True):
                found[place] = one
    return found


def _score(live: LiveModel, hidden: Tensor, continuations: Tensor) -> list[tuple[float, bool]]:
    """Scores of continuations ``[n, pos]`` from what was read before each of their tokens, ``[pos, d_model]``."""
    total = torch.zeros(continuations.shape[0], dtype=torch.float64)
    greedy = torch.ones(continuations.shape[0], dtype=torch.bool)
    step = max(1, _LOGITS // int(live.model.get_output_embeddings().weight.shape[0]))
    for start in range(0, hidden.shape[0], step):
        log_probs = logits_of(live.model, live.layout, hidden[start : start + step]).log_softmax(-1)
        wanted = continuations[:, start : start + step].to(log_probs.device)
        total += log_probs.gather(1, wanted.T).sum(0).double().cpu()
        greedy &= (log_probs.argmax(-1) == wanted).all(1).cpu()
    return list(zip(total.tolist(), greedy.tolist(), strict=True))


def rolling_loglikelihoods(live: LiveModel, texts: Sequence[str]) -> list[float]:
    """The natural log of each whole text's probability behind ``prefix_id``; of one without tokens 0.

    A text that is longer than the model's context is read in windows; each token is predicted once, and in the last
    window behind as many tokens as the model reads.
    """
    prefix, limit = prefix_id(live), context_length(live)
    owners: list[int] = []
    pairs: list[tuple[Ids, Ids]] = []
    for place, text in enumerate(texts):
        for pair in windows(token_ids(live.chat.tokenizer, text, special=True), prefix, limit):
            owners.append(place)
            pairs.append(pair)
    found = [0.0] * len(texts)
    for place, (value, _) in zip(owners, loglikelihoods(live, pairs) if pairs else [], strict=True):
        found[place] += value
    return found


def windows(ids: Ids, prefix: int, limit: int) -> Iterator[tuple[Ids, Ids]]:
    """A text in pieces that a model reads: of each the tokens before, and those that are predicted."""
    if ids:
        yield (prefix,), ids[:limit]
    for start in range(limit, len(ids), limit):
        end = min(start + limit, len(ids))
        yield ids[end - limit - 1 : start], ids[start:end]


def generations(live: LiveModel, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """What the model writes behind contexts: plain greedy decoding, up to the first stop string or an end token.

    A context that is too long for its answer loses its first tokens. White space stays as it is.

    Args:
        requests: contexts, each with the task's settings: ``until`` (stop strings) and ``max_gen_toks``.

    Raises:
        DataError: for settings that are no greedy decoding, or an answer that is as long as the model's context.
    """
    together: dict[tuple[tuple[str, ...], int], list[int]] = {}
    for place, (_, settings) in enumerate(requests):
        together.setdefault(_asked(settings), []).append(place)
    found = [""] * len(requests)
    for (until, length), places in together.items():
        texts = _completed(live, [requests[place][0] for place in places], until, length)
        for place, text in zip(places, texts, strict=True):
            found[place] = text
    return found


def _asked(settings: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """Stop strings, and most new tokens."""
    if settings.get("do_sample") or (settings.get("do_sample") is None and float(settings.get("temperature") or 0) > 0):
        raise DataError(
            "A task asks for sampled answers (do_sample, or a temperature), and answers are written greedily here. "
            "Leave the task out, or set its generation_kwargs to do_sample: false in a copy of it."
        )
    until = settings.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(map(str, until))
    length = next((settings[name] for name in _LENGTHS if settings.get(name) is not None), MAX_NEW_TOKENS)
    return tuple(stop for stop in stops if stop), int(length)


def _completed(live: LiveModel, contexts: Sequence[str], until: tuple[str, ...], length: int) -> list[str]:
    room = context_length(live) - length
    if room < 1:
        raise DataError(
            f"A task asks for answers of {counted(length, 'token')}, and the model's context has {room + length}. "
            "Leave the task out, or lower max_gen_toks in a copy of it."
        )
    tokenizer = live.chat.tokenizer
    rows = [token_ids(tokenizer, text, special=True)[-room:] or (prefix_id(live),) for text in contexts]
    ends = _end_ids(live)
    found = [""] * len(rows)
    for batch in live.batched([Rendered(row) for row in rows], "left", extra_tokens=length):
        settings: dict[str, Any] = {"eos_token_id": ends} if ends else {}
        if until:
            settings |= {"stop_strings": list(until), "tokenizer": tokenizer}
        written = complete_batch(live, batch, max_new_tokens=length, settings=settings)
        for index, one in zip(batch.order, written, strict=True):
            found[index] = _cut(str(tokenizer.decode(one.ids, skip_special_tokens=True)), until)
    return found


def _end_ids(live: LiveModel) -> list[int]:
    """The checkpoint's own end tokens, and the tokenizer's: the harness stops at both."""
    own = getattr(live.model.generation_config, "eos_token_id", None)
    listed = list(own) if isinstance(own, (list, tuple)) else [own]
    return sorted({int(one) for one in (*listed, live.chat.tokenizer.eos_token_id) if one is not None})


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text
