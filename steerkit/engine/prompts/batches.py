"""Prompts to padded batches: sorted by length, as many rows as a token budget allows."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor

from steerkit.engine.sequence.positions import Frame, frame_of_prompts

if TYPE_CHECKING:
    from steerkit.engine.prompts.chat import Rendered
    from steerkit.types import TokenIds, TokenMask

PaddingSide = Literal["left", "right"]

SHORTEST_BEGINNING: Final = 4
"""Fewer tokens in common aren't worth a pass of their own."""
PASS_TOKENS: Final = 24
"""About as many tokens as cost, on a CPU, what a further pass costs beside its tokens: what a shared beginning spares
at least, and what keeps rows from being cut too fine."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded rows.

    Args:
        order: place of each row in the sequence that was batched.
        input_ids: ``[rows, columns]``.
        attention_mask: ``[rows, columns]``, True at real tokens.
        frame: where each row's parts lie.
        shared: how many first tokens all rows have in common, where to read them once spares enough; else 0. It
            follows from the batch's tokens alone.
    """

    order: tuple[int, ...]
    input_ids: TokenIds
    attention_mask: TokenMask
    frame: Frame
    shared: int = 0

    @property
    def beginning(self) -> TokenIds:
        """The tokens that all rows have in common, ``[1, shared]``."""
        first = int(self.frame.first[0])
        return self.input_ids[:1, first : first + self.shared]

    def apart(self) -> Batch:
        """The same rows with their common beginning in the first columns, and padding on the left behind it.

        Every other token keeps its column. Of a batch that is padded on the right it is the batch itself, but for what
        its frame says: that a pass behind the beginning holds nothing of it.
        """
        frame = replace(self.frame, shared=self.shared)
        if not bool((self.frame.first > 0).any()):
            return replace(self, frame=frame)
        ids, mask = self.input_ids.clone(), self.attention_mask.clone()
        ids[:, : self.shared], mask[:, : self.shared] = self.beginning, True
        columns = torch.arange(ids.shape[1])
        gap = (columns >= self.shared) & (columns < self.frame.first[:, None] + self.shared)
        mask[gap.to(mask.device)] = False
        return replace(self, input_ids=ids, attention_mask=mask, frame=frame)


def batches(
    prompts: Sequence[Rendered],
    *,
    batch_tokens: int,
    padding_side: PaddingSide,
    pad_id: int,
    device: torch.device,
    extra_tokens: int = 0,
    fine: bool = False,
    of_one_length: bool = False,
) -> list[Batch]:
    """Cut prompts into batches, the longest first so that a batch that doesn't fit fails at once.

    Args:
        prompts: rendered prompts.
        batch_tokens: most columns times rows of a batch; a longer prompt gets a batch of its own.
        padding_side: where padding goes.
        pad_id: the padding token; never read.
        device: where the tensors go.
        extra_tokens: columns that each row will grow by (generation), counted into the budget.
        fine: cut each batch further where that spares more padding than further passes cost on a CPU.
        of_one_length: pad nothing: prompts of another length begin another batch.
    """
    lengths = [len(prompt.token_ids) for prompt in prompts]
    by_length = sorted(range(len(prompts)), key=lambda index: (-lengths[index], index))
    cut: list[list[int]] = []
    for index in by_length:
        # The first of a batch is its longest, so its length is the width.
        fits = not of_one_length or (bool(cut) and lengths[cut[-1][0]] == lengths[index])
        if cut and fits and (len(cut[-1]) + 1) * (lengths[cut[-1][0]] + extra_tokens) <= batch_tokens:
            cut[-1].append(index)
        else:
            cut.append([index])
    if fine:
        cut = [part for rows in cut for part in _cut_finely([prompts[index] for index in rows], rows, batch_tokens)]
    growing = extra_tokens > 0
    return [pad([prompts[index] for index in rows], tuple(rows), padding_side, pad_id, device, growing) for rows in cut]


def _cut_finely(prompts: Sequence[Rendered], places: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """A batch cut into parts of rows of like length. What they begin with is read once in each."""
    shared = common_beginning([prompt.token_ids for prompt in prompts])
    lengths = [len(prompt.token_ids) - shared for prompt in prompts]
    pieces = cut_evenly(lengths, batch_tokens, 2 * PASS_TOKENS + shared if shared else PASS_TOKENS)
    return [[places[place] for place in piece] for piece in pieces]


def cut_evenly(lengths: Sequence[int], most_tokens: int, pass_tokens: int = PASS_TOKENS) -> list[list[int]]:
    """Places of rows cut into pieces, the longest first, so that padding and the number of pieces cost least together.

    A piece costs its rows times its longest, and ``pass_tokens`` beside.
    """
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    widths = [lengths[place] for place in order]
    begins = _least_cuts(widths, most_tokens, pass_tokens)
    pieces = []
    end = len(order)
    while end:
        pieces.append(order[begins[end] : end])
        end = begins[end]
    return pieces[::-1]


def _least_cuts(widths: Sequence[int], most_tokens: int, pass_tokens: int) -> list[int]:
    """Where the last piece of the cheapest cut of the first ``end`` rows begins, by ``end``; of equals the earliest.

    What a piece from ``start`` to ``end`` costs is a line in ``end``, whose slope is the first row's width. Widths
    fall, so a later start that is once cheaper stays so, and a start that the budget rules out stays ruled out, before
    all later ones. Each start is thus the best one for a run of ends, and these runs follow each other as the starts
    do: every start joins those that lie ahead once and leaves them once (Galil and Giancarlo, 1989, "Speeding up
    dynamic programming", with crossings in closed form).

    Args:
        widths: of the rows, none wider than the one before it.
        most_tokens: of a piece of several rows.
        pass_tokens: what a piece costs beside its tokens.
    """
    n = len(widths)
    bases: list[int] = []
    lasts: list[int] = []
    begins = [0] * (n + 1)
    ahead: deque[tuple[int, int]] = deque()

    def cost(start: int, end: int) -> float:
        return bases[start] + widths[start] * end if end <= lasts[start] else math.inf

    least = 0
    for start in range(n):
        bases.append(least + pass_tokens - start * widths[start])
        lasts.append(start + (max(1, most_tokens // widths[start]) if widths[start] else n))
        since = start + 1
        while ahead:
            before, begun = ahead[-1][0], max(ahead[-1][1], start + 1)
            if cost(start, begun) >= cost(before, begun):
                fall = widths[before] - widths[start]
                crossing = (bases[start] - bases[before]) // fall + 1 if fall else n + 1
                since = min(crossing, lasts[before] + 1)
                break
            ahead.pop()
        if since <= n:
            ahead.append((start, since))
        while len(ahead) > 1 and ahead[1][1] <= start + 1:
            ahead.popleft()
        begins[start + 1] = ahead[0][0]
        least = bases[ahead[0][0]] + widths[ahead[0][0]] * (start + 1)
    return begins


def pad(
    prompts: Sequence[Rendered],
    order: tuple[int, ...],
    side: PaddingSide,
    pad_id: int,
    device: torch.device,
    growing: bool = False,
) -> Batch:
    """One batch of prompts, in the order given. Arguments as of ``batches``; ``order`` names their places."""
    lengths = [len(prompt.token_ids) for prompt in prompts]
    width = max(lengths)
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        place = slice(width - lengths[row], None) if side == "left" else slice(0, lengths[row])
        ids[row, place] = torch.tensor(prompt.token_ids)
        mask[row, place] = True
    frame = frame_of_prompts(
        lengths,
        [prompt.turns for prompt in prompts],
        width=width,
        padding_side=side,
        growing=growing,
        prompts=[len(prompt.token_ids) if prompt.prompt is None else prompt.prompt for prompt in prompts],
    )
    shared = common_beginning([prompt.token_ids for prompt in prompts])
    if (len(prompts) - 1) * shared < PASS_TOKENS:
        shared = 0
    return Batch(order, ids.to(device), mask.to(device), frame, shared)


def common_beginning(rows: Sequence[Sequence[int]]) -> int:
    """How many first tokens all rows have in common, at least one token of each left over; 0 for too few."""
    # What the first and the last in order have in common, all between them have as well.
    whole = [tuple(row) for row in rows]
    least, greatest, shortest = min(whole), max(whole), min(map(len, whole))
    length = 0
    while length < shortest - 1 and least[length] == greatest[length]:
        length += 1
    return length if length >= SHORTEST_BEGINNING and len(rows) > 1 else 0


def position_ids(attention_mask: Tensor) -> Tensor:
    """Places of real tokens, ``[rows, columns]``, counted from 0 after left padding."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def forward_arguments(batch: Batch, positions: bool = True) -> dict[str, Any]:
    """Keyword arguments of a forward pass over a batch.

    Args:
        batch: the batch.
        positions: whether the model is told where tokens stand.

    A causal model's token never sees what stands to its right, so padding on the right needs no
    mask, and the attention kernel takes its fast path.
    """
    arguments: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False}
    left = bool((batch.frame.first > 0).any())
    if left:
        arguments["attention_mask"] = batch.attention_mask.long()
        if positions:
            arguments["position_ids"] = position_ids(batch.attention_mask)
    return arguments


def arguments_behind(batch: Batch, positions: bool = True) -> dict[str, Any]:
    """Keyword arguments of a forward pass over what stands behind the common beginning of a batch that lies
    ``apart``; the cache that holds the beginning comes beside them."""
    arguments: dict[str, Any] = {"input_ids": batch.input_ids[:, batch.shared :], "use_cache": True}
    if bool((batch.frame.first > 0).any()):
        arguments["attention_mask"] = batch.attention_mask.long()
        if positions:
            arguments["position_ids"] = position_ids(batch.attention_mask)[:, batch.shared :]
    return arguments
