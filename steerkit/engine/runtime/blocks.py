"""Who steers a model: the blocks of every context, and the one program that is on the model at the moment.

A ``with steer`` block belongs to the context (``contextvars``) that entered it. All ``wrap``s of one transformers model
share what is known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakKeyDictionary, WeakSet

from torch import nn

from steerkit.api.intervention import Placement
from steerkit.engine.hooking.attach import Attachment
from steerkit.engine.hooking.prepared import Filled, Prepared
from steerkit.engine.hooking.steps import Like
from steerkit.engine.lowering.edits import Mode, Steer, placements_to_lower
from steerkit.engine.lowering.program import Program
from steerkit.engine.runtime.nesting import Nest
from steerkit.engine.runtime.turns import Turns
from steerkit.engine.sequence.sequences import Memory
from steerkit.engine.sites.taps import Handler
from steerkit.errors import AttachError

if TYPE_CHECKING:
    from steerkit.engine.runtime.door import Door
    from steerkit.engine.runtime.steering import Steering
    from steerkit.types import Site

OTHERS: Final = (
    "The model is being steered by a `with steer` block that another thread or task entered, and this one doesn't "
    "carry it, so it isn't said whether this pass should be steered. To be steered too, carry the context: "
    "Thread(target=contextvars.copy_context().run, args=(model.generate, prompt)), made inside the block. Otherwise "
    "give the request its own condition: steer=[...] of generate, forward or capture, [None] for none; or enter a "
    "block here."
)
INSIDE: Final = (
    "A request inside of a pass: a hook asked steerkit for a pass while the transformers model runs one of its own "
    "that is steered, and to serve it would change the hooks and positions of that one. Ask before the pass or behind "
    "it, or run the outer pass through steerkit too (forward, generate)."
)


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
        rows = tuple(placements_to_lower(one, placed) for one in steer or ())
        return cls(mode=mode, rows=rows if any(rows) else None, readers=readers)


class Wish(Protocol):
    """Whether anybody wants what is being written; ends with the blocks that it was made in."""

    def leave(self) -> None:
        """A block is being left."""
        ...


@dataclass(eq=False)
class Block:
    """A ``with steer`` block.

    Args:
        group: what it steers by.
        owner: whose ``steer`` was entered; None once it is being left, so that a context that lives on keeps no model.
        left: whether nothing of it remains.
        wishes: what goes on being written under it in other threads.
    """

    group: Group
    owner: Steering | None
    left: bool = False
    wishes: WeakSet[Wish] = field(default_factory=WeakSet)

    @property
    def open(self) -> bool:
        """Whether its body runs."""
        return self.owner is not None


@dataclass(frozen=True, eq=False)
class State:
    """What may be on a model: what is attached, the program that it holds, and for which groups."""

    attachment: Attachment | Filled | None = None
    program: Program = field(default_factory=Program)
    groups: tuple[Group, ...] = ()

    def serves(self, groups: Sequence[Group]) -> bool:
        """Whether it is for these very groups."""
        return len(self.groups) == len(groups) and all(
            one is other for one, other in zip(self.groups, groups, strict=True)
        )

    @property
    def intact(self) -> bool:
        """Whether nobody replaced what it put on the model."""
        return self.attachment is None or self.attachment.intact

    @property
    def fits_still(self) -> bool:
        """Whether the parameters that it was worked out from are what they were. Asked while it is off."""
        return self.attachment is None or self.attachment.fits_still()

    def holds(self, group: Group) -> bool:
        """Whether it is for a group, beside others or not."""
        return any(one is group for one in self.groups)

    def follows(self, other: State) -> None:
        """Stand in for another one, whose parameters are no longer what they were."""
        if isinstance(self.attachment, Attachment) and isinstance(other.attachment, Attachment):
            self.attachment.follows(other.attachment)

    def close(self) -> None:
        """It will not be put on again."""
        if self.attachment is not None:
            self.attachment.close()


@dataclass(eq=False)
class Shared:
    """All that steers one transformers model. Changed by who holds the turn only. Doesn't hold the model.

    Args:
        turns: passes take turns.
        blocks: that are open, of all contexts.
        states: worked out for open blocks, which are needed again, each with who made it.
        served: requests that the holder of the turn serves, outer ones first.
        nest: the passes that it runs.
        now: what is on the model.
        door: looks at passes that begin while anything is, or may come, on the model.
        keys: under which the door's two hooks are registered, whenever they are: compiled graphs know them by it.
        prepared: places for what steers a compiled model.
        memory: what is known of unfinished sequences.
        likes: dtype and device by module path, as far as they are known.
    """

    turns: Turns = field(default_factory=Turns)
    blocks: list[Block] = field(default_factory=list)
    states: list[tuple[State, Steering]] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    nest: Nest = field(default_factory=Nest)
    now: State = field(default_factory=State)
    door: Door | None = None
    keys: tuple[int, int] | None = None
    prepared: Prepared | None = None
    memory: Memory = field(default_factory=WeakKeyDictionary)
    likes: dict[str, Like] = field(default_factory=dict)

    def here(self) -> tuple[Block, ...]:
        """The open blocks of the running context, outer ones first."""
        return tuple(block for block in _ACTIVE.get() if block.owner is not None and block.owner.shared is self)

    def keep(self, state: State, owner: Steering) -> None:
        """Have a state for later, in the place of another one for the same groups."""
        for known, _ in self.states:
            if known.serves(state.groups):
                state.follows(known)
        self.states = [one for one in self.states if not one[0].serves(state.groups)] + [(state, owner)]

    @property
    def asked(self) -> Served | None:
        """The innermost request that is served."""
        return self.served[-1] if self.served else None

    def begins_anew(self) -> None:
        """Drop what a thread that is gone left behind: whoever asks has just got the turn."""
        self.served.clear()
        self.nest.clear()

    def require_condition(self) -> None:
        """Raise ``AttachError`` where only blocks of other contexts say what the model is steered by."""
        if any(state.attachment is not None for state, _ in self.states) and not self.here():
            raise AttachError(OTHERS)

    def require_outside(self) -> None:
        """Raise ``AttachError`` inside of somebody's own pass, which holds the turn of this thread."""
        holder = self.turns.holder
        if holder is not None and holder.bare:
            raise AttachError(INSIDE)


@dataclass(eq=False)
class Served:
    """A pass of a request, what is on the model for it, and whether it is over."""

    state: State
    over: bool = False


_ACTIVE: ContextVar[tuple[Block, ...]] = ContextVar("steerkit_blocks", default=())
_SHARED: WeakKeyDictionary[nn.Module, Shared] = WeakKeyDictionary()


def enter_block(block: Block) -> None:
    """Make a block one of the running context."""
    _ACTIVE.set((*_ACTIVE.get(), block))


def forget_left_blocks() -> None:
    """Drop blocks that were left from the running context, which need not be the one that entered them."""
    _ACTIVE.set(tuple(block for block in _ACTIVE.get() if block.open))


def shared_of(model: nn.Module) -> Shared:
    """What all wraps of a model share."""
    # `setdefault` alone would make two for threads that ask at once and then agree on one.
    return _SHARED.setdefault(model, Shared())
