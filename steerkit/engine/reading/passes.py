"""The passes that evaluators share: next-token logits, logits along a text, completions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steerkit.api.architecture import Layout
from steerkit.engine.lowering.edits import Steer
from steerkit.engine.prompts.batches import Batch
from steerkit.engine.runtime.beginning import complete_batch, read_batch
from steerkit.engine.runtime.sampling import sampling_settings
from steerkit.engine.runtime.steering import require_rows
from steerkit.engine.sites.taps import through
from steerkit.errors import DataError
from steerkit.progress import SILENT, Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from steerkit.engine.prompts.chat import Rendered
    from steerkit.engine.prompts.inputs import Prompts
    from steerkit.engine.runtime.runtime import Runtime
    from steerkit.types import TokenIds, TokenMask


def logits_of(model: PreTrainedModel, layout: Layout, hidden: Tensor) -> Tensor:
    """Head and declared post-processing on what the base model returned (usually after the final norm).

    Args:
        hidden: ``[*, d_model]``.

    Returns:
        ``[*, vocab]``, float32.
    """
    logits = through(model, layout.behind_base, hidden).float()
    if layout.logit_scale != 1.0:
        logits = logits * layout.logit_scale
    return logits if layout.softcap is None else layout.softcap * torch.tanh(logits / layout.softcap)


def _read_hidden_states(live: Runtime, batch: Batch, steer: Sequence[Steer] | None) -> Tensor:
    hidden = read_batch(live, batch, steer=steer)
    assert hidden is not None  # nobody asked to leave the pass
    return hidden


@torch.no_grad()
def next_token_logits(
    live: Runtime,
    prompts: Prompts,
    progress: Progress = SILENT.progress,
    steer: Sequence[Steer] | None = None,
) -> Tensor:
    """Logits after each prompt's last token, ``[n, vocab]``, float32 on the CPU, in the order of the prompts.

    ``steer`` holds a condition for each prompt, None where it is left alone.
    """
    rendered = live.rendered(prompts)
    if not rendered:
        raise DataError("There are no prompts to evaluate.")
    require_rows(steer, len(rendered))
    for prompt in rendered:
        prompt.require_open()
    rows: list[Tensor | None] = [None] * len(rendered)
    done = 0
    for batch in live.batched(rendered, "right"):
        hidden = _read_hidden_states(live, batch, steer)
        last = (batch.frame.end - 1).to(hidden.device)
        picked = hidden[torch.arange(hidden.shape[0], device=hidden.device), last]
        logits = logits_of(live.model, live.layout, picked).cpu()
        for place, index in enumerate(batch.order):
            rows[index] = logits[place]
        done += len(batch.order)
        progress(done, len(rendered))
    return torch.stack([row for row in rows if row is not None])


@dataclass(frozen=True, eq=False)
class SequenceLogits:
    """Logits along the texts of one batch.

    Args:
        order: places of the rows among the texts.
        logits: ``[n, pos, vocab]``, float32: row ``t`` predicts ``token_ids[:, t]``.
        token_ids: ``[n, pos]``.
        token_mask: ``[n, pos]``, True where a token counts.
    """

    order: tuple[int, ...]
    logits: Tensor
    token_ids: TokenIds
    token_mask: TokenMask


@torch.no_grad()
def sequence_logits(
    live: Runtime, texts: Sequence[Rendered], skip: Sequence[int], steer: Sequence[Steer] | None = None
) -> Iterator[SequenceLogits]:
    """Logits along texts, a batch at a time, since they are too large to be kept.

    Args:
        texts: rendered texts.
        skip: how many leading tokens of each text are context and don't count (at least the first one).
        steer: a condition for each text, None where it is left alone.
    """
    require_rows(steer, len(texts))
    vocab = live.model.get_output_embeddings().weight.shape[0]
    for batch in live.batched(texts, "right"):
        hidden = _read_hidden_states(live, batch, steer)
        columns = torch.arange(1, batch.input_ids.shape[1])
        context = torch.tensor([max(skip[index], 1) for index in batch.order])
        mask = batch.attention_mask[:, 1:].cpu() & (columns >= context[:, None])
        # A row at a time where a whole batch of logits would take more than about a gigabyte.
        step = max(1, 2**28 // max(1, vocab * hidden.shape[1]))
        for start in range(0, hidden.shape[0], step):
            part = slice(start, start + step)
            # The head may lie on another device than the embedding.
            logits = logits_of(live.model, live.layout, hidden[part, :-1])
            yield SequenceLogits(
                batch.order[part],
                logits,
                batch.input_ids[part, 1:].to(logits.device),
                mask[part].to(logits.device),
            )


def sampled_completions(
    live: Runtime,
    prompts: Sequence[Rendered],
    keys: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    progress: Progress = SILENT.progress,
) -> list[list[int]]:
    """Sampled completions of prompts, each drawn by its own key: token ids, in the order of the prompts.

    Equal keys, prompts and batches give equal bytes, whatever was drawn before; see ``engine.runtime.sampling``.
    """
    for prompt in prompts:
        prompt.require_open()
    found: list[list[int]] = [[]] * len(prompts)
    done = 0
    for batch in live.batched(prompts, "left", extra_tokens=max_new_tokens):
        chosen = [keys[index] for index in batch.order]
        settings = sampling_settings(chosen, batch.input_ids.shape[1], temperature, top_p)
        rows = complete_batch(live, batch, max_new_tokens=max_new_tokens, settings=settings)
        for place, index in enumerate(batch.order):
            found[index] = rows[place].ids
        done += len(batch.order)
        progress(done, len(prompts))
    return found
