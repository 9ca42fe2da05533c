"""What steers a live model: interventions come and go, and one program stands for all that a context asked for."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from torch import nn

from steerkit.api.architecture import Layout
from steerkit.api.intervention import Intervention, Placement
from steerkit.engine.hooking.attach import certainly
from steerkit.engine.hooking.prepared import Prepared
from steerkit.engine.lowering.edits import Steer
from steerkit.engine.lowering.program import Program
from steerkit.engine.runtime.blocks import Block, Group, Served, State, enter_block, forget_left_blocks, shared_of
from steerkit.engine.runtime.copies import with_nothing_on_model
from steerkit.engine.runtime.door import Door
from steerkit.engine.runtime.nesting import Running, uncounted
from steerkit.engine.runtime.prepass import decided_before
from steerkit.engine.runtime.states import program_of_groups, state_of_groups
from steerkit.engine.runtime.turns import running_call
from steerkit.engine.sequence.cursor import Standing
from steerkit.engine.sequence.finding import Finder
from steerkit.engine.sequence.positions import Frame
from steerkit.engine.sites.evaluating import uncompiled
from steerkit.engine.sites.taps import Handler
from steerkit.errors import AttachError

if TYPE_CHECKING:
    from steerkit.types import Site


class Steering:
    """Keeps a model under one program for all that the running context asks for.

    Args:
        model: the model.
        layout: its streams.
        find: looks for what ``from_token`` positions name.
    """

    def __init__(self, model: nn.Module, layout: Layout, find: Finder) -> None:
        self.model, self.layout, self.find = model, layout, find
        self.shared = shared_of(model)

    @property
    def prepared(self) -> Prepared | None:
        """The places of a compiled model that are prepared, if any."""
        return self.shared.prepared

    @property
    def by_row(self) -> bool:
        """Whether what is active here differs by row."""
        return any(block.group.rows is not None for block in self.shared.here())

    @contextmanager
    def _turn(self, *, outside: bool = False) -> Iterator[None]:
        with self.shared.turns.taken() as fresh:
            if outside:
                self.shared.require_outside()
            if fresh:
                self.shared.begins_anew()
            yield

    # Blocks

    @contextmanager
    def steer(self, group: Group) -> Iterator[None]:
        """Run the body with a group added to what is active in this context, outer ones first."""
        block = Block(group, self)
        failed: BaseException | None = None
        try:
            with self._turn():
                enter_block(block)
                self.shared.blocks.append(block)
                state = self.become(self._groups())
                self._keep(state)
            yield
        except BaseException as error:
            failed = error
            raise
        finally:
            try:
                self._leave(block, failed)
            finally:
                # An interrupt may fall into the first one, at its very call.
                self._leave(block, failed)
                failed = None  # which holds this frame

    def _groups(self) -> tuple[Group, ...]:
        here = self.shared.here()
        if any(block.owner is not None and block.owner.layout != self.layout for block in here):
            raise AttachError(
                "The model is being steered by a block of another steerkit model around the same transformers model, "
                "with another adapter. Leave that block first, or use one `steerkit.wrap` for both."
            )
        return tuple(block.group for block in here)

    def _keep(self, state: State) -> None:
        """What open blocks need is needed again, and may have taken long to make."""
        if state.groups and not any(known is state for known, _ in self.shared.states):
            self.shared.keep(state, self)
            self._settle()

    def _leave(self, block: Block, failed: BaseException | None) -> None:
        """Take a block's group off. By identity: blocks that a generator holds open may close in any order.

        Args:
            block: the block.
            failed: what ended its body, which stays what is raised: what is to be told besides becomes its note.

        Raises:
            AttachError: where somebody wrote into what was folded, and nothing else is raised.
        """
        shared, group = self.shared, block.group
        if block.left:
            return
        for wish in block.wishes.copy():
            # Before the block is none of theirs any more: what they write from then on isn't told.
            wish.leave()
        block.owner = None
        forget_left_blocks()
        with self._turn():
            shared.blocks = [one for one in shared.blocks if one is not block]
            gone = [state for state, _ in shared.states if state.holds(group)]
            shared.states = [(state, owner) for state, owner in shared.states if not state.holds(group)]
            self.rest()
            block.left = True
            told = [error for error in map(_closed, gone) if error is not None]
        for error in told:
            if failed is None:
                raise error
            failed.add_note(str(error))

    # What is on the model

    def become(self, groups: tuple[Group, ...]) -> State:
        """Have the program of some groups on the model. Lowering looks at the model, so what is on it comes off before.

        Called by who holds the turn.
        """
        shared, before = self.shared, self.shared.now
        if before.serves(groups) and before.intact:
            return before
        try:
            self._take_off()
            state = next((known for known, _ in shared.states if known.serves(groups) and known.fits_still), None)
            state = state_of_groups(groups, self) if state is None else state
            if any(known.serves(groups) and known is not state for known, _ in shared.states):
                self._keep(state)
            self._put_on(state)
            self._settle()
            return state
        except BaseException:
            certainly(lambda: self.put_back(before))
            raise

    def rest(self) -> None:
        """What is on the model between passes, or goes on with the pass around this one."""
        shared = self.shared
        around = shared.nest.innermost()
        if around is not None and (around.again or around.inside is not None):
            self.put_back(around.state)
            return
        if shared.served:
            self.put_back(shared.served[-1].state)
            return
        groups, owner = tuple(block.group for block in shared.here()), self
        if not groups and shared.states:
            # What another context's block had on the model.
            state, owner = shared.states[-1]
            groups = state.groups
        if not shared.now.serves(groups):  # whether that is intact is asked when a pass begins
            owner.become(groups)

    def _take_off(self) -> None:
        state = self.shared.now
        if state.attachment is not None:
            state.attachment.detach()
        self.shared.now = State()

    def _put_on(self, state: State) -> None:
        self.shared.now = state
        if state.attachment is not None:
            state.attachment.attach()

    def put_back(self, state: State) -> None:
        """Have on the model what was there before."""
        if self.shared.now is state and state.intact:
            return
        self._take_off()
        if state.attachment is not None:
            state.attachment.detach()
        self._put_on(state)
        self._settle()

    def _settle(self) -> None:
        """Have the door there while anything is on the model, or belongs there for some context."""
        shared = self.shared
        # A prepared model's graph is one and the same whether anything steers it, so the door stays as well.
        wanted = shared.prepared is not None or shared.now.attachment is not None
        wanted = wanted or any(state.attachment is not None for state, _ in shared.states)
        # A pass that came in by it goes out by it.
        wanted = wanted or shared.nest.innermost() is not None
        if wanted:
            shared.door = shared.door or Door(self)
            if not shared.door.is_on:
                shared.door.attach()
        elif shared.door is not None and (shared.door.ticket is None or shared.door.ticket is not shared.turns.holder):
            shared.door.detach()
            shared.door = None

    def explained(self, group: Group) -> Program:
        """What would become of a group by itself, whatever is active: that comes off while the model is looked at."""
        with self._turn(), with_nothing_on_model(self.model):
            return program_of_groups([group], self, fates=True)

    @contextmanager
    def prepare(self, prepared: Prepared) -> Iterator[None]:
        """Run the body with places at which steering needs no new trace of a compiled model."""
        shared = self.shared
        try:
            with self._turn():
                if shared.prepared is not None:
                    raise AttachError(
                        "The model is prepared already. Name all sites, the rank and the rows in one `prepare`."
                    )
                if shared.now.attachment is not None or any(state.attachment for state, _ in shared.states):
                    raise AttachError("The model is being steered. Enter `prepare` first, and `steer` inside of it.")
                prepared.attach()
                shared.prepared, shared.states = prepared, []
                self._settle()
            yield
        finally:
            # Twice, since an interrupt may fall into the first one, at its very call; it does no harm.
            try:
                self._unprepare(prepared)
            finally:
                self._unprepare(prepared)

    def _unprepare(self, prepared: Prepared) -> None:
        shared = self.shared
        if shared.prepared is not prepared:
            prepared.detach()
            return
        with self._turn():
            shared.prepared, shared.states = None, []
            groups = shared.now.groups
            try:
                self._take_off()
                if groups:
                    # Blocks that a generator holds open may close in any order.
                    self._keep(self.become(groups))
            finally:
                self._settle()
                prepared.detach()

    # Passes

    @contextmanager
    def running(
        self,
        frame: Frame | None,
        *,
        steer: Sequence[Steer] | None = None,
        readers: Mapping[Site, Handler] | None = None,
        prompt: Mapping[str, Any] | None = None,
    ) -> Iterator[None]:
        """Run passes in the body, when it is their turn.

        Args:
            frame: where the parts of each row lie, or None where nobody knows.
            steer: a condition for each row, behind what is active for all.
            readers: handlers of values at sites.
            prompt: arguments for the base model that let it read the whole prompts, for gates that need that.

        Raises:
            AttachError: where nothing says what the pass is steered by: it has no condition, its context has no block,
                and another one's has. And inside of somebody's own pass of a steered model.
        """
        group = Group.of_rows(steer, readers=readers)
        if steer is None:
            self.shared.require_condition()
        # What reads comes with every batch anew, so that it would be compiled anew for each.
        with (
            self._turn(outside=True),
            self._serving(group if group.rows is not None or readers is not None else None) as state,
            self._framed(state, frame, prompt),
            uncompiled() if readers is not None else nullcontext(),
            uncounted(self.shared.nest.innermost()),
        ):
            yield

    @contextmanager
    def _serving(self, group: Group | None) -> Iterator[State]:
        """Run the body with the context's blocks, and a group of the request's own, on the model."""
        groups = (*self._groups(), *([] if group is None else [group]))
        served = Served(State())
        try:
            served = Served(self.become(groups))
            self.shared.served.append(served)
            yield served.state
        finally:
            try:
                self._served(served, group)
            finally:
                self._served(served, group)

    def _served(self, served: Served, group: Group | None) -> None:
        shared = self.shared
        if served.over:
            return
        with self._turn():
            shared.served = [one for one in shared.served if one is not served]
            self.rest()
            served.over = True
        if group is not None:
            served.state.close()

    @contextmanager
    def _framed(self, state: State, frame: Frame | None, prompt: Mapping[str, Any] | None) -> Iterator[None]:
        if state.attachment is None:
            yield
            return
        cursor = state.attachment.cursor
        outer = cursor.frame, cursor.decided
        cursor.set_frame(frame, decided_before(self.model, self.layout, state, frame, prompt))
        try:
            yield
        finally:
            cursor.set_frame(*outer)

    @contextmanager
    def again(self, state: State, standing: Standing | None) -> Iterator[None]:
        """Run the body, a part of a pass that is over, under what was on the model then, for gradients."""
        shared = self.shared
        holder = shared.turns.holder
        waits = holder is not None and holder.thread != threading.get_ident() and _waits_for_gradients(holder.thread)
        # A thread of autograd's works for the one that waits, and has its turn.
        with nullcontext() if waits else self._turn():
            outer, attachment = shared.now, state.attachment
            running = Running(running_call(), shared.asked, state, shared.nest.innermost(), again=True)
            before = None if attachment is None else attachment.cursor.standing
            try:
                shared.nest.begin(running)
                if outer is not state:
                    self._take_off()
                    if attachment is not None and not attachment.fits_still():
                        raise AttachError(
                            "A block is computed again for gradients, and parameters that were folded into have "
                            "changed since the pass. Call backward before the optimiser's step, or use mode='hook'."
                        )
                    self._put_on(state)
                # A hook that runs again may run a pass again.
                self._settle()
                if attachment is not None and standing is not None:
                    attachment.cursor.stand(standing)
                yield
            finally:
                if attachment is not None and before is not None:
                    attachment.cursor.stand(before)
                shared.nest.drop(running)
                self.put_back(outer)
                self._settle()


def _waits_for_gradients(thread: int) -> bool:
    """Whether a thread waits in torch for autograd's own threads: then that call is its innermost one of Python.

    The frames behind it aren't asked, since a thread that doesn't wait leaves them meanwhile.
    """
    frame = sys._current_frames().get(thread)
    return frame is not None and frame.f_code.co_name == "_engine_run_backward"


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


def _closed(state: State) -> AttachError | None:
    """Close what was attached, and what there is to say of it."""
    try:
        state.close()
    except AttachError as error:
        return error
    return None
