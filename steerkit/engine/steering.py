"""What steers a live model at the moment: interventions come and go, and one program stands for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from steerkit.api.architecture import Layout
from steerkit.api.intervention import Gate, Intervention
from steerkit.engine.attach import Attachment, certainly
from steerkit.engine.cursor import Cursor, Finder, Memory, compare
from steerkit.engine.edits import Condition, Edit, Mode, edits_of, interventions_of
from steerkit.engine.generation import evaluating
from steerkit.engine.positions import Frame, edit_mask, intervals
from steerkit.engine.program import Program, lower, lower_rows
from steerkit.engine.steps import Like
from steerkit.engine.taps import Handler, register_tap, submodule
from steerkit.errors import AttachError, PositionError

if TYPE_CHECKING:
    from steerkit.types import Site


@dataclass(frozen=True, eq=False)
class Group:
    """The interventions of one ``steer``.

    Args:
        interventions: in order.
        mode: how they ask to be lowered.
        expected_tokens: how many tokens will pass.
        rows: in their place, the interventions of each row of a batch.
    """

    interventions: tuple[Intervention, ...] = ()
    mode: Mode = "auto"
    expected_tokens: int = 0
    rows: tuple[tuple[Intervention, ...], ...] | None = None

    @classmethod
    def of_rows(cls, steer: Sequence[Condition], mode: Mode = "hook") -> Group:
        """One condition per row."""
        return cls(mode=mode, rows=tuple(interventions_of(one) for one in steer))


class Steering:
    """Keeps a model under one program for all that is active.

    Args:
        model: the model.
        layout: its streams.
        find: looks for what ``from_token`` positions name.
    """

    def __init__(self, model: nn.Module, layout: Layout, find: Finder) -> None:
        self.model, self.layout, self.find = model, layout, find
        self.groups: list[Group] = []
        self._attachment: Attachment | None = None
        self._program = Program()
        self._settled = True
        self._memory: Memory = WeakKeyDictionary()
        self._likes: dict[str, Like] = {}

    @property
    def cursor(self) -> Cursor | None:
        """That of what is attached, or None."""
        return None if self._attachment is None else self._attachment.cursor

    @contextmanager
    def steer(self, group: Group) -> Iterator[None]:
        """Run the body with a group added to what is active, outer ones first."""
        try:
            self._become([*self.groups, group])
            yield
        finally:
            try:
                self._drop(group)
            finally:
                # An interrupt may fall into the first one, at its very call.
                if any(one is group for one in self.groups):
                    self._drop(group)

    def _drop(self, group: Group) -> None:
        # By identity: contexts that a generator holds open may close in any order.
        self._become([one for one in self.groups if one is not group])

    def program(self, groups: Sequence[Group], *, by_site: bool = False, fates: bool = False) -> Program:
        """All of some groups' interventions, lowered; rows with the same ones share their lowering."""
        counts = {len(group.rows) for group in groups if group.rows is not None}
        if len(counts) > 1:
            raise AttachError(f"Rows are steered twice, as {' and '.join(map(str, sorted(counts)))} rows.")
        known: dict[tuple[int, ...], list[Edit]] = {}
        rows = []
        for row in range(max(counts, default=1)):
            listed = [
                (one, group.mode)
                for group in groups
                for one in (group.interventions if group.rows is None else group.rows[row])
            ]
            key = tuple(id(one) for one, _ in listed)
            if key not in known:
                known[key] = edits_of([one for one, _ in listed], self.layout, [mode for _, mode in listed])
            rows.append(known[key])
        if len(known) > 1:
            return lower_rows(rows, self.layout, by_site=by_site)
        expected = max((group.expected_tokens for group in groups), default=0)
        return lower(rows[0], self.layout, self.model, expected_tokens=expected, by_site=by_site, fates=fates)

    def _become(self, groups: list[Group], readers: Mapping[Site, Handler] | None = None) -> None:
        """Replace what is attached. Lowering looks at the model, so what is on it comes off before."""
        before = self._state()
        try:
            if self._attachment is not None:
                self._attachment.detach()
            self._attachment, self._program, self.groups = None, Program(), groups
            self._program = self.program(groups, by_site=readers is not None)
            if not self._program.empty or readers:
                self._attachment = Attachment(
                    self.model,
                    self.layout,
                    self._program,
                    memory=self._memory,
                    find=self.find,
                    readers=readers,
                    likes=self._likes,
                )
                self._attachment.attach()
        except BaseException:
            certainly(lambda: self._return(*before))
            raise

    def _state(self) -> tuple[Attachment | None, Program, list[Group]]:
        return self._attachment, self._program, self.groups

    def _return(self, attachment: Attachment | None, program: Program, groups: list[Group]) -> None:
        """Go back to what was attached before."""
        self._settled = False
        if self._attachment is not None:
            self._attachment.detach()
        self._attachment, self._program, self.groups = attachment, program, groups
        if attachment is not None:
            attachment.detach()
            attachment.attach()
        self._settled = True

    @contextmanager
    def running(
        self,
        frame: Frame | None,
        *,
        steer: Sequence[Condition] | None = None,
        readers: Mapping[Site, Handler] | None = None,
        prompt: Mapping[str, Any] | None = None,
    ) -> Iterator[None]:
        """Run passes in the body.

        Args:
            frame: where the parts of each row lie, or None where nobody knows.
            steer: a condition for each row, behind what is active for all.
            readers: handlers of values at sites.
            prompt: arguments for the base model that let it read the whole prompts, for gates that need that.
        """
        before = self._state()
        rows = [Group.of_rows(steer)] if steer is not None and any(interventions_of(one) for one in steer) else []
        try:
            if rows or readers is not None:
                self._become([*self.groups, *rows], readers)
            with self._framed(frame, prompt):
                yield
        finally:
            try:
                if self.groups is not before[2] or readers is not None:
                    self._return(*before)
            finally:
                if self.groups is not before[2] or not self._settled:
                    self._return(*before)

    @contextmanager
    def _framed(self, frame: Frame | None, prompt: Mapping[str, Any] | None) -> Iterator[None]:
        cursor = self.cursor
        if cursor is None:
            yield
            return
        outer = cursor.frame, cursor.decided
        cursor.set_frame(frame, self._decide(frame, prompt))
        try:
            yield
        finally:
            cursor.set_frame(*outer)

    # Gates that an extra pass decides

    def _decide(self, frame: Frame | None, prompt: Mapping[str, Any] | None) -> dict[Gate, Tensor]:
        """Whether each gate with a prepass is open, ``[rows]``, by a pass over the prompts with nothing attached."""
        gates = [gate for gate in self._program.gates if gate.prepass]
        if not gates or frame is None or prompt is None or frame.prompt_end is None:
            return {}
        columns = prompt["input_ids"].shape[1]
        if int(frame.prompt_end.max()) > columns:
            raise PositionError(
                f"The gate '{gates[0]}' is decided by an extra pass over whole prompts, and this pass has only their "
                "beginning. Give whole prompts, or use generate."
            )
        sums: dict[Gate, Tensor] = {}
        attachment = self._attachment
        assert attachment is not None  # a program with gates is attached
        certainly(attachment.detach)
        handles = []
        try:
            for gate in gates:
                assert gate.site is not None
                rows = self._rows_of(gate, frame.rows)
                reader = _mean_reader(gate, frame, rows, columns, sums)
                handles.append(register_tap(self.model, self.layout.tap(gate.site), reader))
            with evaluating(self.model):
                submodule(self.model, self.layout.base)(**{**prompt, "use_cache": False})
        finally:
            for handle in handles:
                handle.remove()
            attachment.attach()
        return {gate: compare(gate, mean) for gate, mean in sums.items()}

    def _rows_of(self, gate: Gate, rows: int) -> tuple[int, ...]:
        if self._program.n_rows is None:
            return tuple(range(rows))
        steps = [item for slot in self._program.slots for item in (*slot.items, *slot.carried)]
        parts = [getattr(step, "parts", ()) for step in steps]
        found = {row for one in parts for row, part in enumerate(one) if part is not None and part.when.gate is gate}
        return tuple(sorted(found))


def _mean_reader(gate: Gate, frame: Frame, rows: tuple[int, ...], columns: int, sums: dict[Gate, Tensor]) -> Handler:
    """Reads the mean projection over a gate's positions, ``[rows of the frame]``; rows that it isn't for have 0."""
    mask = torch.zeros(frame.rows, columns, dtype=torch.bool)
    mask[list(rows)] = edit_mask(intervals(gate.positions, frame.select(rows)), 0, columns)

    def read(x: Tensor) -> None:
        unit = gate.direction.vectors[0].detach().to(device=x.device, dtype=torch.float64)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        projection = x.detach().to(wide) @ (unit / unit.norm()).to(wide)
        seen = mask[:, -x.shape[1] :].to(x.device)
        n = seen.sum(1).clamp(min=1)
        sums[gate] = torch.where(seen, projection, 0).sum(1) / n

    return read


def require_rows(steer: Sequence[Condition] | None, rows: int) -> None:
    """Raise ``AttachError`` unless there is one condition per row, or none are given."""
    if steer is None:
        return
    if isinstance(steer, (Intervention, str)) or not isinstance(steer, Sequence) or len(steer) != rows:
        given = len(steer) if isinstance(steer, Sequence) else type(steer).__name__
        raise AttachError(
            f"steer= takes a list with one condition per prompt ({rows}), None where one is left alone, not {given}. "
            "For one condition for all: `with model.steer(...)`."
        )
