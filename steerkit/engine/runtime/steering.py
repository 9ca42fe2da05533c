"""What steers a live model at the moment: interventions come and go, and one program stands for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from steerkit.api.architecture import Layout
from steerkit.api.intervention import Gate, Intervention, Placement
from steerkit.engine.hooking.attach import Attachment, certainly
from steerkit.engine.hooking.prepared import Filled, Prepared
from steerkit.engine.hooking.steps import Like
from steerkit.engine.lowering.edits import Edit, Mode, Steer, edits_of, placements_of
from steerkit.engine.lowering.lower import lower, lower_rows
from steerkit.engine.lowering.program import Program
from steerkit.engine.sequence.cursor import Cursor
from steerkit.engine.sequence.finding import Finder
from steerkit.engine.sequence.gates import decide, projection, unit
from steerkit.engine.sequence.positions import Frame
from steerkit.engine.sequence.sequences import Memory
from steerkit.engine.sites.evaluating import evaluating, uncompiled
from steerkit.engine.sites.taps import Handler, register_tap, submodule
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
        readers: handlers of values at sites, for passes that read.
    """

    interventions: tuple[Placement, ...] = ()
    mode: Mode = "auto"
    expected_tokens: int = 0
    rows: tuple[tuple[Placement, ...], ...] | None = None
    readers: Mapping[Site, Handler] | None = None

    @classmethod
    def of_rows(
        cls, steer: Sequence[Steer] | None, mode: Mode = "hook", readers: Mapping[Site, Handler] | None = None
    ) -> Group:
        """One condition per row; none where no row has any."""
        placed: dict[int, Placement] = {}
        rows = tuple(placements_of(one, placed) for one in steer or ())
        return cls(mode=mode, rows=rows if any(rows) else None, readers=readers)


_State: TypeAlias = tuple[Attachment | Filled | None, Program, list[Group]]
"""What is attached, the program that it holds, and for which groups."""


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
        self.prepared: Prepared | None = None
        self._attachment: Attachment | Filled | None = None
        self._program = Program()
        self._outer: list[_State] = []
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
        known: dict[tuple[tuple[int, Mode], ...], list[Edit]] = {}
        rows = []
        for row in range(max(counts, default=1)):
            listed = [
                (one, group.mode)
                for group in groups
                for one in (group.interventions if group.rows is None else group.rows[row])
            ]
            key = tuple((id(one), mode) for one, mode in listed)
            if key not in known:
                known[key] = edits_of([one for one, _ in listed], self.layout, [mode for _, mode in listed])
            rows.append(known[key])
        if len(known) > 1:
            return lower_rows(rows, self.layout, by_site=by_site)
        expected = max((group.expected_tokens for group in groups), default=0)
        # A compiled model's parameters stay where they are.
        model = None if self.prepared is not None else self.model
        return lower(rows[0], self.layout, model, expected_tokens=expected, by_site=by_site, fates=fates)

    def _become(self, groups: list[Group]) -> None:
        """Replace what is attached. Lowering looks at the model, so what is on it comes off before."""
        before = self._state()
        try:
            if self._attachment is not None:
                self._attachment.detach()
            self._attachment, self._program, self.groups = None, Program(), groups
            known = next((one for one in self._outer if _same(one[2], groups) and _fits(one[0])), None)
            self._attachment, self._program = known[:2] if known is not None else self._made(groups)
            if self._attachment is not None:
                self._attachment.attach()
            # What is active around other contexts is needed again when they end, and may have taken long to make.
            self._outer = [one for one in self._outer if _within(one[2], groups)]
            if known is None and groups:
                self._outer.append(self._state())
        except BaseException:
            certainly(lambda: self._return(*before))
            raise

    def _made(self, groups: Sequence[Group]) -> tuple[Attachment | Filled | None, Program]:
        """A program for groups, ready to be attached."""
        readers = {site: handler for group in groups for site, handler in (group.readers or {}).items()}
        program = self.program(groups, by_site=bool(readers))
        if self.prepared is not None and not readers:
            return self.prepared.filled(program, [group.mode for group in groups]), program
        if program.empty and not readers:
            return None, program
        attachment = Attachment(
            self.model,
            self.layout,
            program,
            memory=self._memory,
            find=self.find,
            readers=readers,
            likes=self._likes,
        )
        return attachment, program

    def explained(self, group: Group) -> Program:
        """What would become of a group by itself, whatever is active: that comes off while the model is looked at."""
        attachment = self._attachment
        try:
            if attachment is not None:
                attachment.detach()
            return self.program([group], fates=True)
        finally:
            if attachment is not None:
                attachment.detach()
                attachment.attach()

    @property
    def by_row(self) -> bool:
        """Whether what is active differs by row."""
        return any(group.rows is not None for group in self.groups)

    @contextmanager
    def prepare(self, prepared: Prepared) -> Iterator[None]:
        """Run the body with places at which steering needs no new trace of a compiled model."""
        if self.prepared is not None:
            raise AttachError("The model is prepared already. Name all sites, the rank and the rows in one `prepare`.")
        if self._attachment is not None:
            raise AttachError("The model is being steered. Enter `prepare` first, and `steer` inside of it.")
        try:
            prepared.attach()
            self.prepared, self._outer = prepared, []
            yield
        finally:
            # Twice, since an interrupt may fall into the first one, at its very call; it does no harm.
            try:
                self._unprepare(prepared)
            finally:
                self._unprepare(prepared)

    def _unprepare(self, prepared: Prepared) -> None:
        self.prepared, self._outer = None, []
        try:
            if self._attachment is not None:
                # Contexts that a generator holds open may close in any order.
                self._become(self.groups)
        finally:
            prepared.detach()

    def _state(self) -> _State:
        return self._attachment, self._program, self.groups

    def _return(self, attachment: Attachment | Filled | None, program: Program, groups: list[Group]) -> None:
        """Go back to what was attached before."""
        if self._attachment is not None:
            self._attachment.detach()
        self._attachment, self._program, self.groups = attachment, program, groups
        if attachment is not None:
            attachment.detach()
            attachment.attach()

    @contextmanager
    def running(
        self,
        frame: Frame | None,
        *,
        steer: Sequence[Steer] | None = None,
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
        group = Group.of_rows(steer, readers=readers)
        # What reads comes with every batch anew, so that it would be compiled anew for each.
        with (
            self.steer(group) if group.rows is not None or readers is not None else nullcontext(),
            self._framed(frame, prompt),
            uncompiled() if readers is not None else nullcontext(),
        ):
            yield

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
        values: dict[Gate, Tensor] = {}
        attachment = self._attachment
        assert attachment is not None  # a program with gates is attached

        def reader(gate: Gate) -> Handler:
            def read(x: Tensor) -> None:
                seen = projection(x, unit(gate, x))
                # A layer that sees only the last columns leaves the others unknown.
                values[gate] = pad(seen, (columns - seen.shape[1], 0), value=torch.nan)

            return read

        handles = []
        try:
            attachment.detach()
            for gate in gates:
                assert gate.site is not None
                handles.append(register_tap(self.model, self.layout.tap(gate.site), reader(gate)))
            with uncompiled(), evaluating(self.model):
                submodule(self.model, self.layout.base)(**{**prompt, "use_cache": False})
        finally:
            for handle in handles:
                handle.remove()
            attachment.attach()
        decided = {}
        for gate, found in values.items():
            rows = self._rows_of(gate, frame.rows)
            asked = torch.zeros(frame.rows, dtype=torch.bool)
            asked[list(rows)] = True
            decided[gate] = decide(gate, found, frame, rows, asked)
        return decided

    def _rows_of(self, gate: Gate, rows: int) -> tuple[int, ...]:
        """The rows that a gate is for."""
        n_rows = self._program.n_rows
        if n_rows is None:
            return tuple(range(rows))
        steps = [item for slot in self._program.slots for item in (*slot.items, *slot.carried)]
        parts = [getattr(step, "parts", ()) for step in steps]
        found = {row for one in parts for row, part in enumerate(one) if part is not None and part.when.gate is gate}
        times = rows // n_rows
        return tuple(row * times + copy for row in sorted(found) for copy in range(times))


def _fits(attachment: Attachment | Filled | None) -> bool:
    return not isinstance(attachment, Attachment) or attachment.fits_still()


def _same(one: Sequence[Group], other: Sequence[Group]) -> bool:
    return len(one) == len(other) and all(mine is theirs for mine, theirs in zip(one, other, strict=True))


def _within(some: Sequence[Group], groups: Sequence[Group]) -> bool:
    return all(any(one is other for other in groups) for one in some)


def require_rows(steer: Sequence[Steer] | None, rows: int) -> None:
    """Raise ``AttachError`` unless there is one condition per row, or none are given."""
    if steer is None:
        return
    if isinstance(steer, (Placement, Intervention, str)) or not isinstance(steer, Sequence) or len(steer) != rows:
        given = len(steer) if isinstance(steer, Sequence) else type(steer).__name__
        raise AttachError(
            f"steer= takes a list with one condition per prompt ({rows}), None where one is left alone, not {given}. "
            "For one condition for all: `with model.steer(...)`."
        )
