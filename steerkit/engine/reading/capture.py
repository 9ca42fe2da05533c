"""Prompts to activations: streamed statistics, or rows where somebody asks for them.

The pass computes no head, stops behind the last tap that is read, and keeps the read tokens only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor

from steerkit.api.estimator import ClassStatistics
from steerkit.api.hookspecs import StatisticsKind
from steerkit.engine.lowering.edits import Steer
from steerkit.engine.prompts.batches import Batch, PaddingSide
from steerkit.engine.reading.captured import Captured
from steerkit.engine.reading.captured import Key as Key
from steerkit.engine.runtime.beginning import read_batch
from steerkit.engine.runtime.steering import require_rows
from steerkit.engine.sequence.positions import BEHIND, FAR, edit_mask, position_intervals
from steerkit.errors import DataError, PositionError, SiteError, nearest
from steerkit.progress import Progress, shown
from steerkit.types import FROM_TOKEN, Positions, Site

if TYPE_CHECKING:
    from steerkit.engine.prompts.chat import Rendered
    from steerkit.engine.prompts.inputs import Prompts
    from steerkit.engine.runtime.runtime import Runtime


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
    prompts: Prompts,
    sites: Sequence[Site],
    positions: Sequence[Positions] = (Positions("", (-1,)),),
    *,
    kind: StatisticsKind = "mean",
    by_prompt: bool = False,
    padding_side: PaddingSide = "right",
    steer: Sequence[Steer] | None = None,
    progress: Progress | bool = True,
) -> Captured:
    """Read activations of prompts at every given site and position.

    Args:
        live: the model.
        prompts: texts, lists of messages or examples, which the chat format renders, or token ids as they are. A
            conversation that ends with the assistant's turn is read to its end, and no answer is begun.
        sites: where to read.
        positions: which tokens; each entry has its own statistics, and every token that it names counts
            as one observation. Explicit ones count within the prompt; ``completion`` are the tokens of an example's
            completion; ``from_token(...)`` those behind the first place where that text is complete, in each prompt
            where it is.
        kind: ``mean``; ``moments``, also ``[d_model, d_model]`` second moments; ``rows``, also every
            vector, in the order of the prompts (memory then grows with their number).
        by_prompt: whether statistics of another kind hold each prompt's own mean too, one vector for each.
        padding_side: ``right`` needs no mask in a causal model and is the faster one; the numbers are equal.
        steer: a condition for each prompt, None where it is left alone.
        progress: told how many prompts are done; True shows a bar at a terminal.

    Returns:
        ``{(site, positions): ClassStatistics}``, sums accumulated in float64; see ``Captured`` for its keys.

    Raises:
        DataError: for no prompts, or activations that aren't finite.
        PositionError: for no positions, and for a prompt that doesn't have the token of an index. A range that is empty
            in some prompt takes nothing from it.
        SiteError: for no site, and for one that the model doesn't have.
    """
    if kind not in get_args(StatisticsKind):
        raise DataError(f"Unknown kind of statistics {kind!r}. {nearest(kind, get_args(StatisticsKind), 'kind')}")
    if padding_side not in get_args(PaddingSide):
        sides = get_args(PaddingSide)
        raise DataError(f"Padding goes left or right, not {padding_side!r}. {nearest(padding_side, sides, 'side')}")
    if not sites:
        raise SiteError("There is no site to read at: name one at least, as in 'blocks.14.resid_pre'.")
    if not positions:
        raise PositionError("There are no positions to read: name one at least, as in -1 or 'instruction'.")
    for site in sites:
        live.layout.require(site)
    rendered = live.rendered(prompts, completion=any(reads_behind(one) for one in positions))
    if not rendered:
        raise DataError("There are no prompts to capture. Check the data set and its split.")
    require_rows(steer, len(rendered))
    _require_completions_to_read(rendered, positions)
    sums = {(site, position): _Accumulator(kind) for site in sites for position in positions}
    rows: dict[Key, list[tuple[tuple[int, ...], Tensor, Tensor]]] = {key: [] for key in sums}
    done = 0
    with shown(progress, "capturing") as tell:
        for batch in live.batched(rendered, padding_side, fine=True):
            read = tokens_of_batch(live, batch, sites, positions, steer)
            for key, (values, counts) in read.items():
                sums[key].add(values)
                if kind == "rows":
                    rows[key].append((batch.order, values.float().cpu(), counts))
                elif by_prompt:
                    rows[key].append((batch.order, _means_of_rows(values.float().cpu(), counts), counts.clamp(max=1)))
            done += len(batch.order)
            tell(done, len(rendered))
    return Captured({key: _statistics_of(key, acc, rows[key]) for key, acc in sums.items()})


def _means_of_rows(values: Tensor, counts: Tensor) -> Tensor:
    """The mean of each row's tokens, ``[rows that have any, d_model]``, float32."""
    if bool((counts == 1).all()):
        return values
    means = [one.double().mean(0).float() for one in values.split(counts.tolist()) if len(one)]
    return torch.stack(means) if means else values


def reads_behind(positions: Positions) -> bool:
    """Whether positions may name tokens behind the prompt, so that completions have to be read."""
    return positions.role in ("all", FROM_TOKEN, *BEHIND)


def _require_completions_to_read(rendered: Sequence[Rendered], positions: Iterable[Positions]) -> None:
    asking = next((one for one in positions if one.role in BEHIND), None)
    lacking = next((place for place, one in enumerate(rendered) if one.prompt is None), None)
    if asking is not None and lacking is not None:
        raise DataError(
            f"Positions '{asking}': prompt {lacking + 1} has no completion, and nothing is generated while activations "
            "are read. Pass Example(messages, completion=...), or in a recipe's data set name a field: "
            "completion: <field>."
        )


def _statistics_of(key: Key, acc: _Accumulator, rows: list[tuple[tuple[int, ...], Tensor, Tensor]]) -> ClassStatistics:
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
    # Of another kind than rows these are one mean for each prompt, of which prompt_means are the same.
    return ClassStatistics(acc.count, mean, second, torch.cat(in_order), counts)


def tokens_of_batch(
    live: Runtime,
    batch: Batch,
    sites: Sequence[Site],
    positions: Sequence[Positions],
    steer: Sequence[Steer] | None = None,
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
    picks = {position: tokens_of(live, position, batch) for position in positions}
    found: dict[Key, tuple[Tensor, Tensor]] = {}

    def reader(site: Site) -> Callable[[Tensor], None]:
        columns = live.layout.columns(site)

        def read(x: Tensor) -> None:
            for position, (row, column, counts) in picks.items():
                found[(site, position)] = (x[row, column][:, columns].detach(), counts)

        return read

    read_batch(live, batch, steer=steer, readers={site: reader(site) for site in sites}, stops=True)
    return found


def tokens_of(live: Runtime, positions: Positions, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Row and column of every token that positions name, ordered by row, and the count per row."""
    if positions.role == FROM_TOKEN:
        low, high = _behind(live, positions, batch)
    else:
        low, high = position_intervals(positions, batch.frame)
    if positions.indices:
        rows, chosen = low.shape
        row = torch.arange(rows).repeat_interleave(chosen)
        return row, low.reshape(-1), torch.full((rows,), chosen)
    mask = edit_mask((low, high), 0, batch.input_ids.shape[1])
    row, column = mask.nonzero(as_tuple=True)
    return row, column, mask.sum(1)


def _behind(live: Runtime, positions: Positions, batch: Batch) -> tuple[Tensor, Tensor]:
    """The columns behind the first place in each row where what ``from_token`` names is complete."""
    starts = []
    for ids, first, end in zip(batch.input_ids.tolist(), batch.frame.first, batch.frame.end, strict=True):
        place = live.steering.find(positions, ids[int(first) : int(end)], 0)
        starts.append(int(end) if place >= FAR else int(first) + place)
    return torch.tensor(starts)[:, None], batch.frame.end[:, None]
