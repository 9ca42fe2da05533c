"""A recorded pass as a graph: which operation made each value of which others, and which modules it went through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import nn

COPIES = frozenset({
    "view", "_unsafe_view", "reshape", "alias", "detach", "clone", "contiguous", "_to_copy", "lift_fresh", "slice",
    "_reshape_alias", "expand", "positive", "to", "_conj", "unsqueeze", "squeeze", "view_as",
})  # fmt: skip
"""Operations whose result holds their first input's numbers, where it has as many of them."""

SHAPE_ALONE = frozenset({
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones",
    "new_full", "new_empty",
})  # fmt: skip
"""Operations that read a value's shape and none of its numbers."""

Key: TypeAlias = int | str | tuple[int | str, int]
"""A module's argument by place or keyword (and place in a list there), or an output by place; -1 for a bare tensor."""

LEAF, WRITTEN = "leaf", "written"


@dataclass(eq=False)
class Value:
    """A tensor at one moment of the pass; it holds none of its numbers but a single one.

    Args:
        index: its place in the order of the pass.
        op: what made it; ``leaf`` for what the pass was given, ``written`` for what was written over in part.
        inputs: of what.
        numbers: python numbers among the operation's arguments, in order, without ``alpha``.
        alpha: what an addition multiplies its second input by.
        shape: of the tensor.
        dtype: of the tensor.
        of_tokens: whether it depends on the token ids.
        number: what it is, where it is a single number and known.
        name: of a parameter or buffer.
    """

    index: int
    op: str
    inputs: Sequence[Value]
    numbers: tuple[float, ...]
    alpha: float
    shape: tuple[int, ...]
    dtype: torch.dtype
    of_tokens: bool
    number: float | None = None
    name: str = ""
    users: list[Value] = field(default_factory=list)
    into: list[Port] = field(default_factory=list)
    out_of: list[Port] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The operation, whether it was done in place or not."""
        return self.op.rstrip("_")

    @property
    def size(self) -> int:
        """How many numbers it has."""
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def copied(self) -> Value | None:
        """What this is a copy, a cast, or a view of that keeps each token's vector; None where it is none."""
        nothing = self.kind in ("add", "sub") and len(self.inputs) == 1 and self.numbers == (0.0,)
        if not nothing and (self.op not in COPIES or not self.inputs):
            return None
        one = self.inputs[0]
        if one.shape == self.shape:
            return one
        vectors = one.shape and self.shape and one.shape[-1] == self.shape[-1] and one.size == self.size
        return one if vectors else None

    @property
    def origin(self) -> Value:
        """Back through copies."""
        value = self
        while (before := value.copied) is not None:
            value = before
        return value

    @property
    def parameter(self) -> str:
        """Name of the parameter or buffer that it is, or is a copy of; empty where it is none."""
        value: Value | None = self
        while value is not None and not value.name:
            value = value.copied
        return value.name if value is not None else ""

    @property
    def copies(self) -> list[Value]:
        """Itself and every copy of the same, in order."""
        found, todo = [], [self.origin]
        while todo:
            value = todo.pop()
            found.append(value)
            todo += [user for user in value.users if user.copied is value]
        return sorted({value.index: value for value in found}.values(), key=lambda value: value.index)


@dataclass(eq=False)
class Call:
    """One call of one module.

    Args:
        path: of the module.
        module: itself.
        start: index of the first value that was made in it.
        depth: how many calls it lies in.
        parent: the innermost of those.
        positional: how many positional arguments it got.
        stop: index behind the last value that was made in it.
    """

    path: str
    module: nn.Module
    start: int
    depth: int
    parent: Call | None
    positional: int
    stop: int = -1
    arguments: list[tuple[Key, Value]] = field(default_factory=list)
    outputs: list[tuple[int, Value]] = field(default_factory=list)

    def inside(self, other: Call) -> bool:
        """Whether it is, or lies in, another call."""
        at: Call | None = self
        while at is not None and at is not other:
            at = at.parent
        return at is not None

    def holds(self, value: Value) -> bool:
        """Whether a value was made in it."""
        return self.start <= value.index < self.stop

    @property
    def first_argument(self) -> Value | None:
        """Its first positional argument, or where there is none its first tensor by keyword."""
        for key, value in self.arguments:
            if key == 0 or not self.positional:
                return value
        return None


@dataclass(frozen=True, eq=False)
class Port:
    """Where a value enters or leaves a module."""

    call: Call
    key: Key

    @property
    def leads(self) -> bool:
        """Whether a tap can name it: what a module gives first, or alone."""
        return self.key in (-1, 0)

    @property
    def is_first_argument(self) -> bool:
        """Whether a tap can name it as an input: the first positional argument, or a keyword where there is none."""
        return self.key == 0 if self.call.positional else isinstance(self.key, str)


@dataclass(frozen=True, eq=False)
class Graph:
    """A recorded pass.

    Args:
        values: in the order in which they were made.
        calls: of modules, in the order in which they began; the first is the model's.
        logits: what the pass gave, or None.
        shape: batch and number of positions.
    """

    values: Sequence[Value]
    calls: Sequence[Call]
    logits: Value | None
    shape: tuple[int, int]
    by_module: dict[int, list[Call]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for call in self.calls:
            self.by_module.setdefault(id(call.module), []).append(call)

    def calls_of(self, module: nn.Module) -> list[Call]:
        """All calls of a module."""
        return self.by_module.get(id(module), [])

    def once(self, call: Call) -> bool:
        """Whether its module runs once in the pass."""
        return len(self.calls_of(call.module)) == 1

    def owner(self, value: Value) -> Call:
        """The innermost call in which a value was made."""
        best = self.calls[0]
        for call in self.calls:
            if call.holds(value) and call.depth >= best.depth:
                best = call
        return best

    def made_of(self, value: Value, since: int = 0, but: Set[int] = frozenset()) -> set[int]:
        """Indices of all that a value is made of, from an index on, but for some and what only those are made of."""
        seen: set[int] = set()
        todo = [value]
        while todo:
            one = todo.pop()
            if one.index not in seen and one.index >= since and one.index not in but:
                seen.add(one.index)
                todo += one.inputs
        return seen

    def operations(self, value: Value, since: int) -> set[str]:
        """Names of the operations that made a value since an index."""
        return {self.values[index].op for index in self.made_of(value, since)}

    def outputs(self, values: Sequence[Value], within: Call) -> Iterator[tuple[Port, Value]]:
        """Where values leave modules inside of a call."""
        for value in values:
            for port in value.out_of:
                if port.call is not within and port.call.inside(within):
                    yield port, value


def times(value: Value) -> tuple[Value, float | None, Value | None] | None:
    """What a product with something smaller multiplies, by what number (None: no known one), and by what value.

    None for a value that is no such product.
    """
    like = [one for one in value.inputs if one.shape == value.shape]
    if value.kind not in ("mul", "div") or not like or len(value.inputs) - len(like) > 1:
        return None
    if len(like) == 2:
        by = next((one for one in like if not one.of_tokens), None)
        if by is None or like[0] is like[1] or (value.kind == "div" and by is like[0]):
            return None
        return next(one for one in like if one is not by), None, by
    other = next((one for one in value.inputs if one.shape != value.shape), None)
    if value.kind == "div" and other is not None and value.inputs[0] is other:
        return None
    number = other.number if other is not None else next(iter(value.numbers), None)
    if other is not None and other.of_tokens:
        number = None
    if number is not None and value.kind == "div":
        number = 1 / number if number else None
    return like[0], number, other


def added(value: Value) -> tuple[tuple[Value, float], tuple[Value, float]] | None:
    """The two sides of a sum or difference, each with its factor; None for anything else. One may be broadcast."""
    if value.kind not in ("add", "sub") or len(value.inputs) != 2:
        return None
    first, second = value.inputs
    if value.shape not in (first.shape, second.shape):
        return None
    return (first, 1.0), (second, value.alpha if value.kind == "add" else -value.alpha)


def is_norm(operations: set[str]) -> bool:
    """Whether a norm is among operations: torch's own, or one that is made of a mean square and its root."""
    own = ("native_layer_norm", "_fused_rms_norm", "rsqrt", "native_group_norm", "rms_norm", "linalg_vector_norm")
    return any(op.startswith(own) for op in operations) or bool({"mean", "pow"} <= operations)
