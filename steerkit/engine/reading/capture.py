"""Prompts to activations: streamed statistics, or rows where somebody asks for them.

The pass computes no head, stops behind the last tap that is read, and keeps the read tokens only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor

from steerkit.api.estimator import ClassStatistics
from steerkit.api.hookspecs import StatisticsKind
from steerkit.engine.lowering.edits import Condition
from steerkit.engine.prompts.batches import Batch, PaddingSide, forward_arguments
from steerkit.engine.runtime.steering import require_rows
from steerkit.engine.sequence.positions import edit_mask, intervals
from steerkit.engine.sites.evaluating import evaluating
from steerkit.engine.sites.taps import submodule
from steerkit.errors import DataError, nearest
from steerkit.progress import Progress, shown
from steerkit.types import Positions, Site

if TYPE_CHECKING:
    from steerkit.engine.runtime.runtime import Runtime

Key = tuple[Site, Positions]


class _Stop(Exception):
    """Leaves the forward pass once everything that is asked for was read."""


@dataclass
class _Accumulator:
    """Running sums of one site and position, in float64."""

    kind: StatisticsKind
    count: int = 0
    total: Tensor | None = None
    squares: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """Take in tokens ``[tokens, d_model]``."""
        x = x.double()
        self.count += x.shape[0]
        total = x.sum(0)
        self.total = total if self.total is None else self.total + total
        if self.kind == "moments":
            squares = x.T @ x
            self.squares = squares if self.squares is None else self.squares + squares


def capture(
    live: Runtime,
    prompts: Sequence[str],
    sites: Sequence[Site],
    positions: Sequence[Positions] = (Positions("", (-1,)),),
    *,
    kind: StatisticsKind = "mean",
    padding_side: PaddingSide = "right",
    steer: Sequence[Condition] | None = None,
    progress: Progress | bool = True,
) -> dict[Key, ClassStatistics]:
    """Read activations of prompts at every given site and position.

    Args:
        live: the model.
        prompts: texts; the model's chat format renders them.
        sites: where to read.
        positions: which tokens; each entry has its own statistics, and every token that it names counts
            as one observation.
        kind: ``mean``; ``moments``, also ``[d_model, d_model]`` second moments; ``rows``, also every
            vector, in the order of the prompts (memory then grows with their number).
        padding_side: ``right`` needs no mask in a causal model and is the faster one; the numbers are equal.
        steer: a condition for each prompt, None where it is left alone.
        progress: told how many prompts are done; True shows a bar at a terminal.

    Returns:
        ``{(site, positions): ClassStatistics}``, sums accumulated in float64.

    Raises:
        DataError: for no prompts, or activations that aren't finite.
        PositionError: for a prompt that doesn't have the token of an index. A range that is empty in some prompt
            takes nothing from it.
        SiteError: for a site that the model doesn't have.
    """
    if not prompts:
        raise DataError("There are no prompts to capture. Check the data set and its split.")
    if kind not in get_args(StatisticsKind):
        raise DataError(f"Unknown kind of statistics {kind!r}. {nearest(kind, get_args(StatisticsKind), 'kind')}")
    if padding_side not in get_args(PaddingSide):
        raise DataError(f"Padding goes left or right, not {padding_side!r}.")
    for site in sites:
        live.layout.require(site)
    require_rows(steer, len(prompts))
    rendered = [live.chat.render(prompt) for prompt in prompts]
    sums = {(site, position): _Accumulator(kind) for site in sites for position in positions}
    rows: dict[Key, list[tuple[tuple[int, ...], Tensor, Tensor]]] = {key: [] for key in sums}
    done = 0
    with shown(progress, "capturing") as tell:
        for batch in live.batched(rendered, padding_side):
            read = read_batch(live, batch, sites, positions, steer)
            for key, (values, counts) in read.items():
                sums[key].add(values)
                if kind == "rows":
                    rows[key].append((batch.order, values.float().cpu(), counts))
            done += len(batch.order)
            tell(done, len(prompts))
    return {key: _finish(key, acc, rows[key]) for key, acc in sums.items()}


def _finish(key: Key, acc: _Accumulator, rows: list[tuple[tuple[int, ...], Tensor, Tensor]]) -> ClassStatistics:
    site, positions = key
    if acc.total is None or acc.count == 0:
        raise DataError(f"No token at positions '{positions}' in any prompt.")
    if not bool(torch.isfinite(acc.total).all()):
        raise DataError(
            f"Activations at {site} hold NaN or infinite values. "
            "A float16 model can overflow: load it in float32 or bfloat16."
        )
    mean = (acc.total / acc.count).cpu()
    second = None if acc.squares is None else (acc.squares / acc.count).cpu()
    if not rows:
        return ClassStatistics(acc.count, mean, second)
    pieces: dict[int, Tensor] = {}
    for order, values, counts in rows:
        pieces.update(zip(order, values.split(counts.tolist()), strict=True))
    in_order = [pieces[index] for index in sorted(pieces)]
    counts = torch.tensor([len(piece) for piece in in_order])
    return ClassStatistics(acc.count, mean, second, torch.cat(in_order), counts)


def read_batch(
    live: Runtime,
    batch: Batch,
    sites: Sequence[Site],
    positions: Sequence[Positions],
    steer: Sequence[Condition] | None = None,
) -> dict[Key, tuple[Tensor, Tensor]]:
    """Read one batch.

    Args:
        live: the model.
        batch: of prompts.
        sites: where to read: what is there after that site's own updates.
        positions: which tokens.
        steer: a condition for each text that was batched.

    Returns:
        for each site and position the tokens ``[tokens, d_model]``, row by row, and how many of them
        each row has, ``[rows]``.
    """
    picks = {position: pick(position, batch) for position in positions}
    found: dict[Key, tuple[Tensor, Tensor]] = {}
    pending = set(sites)

    def reader(site: Site) -> Callable[[Tensor], None]:
        def read(x: Tensor) -> None:
            for position, (row, column, counts) in picks.items():
                found[(site, position)] = (x[row, column].detach(), counts)
            pending.discard(site)
            if not pending:
                raise _Stop

        return read

    readers = {site: reader(site) for site in sites}
    with live.running(batch, steer=steer, readers=readers), evaluating(live.model), suppress(_Stop):
        submodule(live.model, live.layout.base)(**forward_arguments(batch))
    return found


def pick(positions: Positions, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Row and column of every token that positions name, ordered by row, and the count per row."""
    low, high = intervals(positions, batch.frame)
    if positions.indices:
        rows, chosen = low.shape
        row = torch.arange(rows).repeat_interleave(chosen)
        return row, low.reshape(-1), torch.full((rows,), chosen)
    mask = edit_mask((low, high), 0, batch.input_ids.shape[1])
    row, column = mask.nonzero(as_tuple=True)
    return row, column, mask.sum(1)
