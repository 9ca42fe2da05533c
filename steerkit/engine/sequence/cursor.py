"""Which tokens the running forward pass holds, and how much of each step they get.

What is edited depends on a token's place in its sequence, never on how often forward was called: the cache
says how many columns came before, and what must be remembered of a sequence is kept by its cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

from steerkit.engine.sequence.finding import Finder
from steerkit.engine.sequence.gates import decide_gate, gate_is_open, gate_projection, gate_unit
from steerkit.engine.sequence.positions import (
    FAR,
    SAY_WHERE,
    Frame,
    edit_mask,
    frame_of_mask,
    goes_on,
    position_intervals,
)
from steerkit.engine.sequence.selections import WHOLLY, Like, Selection
from steerkit.engine.sequence.sequences import Memory, Sequences, cache_among, columns_read, follow_cache, leave_caches
from steerkit.engine.sequence.when import When
from steerkit.errors import AttachError, PositionError, counted
from steerkit.types import FROM_TOKEN, Positions

if TYPE_CHECKING:
    from torch import nn

    from steerkit.api.intervention import Gate

OUTSIDE: Final = (
    "A block ran outside its model's forward pass, so positions are not known there. Run the whole model; to have "
    "blocks computed again for gradients, use model.gradient_checkpointing_enable()."
)


@dataclass(eq=False)
class Pass:
    """One forward pass, and what is worked out for it. Its own: later passes change nothing of it.

    A block that is computed again for gradients runs under the pass that it belongs to, which is over then: it finds
    what was worked out for it and notes nothing anew.

    Args:
        start: first column that it holds.
        length: number of columns.
        frame: where the parts of each row lie.
        sequences: what is known of its rows.
        spans: columns that positions mean, by positions and rows; shared by the passes of one frame.
        open: per gate that tokens decide, whether it is open, ``[rows, pos, 1]``.
        known: per selection its static weights, and the weights of tokens by dtype and device.
        over: whether it has run.
    """

    start: int
    length: int
    frame: Frame
    sequences: Sequences
    spans: dict[tuple[Positions, tuple[int, ...]], tuple[Tensor, Tensor]]
    open: dict[Gate, Tensor] = field(default_factory=dict)
    known: dict[Selection, tuple[Tensor | bool | None, dict[Like, Tensor]]] = field(default_factory=dict)
    over: bool = False


@dataclass(frozen=True, eq=False)
class Standing:
    """Where a cursor stands.

    Args:
        now: the pass.
        frame: where the prompts of its passes lie.
        decided: gates that an extra pass decided.
        resid_pre: what went into the block that runs, while its first writer does, for who edits their sum.
    """

    now: Pass | None
    frame: Frame | None
    decided: Mapping[Gate, Tensor]
    resid_pre: Tensor | None


class Cursor:
    """Which columns the running forward pass holds. One per attachment, so that models don't collide.

    Args:
        memory: what is known of sequences that are not finished, by their cache.
        find: looks for what ``from_token`` positions name.
        n_rows: rows that the program's steps are for, or None.
    """

    def __init__(self, memory: Memory | None = None, find: Finder | None = None, n_rows: int | None = None) -> None:
        self.frame: Frame | None = None
        self.decided: Mapping[Gate, Tensor] = {}
        self.now: Pass | None = None
        self.resid_pre: Tensor | None = None
        self._memory: Memory = WeakKeyDictionary() if memory is None else memory
        self._find, self._n_rows = find, n_rows
        self._selections: dict[tuple[When | None, ...], Selection] = {}
        self._expanded: Frame | None = None
        self._spans: dict[tuple[Positions, tuple[int, ...]], tuple[Tensor, Tensor]] = {}
        self._units: dict[tuple[Gate, torch.dtype, torch.device], Tensor] = {}
        self._followed: WeakSet[Any] = WeakSet()
        self._watches_tokens = self._needs_places = False

    @property
    def current(self) -> Pass:
        """The pass that runs, or that a block is computed again for."""
        if self.now is None:
            raise PositionError(OUTSIDE)
        return self.now

    def selection(self, whens: tuple[When | None, ...]) -> Selection:
        """The tokens that steps under these circumstances edit."""
        known = self._selections.get(whens)
        if known is None:
            present = [when for when in whens if when is not None]
            self._watches_tokens |= any(when.positions.role == FROM_TOKEN for when in present)
            self._needs_places |= any(not _needs_no_places(when) for when in present)
            known = self._selections[whens] = Selection(whens, self)
        return known

    def set_frame(self, frame: Frame | None, decided: Mapping[Gate, Tensor] | None = None) -> None:
        """Say where the prompts of the coming passes lie; None for passes that nobody described.

        Args:
            frame: where the parts of each row lie.
            decided: per gate that an extra pass decided, whether it is open, ``[rows]``.
        """
        self.frame, self.decided, self._expanded = frame, decided or {}, None

    @property
    def standing(self) -> Standing:
        """Where it stands, for ``stand``."""
        return Standing(self.now, self.frame, self.decided, self.resid_pre)

    def set_aside(self) -> Standing:
        """Leave the pass that runs, for one inside of it. ``stand`` takes what comes back."""
        standing = self.standing
        self.now = self.resid_pre = None
        return standing

    def stand(self, standing: Standing) -> None:
        """Stand there again."""
        self.set_frame(standing.frame, standing.decided)
        self.now, self.resid_pre = standing.now, standing.resid_pre

    def take_resid_pre(self) -> Tensor:
        """What went into the block whose first writer runs."""
        taken, self.resid_pre = self.resid_pre, None
        if taken is None:
            raise PositionError(OUTSIDE)
        return taken

    def before_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the base model: note which columns this pass holds."""
        tokens = args[0] if args else kwargs.get("input_ids")
        embeds = kwargs.get("inputs_embeds") if tokens is None else tokens
        assert embeds is not None  # transformers refuses a pass without either
        cache = cache_among(kwargs)
        start = columns_read(cache, self._memory)
        rows, length = embeds.shape[0], embeds.shape[1]
        if self._n_rows is not None:
            require_copies(rows, self._n_rows)
        frame, expanded = self.frame, self._expanded
        if frame is None:
            # A sequence that goes on: where it will end nobody knows, so nothing may count from there.
            mask = kwargs.get("attention_mask") if self._needs_places else None
            frame, expanded = _bare_frame(mask, rows, start + length, cache is not None), None
        if expanded is None or expanded.rows != rows:
            # A new dictionary, since passes that are over keep the old one.
            expanded, self._spans = frame.expand(rows), {}
        self._expanded = expanded
        known = self._sequences(cache, tokens, rows, start)
        known.columns = start + length
        self.now = Pass(start, length, expanded, known, self._spans)

    def after_forward(self) -> None:
        """The pass is over. Its state is kept by who computes some of it again."""
        if self.now is not None:
            self.now.over, self.now = True, None

    def _sequences(self, cache: Any, tokens: Tensor | None, rows: int, start: int) -> Sequences:
        known = self._memory.get(cache) if cache is not None and start else None
        if known is None:
            known = Sequences()
            if cache is not None:
                self._memory[cache] = known
        known.cut(start)
        for gate, is_open in self.decided.items():
            known.decided[gate] = (is_open.repeat_interleave(rows // is_open.shape[0], 0), None)
        if self._watches_tokens:
            if tokens is None:
                raise PositionError("from_token looks at token ids, and this pass was given embeddings.")
            if cache is not None:
                follow_cache(cache, self._memory)
                self._followed.add(cache)
            known.add_tokens(tokens.cpu(), start)
        return known

    def close(self) -> None:
        """Take off caches what was put on them."""
        leave_caches(self._followed)

    # Weights that depend on places alone

    def static(self, whens: tuple[When | None, ...]) -> Tensor | bool | None:
        """``[rows, length]`` on the CPU, ``WHOLLY``, or None where no token gets any."""
        current = self.current
        rows_running = current.frame.rows
        if len(whens) == 1:
            assert whens[0] is not None
            weights = self._one(whens[0], tuple(range(rows_running)))
        else:
            times = rows_running // len(whens)
            groups: dict[When, list[int]] = {}
            for place, when in enumerate(whens):
                if when is not None:
                    groups.setdefault(when, []).extend(range(place * times, (place + 1) * times))
            weights = torch.zeros(rows_running, current.length)
            for when, rows in groups.items():
                weights[rows] = self._one(when, tuple(rows))
        if not bool(weights.any()):
            return None
        return WHOLLY if bool((weights == 1).all()) else weights

    def _one(self, when: When, rows: tuple[int, ...]) -> Tensor:
        """Weights of some rows under one set of circumstances, without what gates decide."""
        current = self.current
        frame = current.frame.select(rows)
        weights = self.mask(when.positions, rows).float()
        if when.schedule.is_constant and not when.generated_only:
            return weights
        if frame.prompt_end is None:
            raise PositionError(
                "A schedule, or a gate that the prompt decides, depends on where each prompt ends, and a bare forward "
                f"pass doesn't say. {SAY_WHERE}."
            )
        generated = torch.arange(current.start, current.start + current.length)[None] - frame.prompt_end[:, None]
        if not when.schedule.is_constant:
            last = max(int(generated.max()), 0)
            factors = torch.tensor([when.schedule.factor(place) for place in range(last + 1)])
            weights = weights * factors[generated.clamp(min=0)]
        return weights * (generated >= 0) if when.generated_only else weights

    def mask(self, positions: Positions, rows: tuple[int, ...]) -> Tensor:
        """Which of the columns of this pass some rows' positions name, ``[rows, length]``."""
        current = self.current
        if positions.role == FROM_TOKEN:
            low = self._found(positions)[list(rows)][:, None]
            return edit_mask((low, torch.full_like(low, FAR)), current.start, current.length)
        key = (positions, rows)
        if key not in current.spans:
            current.spans[key] = position_intervals(positions, current.frame.select(rows))
        mask = edit_mask(current.spans[key], current.start, current.length)
        if not current.frame.shared:
            return mask
        # The beginning was read apart: where it would stand in this pass, there is padding.
        behind = current.frame.first[list(rows)] + current.frame.shared
        columns = torch.arange(current.start, current.start + current.length)
        return mask & (columns >= behind[:, None])

    def _found(self, positions: Positions) -> Tensor:
        """First column of each row that ``from_token`` positions mean, ``[rows]``."""
        known, running = self.current.sequences, self.current.frame
        if self._find is None:
            raise PositionError("from_token needs a tokenizer: steerkit.wrap(model, tokenizer).")
        assert known.tokens is not None  # before_forward keeps them where anybody asks
        columns, seen = known.found.get(positions, (torch.full((running.rows,), FAR), 0))
        total = known.tokens.shape[1]
        if seen < total:
            columns = columns.clone()
            for row in (columns >= FAR).nonzero()[:, 0].tolist():
                first, end = int(running.first[row]), min(int(running.end[row]), total)
                n = self._find(positions, known.tokens[row, first:end].tolist(), max(seen - first, 0))
                columns[row] = min(first + n, FAR)
            known.found[positions] = (columns, total)
        return columns

    # Gates

    def probe(self, gate: Gate, rows: Sequence[int], x: Tensor) -> None:
        """Take note of what a gate compares, as the stream arrives at its site.

        Args:
            gate: the gate.
            rows: of the program, that it is read for now; empty for all.
            x: ``[rows, pos, d_model]``.
        """
        current = self.current
        if current.over:
            return
        concerned = self._rows(rows, x.shape[0])
        key = (gate, x.dtype, x.device)
        if key not in self._units:
            self._units[key] = gate_unit(gate, x)
        values = gate_projection(x, self._units[key])
        if gate.at == "prompt":
            current.sequences.add_projections(gate, concerned, values, current.start, current.length)
            return
        is_open, before = gate_is_open(gate, values)[..., None], current.open.get(gate)
        # Rows may reach the gate's site by different ways; each keeps what it saw there.
        current.open[gate] = (
            is_open if before is None else torch.where(concerned.to(x.device)[:, None, None], is_open, before)
        )

    def _rows(self, rows: Sequence[int], running: int) -> Tensor:
        """``[running rows]``: which of them are copies of some rows of the program; all where none are named."""
        concerned = torch.ones(self._n_rows or running, dtype=torch.bool)
        if rows:
            concerned[:] = False
            concerned[list(rows)] = True
        return concerned.repeat_interleave(running // concerned.shape[0])

    def open(self, gate: Gate, concerned: Tensor, static: Tensor | bool) -> Tensor:
        """Whether a gate lets tokens through, ``[rows, pos or 1, 1]``.

        Args:
            gate: the gate.
            concerned: ``[rows]``, which rows it decides for.
            static: weights that tokens have otherwise; a row that has any must have been seen by the gate.
        """
        current = self.current
        if gate.at == "token":
            return current.open[gate]
        known, running = current.sequences, current.frame
        if gate.prepass:
            if gate not in known.decided:
                raise PositionError(
                    f"The gate '{gate}' is decided by an extra pass over whole prompts, and there was none before this "
                    f"pass. {SAY_WHERE}, and whole prompts."
                )
            return known.decided[gate][0][:, None, None]
        assert running.prompt_end is not None  # otherwise there are no static weights
        ends = torch.where(concerned, running.prompt_end, 0)
        if gate in known.decided:
            is_open, decided_by = known.decided[gate]
            if decided_by is not None and torch.equal(decided_by, ends):
                return is_open[:, None, None]
        asked = concerned & static.any(1) if isinstance(static, Tensor) else concerned
        rows = tuple(concerned.nonzero()[:, 0].tolist())
        columns = current.start + current.length
        unseen = torch.full((running.rows, columns), torch.nan)
        is_open = decide_gate(gate, known.projections.get(gate, unseen), running, rows, asked)
        # Kept once every row's prompt is whole and was looked at: a row that nobody asked for may have gaps.
        if bool((ends <= columns).all()) and torch.equal(asked, concerned):
            known.decided[gate] = (is_open, ends)
        return is_open[:, None, None]


def _needs_no_places(when: When) -> bool:
    """Whether where padding and prompts lie plays no part."""
    return when.positions == Positions("all") and when.schedule.is_constant and not when.generated_only


def require_copies(rows: int, n_rows: int) -> None:
    """Raise ``AttachError`` unless a pass holds each row of a program the same number of times."""
    if rows % n_rows:
        raise AttachError(
            f"A pass of {counted(rows, 'row')} runs under {counted(n_rows, 'condition')}, one per row. Batches have "
            f"{counted(n_rows, 'row')}, or n "
            "times as many, n copies of each side by side."
        )


def _bare_frame(mask: Any, rows: int, columns: int, growing: bool) -> Frame:
    if mask is None:
        return frame_of_mask(torch.ones(rows, columns), growing=growing)
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        raise PositionError(
            "These positions need to know where padding is, and the attention mask of this pass isn't [rows, columns]. "
            f"{SAY_WHERE}."
        )
    return frame_of_mask(mask, growing=growing and goes_on(mask))
