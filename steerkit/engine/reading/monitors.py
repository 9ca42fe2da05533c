"""Monitors on a model: readings along texts in one pass, or while completions are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from steerkit.api.monitor import Completion, Monitor, Readings
from steerkit.engine.lowering.edits import Steer
from steerkit.engine.prompts.batches import Batch
from steerkit.engine.prompts.chat import Rendered
from steerkit.engine.reading.capture import Key, tokens_of
from steerkit.engine.runtime.beginning import complete_batch, edits_always, read_batch
from steerkit.engine.runtime.ending import Written
from steerkit.engine.runtime.steering import require_rows
from steerkit.engine.sequence.gates import gate_at_head, gate_projection
from steerkit.engine.sequence.positions import BEHIND, edit_mask, frame_of_prompts, position_intervals
from steerkit.engine.sites.taps import Handler
from steerkit.errors import AttachError, PositionError

if TYPE_CHECKING:
    from steerkit.api.architecture import Layout
    from steerkit.engine.prompts.inputs import Prompts
    from steerkit.engine.runtime.runtime import Runtime
    from steerkit.types import Positions, Site

_OTHER_ROWS: Final = ("num_beams", "prompt_lookup_num_tokens", "assistant_model", "prefill_chunk_size")
"""Settings of ``generate`` under which a pass's rows and columns aren't those of the completions."""


def require_monitors_fit(monitors: Sequence[Monitor], layout: Layout) -> None:
    """Raise where a monitor's sites or width aren't the model's, or two have one name."""
    wrong = [one for one in monitors if not isinstance(one, Monitor)] if isinstance(monitors, Sequence) else [monitors]
    if wrong:
        raise AttachError(f"monitors is a list of steerkit.Monitor, and it holds or is a {type(wrong[0]).__name__}.")
    names = [monitor.name for monitor in monitors]
    if len(set(names)) < len(names):
        raise AttachError(f"Two monitors have one name among {', '.join(names)}; readings go by the name.")
    for monitor in monitors:
        for site in monitor.read_at:
            layout.require(site)
            width = _monitor_vector(monitor, site).shape[-1]
            if width != layout.width(site):
                raise AttachError(
                    f"Monitor {monitor.name!r} has a direction of width {width} at {site}, and the model's is "
                    f"{layout.width(site)}. Was the direction estimated on another model?"
                )


def _monitor_vector(monitor: Monitor, site: Site) -> Tensor:
    """The vector that a monitor reads along at a site, ``[width]``."""
    direction = monitor.direction if monitor.direction.is_single else monitor.direction.at(site)
    return direction.vectors[0].detach()


class Watch:
    """What monitors read of the passes over one batch.

    Args:
        monitors: what is read.
        columns: of the batch. Layers that see only a first pass's last columns leave the others unread.
    """

    def __init__(self, monitors: Sequence[Monitor], columns: int) -> None:
        self._columns = columns
        self._by_site: dict[Site, list[Monitor]] = {}
        for monitor in monitors:
            for site in monitor.read_at:
                self._by_site.setdefault(site, []).append(monitor)
        self._seen: dict[tuple[str, Site], list[Tensor]] = {}
        self._held: dict[tuple[str, Site], int] = {}
        self._listed: dict[tuple[str, Site], list[list[float]]] = {}
        self._units: dict[tuple[str, Site], Tensor] = {}

    @property
    def sites(self) -> set[Site]:
        """The sites that are read."""
        return set(self._by_site)

    @property
    def readers(self) -> Mapping[Site, Handler]:
        """A handler for each site that is read."""
        return {site: self._reader(site, monitors) for site, monitors in self._by_site.items()}

    def _reader(self, site: Site, monitors: Sequence[Monitor]) -> Handler:
        def read(x: Tensor) -> None:
            for monitor in monitors:
                key = (monitor.name, site)
                seen = gate_projection(x, self._unit(monitor, site, x)).cpu()
                held = self._held.get(key, 0)
                if held and seen.shape[1] == held + 1:
                    seen = seen[:, held:]  # without a cache every pass reads all tokens again, and one more
                missing = 0 if held else self._columns - seen.shape[1]
                self._held[key] = held + seen.shape[1] + max(missing, 0)
                self._seen.setdefault(key, []).append(pad(seen, (missing, 0), value=torch.nan) if missing > 0 else seen)

        return read

    def _unit(self, monitor: Monitor, site: Site, x: Tensor) -> Tensor:
        key = (monitor.name, site)
        if key not in self._units:
            wide = torch.float64 if x.dtype == torch.float64 else torch.float32
            vector = _monitor_vector(monitor, site).to(wide)
            self._units[key] = gate_at_head((vector / vector.norm()).to(x.device), site, x)
        return self._units[key]

    def readings(
        self, monitor: Monitor, row: int, first: int, text: Rendered, *, number: int = 1, lenient: bool = False
    ) -> Readings:
        """The readings of one row.

        Args:
            monitor: whose.
            row: of the passes.
            first: the column of its first token.
            text: its tokens: the prompt, and the completion as far as there is one.
            number: what a message calls the row, counted from 1.
            lenient: whether a text without the tokens that the monitor reads has no reading, as one without a
                completion has none behind its prompt; else it is an error.

        Raises:
            PositionError: naming the monitor, where a text has no such tokens.
        """
        total = len(text.token_ids)
        prompt = total if text.prompt is None else text.prompt
        by_site = []
        for site in monitor.read_at:
            seen = self._rows((monitor.name, site))[row][first : first + total]
            # What was written last has not passed through the model.
            by_site.append([*seen, *[math.nan] * (total - len(seen))])
        try:
            places = _monitored_places(monitor, text, total, prompt, number)
        except PositionError as error:
            if not lenient:
                raise PositionError(f"Monitor {monitor.name!r}: {error}") from None
            places = ()
        read = by_site[0] if len(by_site) == 1 else [monitor.furthest(one) for one in zip(*by_site, strict=True)]
        return Readings.of(monitor, tuple(read[place] for place in places), places, prompt)

    def _rows(self, key: tuple[str, Site]) -> list[list[float]]:
        """What was read of each row, by column. A stream asks at every token, so what was listed once stays so."""
        new = self._seen[key]
        rows = self._listed.setdefault(key, [[] for _ in range(new[0].shape[0])] if new else [])
        if new:
            for row, more in zip(rows, torch.cat(new, 1).double().tolist(), strict=True):
                row.extend(more)
            new.clear()
        return rows


def _monitored_places(monitor: Monitor, text: Rendered, total: int, prompt: int, number: int) -> tuple[int, ...]:
    """The tokens of a row that a monitor's positions name."""
    if monitor.positions.role in BEHIND and total == prompt:
        return ()
    turns = [text.turns]
    frame = frame_of_prompts([total], turns, width=total, padding_side="right", prompts=[prompt], number=number)
    mask = edit_mask(position_intervals(monitor.positions, frame), 0, total)
    return tuple(mask[0].nonzero()[:, 0].tolist())


@dataclass(frozen=True)
class Read:
    """What was read along one text.

    Args:
        activations: ``{(site, positions): [tokens, d_model]}``, float32 on the CPU.
        readings: by the monitors' names.
    """

    activations: Mapping[Key, Tensor]
    readings: Mapping[str, Readings]


@torch.no_grad()
def read_along(
    live: Runtime,
    texts: Sequence[Rendered],
    monitors: Sequence[Monitor] = (),
    keys: Sequence[Key] = (),
    steer: Sequence[Steer] | None = None,
    *,
    lenient: bool = False,
) -> list[Read]:
    """Read monitors and activations along texts, in one pass, in the order of the texts.

    Args:
        live: the model.
        texts: rendered prompts, or prompts with completions.
        monitors: what is read.
        keys: sites and positions of activations.
        steer: a condition for each text, None where it is left alone.
        lenient: whether a monitor has no reading (a peak of NaN) on a text that lacks the tokens that it reads; else
            that is an error. A run reads all its monitors along one text, whoever scores them.

    Raises:
        SiteError, AttachError: for a site or monitor that doesn't fit the model.
        PositionError: for a text that doesn't have the tokens of an index or a turn.
    """
    require_monitors_fit(monitors, live.layout)
    for site, _ in keys:
        live.layout.require(site)
    require_rows(steer, len(texts))
    found: dict[int, Read] = {}
    # A pass that is left early doesn't tell which tokens it would have edited behind.
    stops = edits_always(live, steer)
    for batch in live.batched(texts, "right"):
        watch, taken = Watch(monitors, batch.input_ids.shape[1]), _Taken(live, keys, batch)
        readers = {
            site: _both_handlers(watch.readers.get(site), taken.readers.get(site)) for site in watch.sites | taken.sites
        }
        read_batch(live, batch, steer=steer, readers=readers, stops=stops)
        for row, index in enumerate(batch.order):
            first = int(batch.frame.first[row])
            readings = {
                one.name: watch.readings(one, row, first, texts[index], number=index + 1, lenient=lenient)
                for one in monitors
            }
            found[index] = Read({key: pieces[row] for key, pieces in taken.rows.items()}, readings)
    return [found[index] for index in range(len(texts))]


class _Taken:
    """Activations of one batch, by row."""

    def __init__(self, live: Runtime, keys: Sequence[Key], batch: Batch) -> None:
        self.rows: dict[Key, list[Tensor]] = {}
        self._layout = live.layout
        picks = {positions: tokens_of(live, positions, batch) for _, positions in keys}
        self.readers: dict[Site, Handler] = {}
        for site in dict.fromkeys(site for site, _ in keys):
            own = [positions for where, positions in keys if where == site]
            self.readers[site] = self._reader(site, {positions: picks[positions] for positions in own})

    @property
    def sites(self) -> set[Site]:
        return set(self.readers)

    def _reader(self, site: Site, picks: Mapping[Positions, tuple[Tensor, Tensor, Tensor]]) -> Handler:
        columns = self._layout.columns(site)

        def read(x: Tensor) -> None:
            for positions, (row, column, counts) in picks.items():
                values = x[row.to(x.device), column.to(x.device)][:, columns].detach().float().cpu()
                self.rows[(site, positions)] = list(values.split(counts.tolist()))

        return read


def _both_handlers(one: Handler | None, other: Handler | None) -> Handler:
    if one is None or other is None:
        only = one or other
        assert only is not None  # the site is one of theirs
        return only

    def read(x: Tensor) -> None:
        one(x)
        other(x)

    return read


def completions(
    live: Runtime,
    prompts: Prompts,
    monitors: Sequence[Monitor] = (),
    *,
    max_new_tokens: int,
    steer: Sequence[Steer] | None = None,
    **settings: Any,
) -> list[Completion]:
    """Complete prompts while monitors read, in the order of the prompts. See ``LiveModel.completions``."""
    rendered = live.to_complete(prompts, max_new_tokens, steer)
    require_monitors_fit(monitors, live.layout)
    if monitors:
        require_own_rows(settings)
    found: dict[int, list[Completion]] = {}
    for batch in live.batched(rendered, "left", extra_tokens=max_new_tokens):
        watch = Watch(monitors, batch.input_ids.shape[1])
        rows = complete_batch(
            live,
            batch,
            max_new_tokens=max_new_tokens,
            settings=settings,
            steer=steer,
            readers=watch.readers if monitors else None,
        )
        copies = len(rows) // len(batch.order)
        for place, one in enumerate(rows):
            row, index = place // copies, batch.order[place // copies]
            first = int(batch.frame.first[row])
            held = completion_with_readings(live, watch, monitors, place, first, rendered[index], one, number=index + 1)
            found.setdefault(index, []).append(held)
    return [one for index in range(len(rendered)) for one in found[index]]


def require_own_rows(settings: Mapping[str, Any]) -> None:
    """Raise ``AttachError`` for settings under which no row of a pass is that of a completion."""
    odd = [name for name in _OTHER_ROWS if settings.get(name) not in (None, 1)]
    if odd:
        raise AttachError(
            f"Monitors read one row of every pass for each completion, and {odd[0]} makes other passes. Leave it out, "
            "or read the completions afterwards."
        )


def completion_with_readings(
    live: Runtime,
    watch: Watch,
    monitors: Sequence[Monitor],
    row: int,
    first: int,
    prompt: Rendered,
    one: Written,
    *,
    number: int,
) -> Completion:
    """What was written of one row, with what monitors read; see ``Watch.readings``."""
    text = completion_to_read(prompt, one.ids)
    readings = {monitor.name: watch.readings(monitor, row, first, text, number=number) for monitor in monitors}
    return Completion(live.decode(one.ids), tuple(one.ids), readings, one.reason)


def completion_to_read(prompt: Rendered, ids: Sequence[int]) -> Rendered:
    """A prompt with the tokens of its completion."""
    return Rendered((*prompt.token_ids, *ids), prompt.turns, len(prompt.token_ids))
