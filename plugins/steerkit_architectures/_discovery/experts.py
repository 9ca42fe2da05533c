"""What a contribution is made of by a router: experts, each linear in its own output projection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from steerkit_architectures._discovery.chain import Link
from steerkit_architectures._discovery.folding import is_linear
from steerkit_architectures._discovery.graph import COPIES, LEAF, WRITTEN, Graph, Value, is_norm

WEIGHED = "a router or a gate weighs what its projections give"

_EMPTY = frozenset({"zeros", "zeros_like", "new_zeros", "empty", "empty_like", "new_empty"})
_MOVES = COPIES | {
    "index", "index_select", "gather", "cat", "stack", "split", "unbind", "select", "chunk", "transpose", "permute",
    "index_add", "index_put", "_index_put_impl", "scatter_add", "scatter", "index_copy", "copy", WRITTEN, "add", "sub",
    "where", "sum",
}  # fmt: skip
"""Operations that lay rows elsewhere or add them up; each keeps the last axis, or it isn't followed."""
_MATRIX_PRODUCTS = frozenset({"mm", "bmm", "_grouped_mm", "grouped_mm", "matmul"})
_SWAPS = frozenset({"t", "transpose", "mT"})
_CHOICES = frozenset({"select", "index", "index_select", "chunk", "split", "unbind"})


class _NotLinear(Exception):
    """Why a contribution isn't linear in parameters that are known."""


@dataclass(frozen=True)
class Weighed:
    """What a contribution is a weighed sum of: paths as ``Writer`` names them, or none, and why it can't be folded."""

    matrices: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    why: str = ""


def weighed(model: nn.Module, graph: Graph, link: Link, value: Value) -> Weighed:
    """All projections and parameters that a contribution is a weighed sum of.

    What weighs them is one number per token and expert, so that a matrix on the left of each projection is one on the
    left of the sum. Whatever isn't followed to its end makes the whole not foldable.
    """
    walk = _Walk(model, graph, link, value.shape[-1])
    try:
        return walk.followed(value)
    except _NotLinear as why:
        return Weighed(why=str(why))


class _Walk:
    """From a contribution back to the projections that it is made of."""

    def __init__(self, model: nn.Module, graph: Graph, link: Link, width: int) -> None:
        self.model, self.graph, self.link, self.width = model, graph, link, width
        self.matrices: set[str] = set()
        self.rows: set[str] = set()

    def followed(self, value: Value) -> Weighed:
        """Everything, in the order of names."""
        todo, seen = [value], set[int]()
        while todo:
            one = todo.pop()
            if one.index in seen:
                continue
            seen.add(one.index)
            if not self._ends(one):
                todo += self._parts(one)
        if not self.matrices and not self.rows:
            raise _NotLinear("it isn't made of projections")
        return Weighed(tuple(sorted(self.matrices, key=_natural)), tuple(sorted(self.rows, key=_natural)), WEIGHED)

    def _ends(self, value: Value) -> bool:
        """Whether a value is what a projection gives, or a parameter; then that is among what was found."""
        for port in value.out_of:
            if port.call.inside(self.link.call) and is_linear(port.call):
                self.matrices.update(self._with_siblings(port.call.path))
                return True
        # A matrix times a column: the vector lies in the last axis but one.
        one = value.inputs[0] if value.inputs else value
        column = one.kind == "bmm" and one.shape == (*value.shape, 1)
        if value.kind in _MATRIX_PRODUCTS:
            self._multiplies(value, value.inputs[1])
        elif column:
            self._multiplies(one, one.inputs[0], swapped=True)
        elif value.name and value.shape[-1:] == (self.width,):
            self.rows.add(value.name)
        else:
            return False
        return True

    def _multiplies(self, product: Value, weight: Value, swapped: bool = False) -> None:
        """Find the parameter by which rows are multiplied, and which way round it lies."""
        one = weight
        while not one.name and one.op != LEAF:
            swapped ^= one.kind in _SWAPS and self._swaps_matrix(one)
            if one.kind.partition("#")[0] not in _SWAPS | COPIES | _CHOICES:
                raise _NotLinear(f"its experts' weights pass {one.op} before they are used")
            one = one.inputs[0]
        if not one.name:
            raise _NotLinear(f"{self.graph.owner(product).path} multiplies by a matrix that is no parameter")
        if swapped and len(one.shape) == 3 and one.shape[1] == self.width:
            self.matrices.add(one.name)
        elif not swapped and one.shape[-1] == self.width:
            self.rows.add(one.name)
        else:
            raise _NotLinear(f"{one.name} {list(one.shape)} holds its experts' weights in another way")

    def _swaps_matrix(self, value: Value) -> bool:
        ends = {int(number) % len(value.shape) for number in value.numbers} if value.numbers else {0, 1}
        if ends != {len(value.shape) - 2, len(value.shape) - 1}:
            raise _NotLinear("its experts' weights are laid out in another way")
        return True

    def _parts(self, value: Value) -> list[Value]:
        """What a value that is no projection's is a sum of, or a multiple per row, or another order of rows."""
        kind = value.kind.partition("#")[0]
        if kind in _EMPTY or (kind == LEAF and value.number == 0):
            return []
        if kind in ("mul", "div"):
            return [self._multiplied(value)]
        if kind == "masked_fill" and set(value.numbers) <= {0.0}:
            return [value.inputs[0]]
        if kind not in _MOVES or value.shape[-1:] != (self.width,) or not self._keeps_last(value, kind):
            raise _NotLinear(self._reason(value))
        parts = [one for one in value.inputs if one.dtype.is_floating_point]
        if any(one.shape[-1:] != (self.width,) for one in parts if one.op != LEAF or one.number != 0):
            raise _NotLinear(self._reason(value))
        return parts

    def _multiplied(self, value: Value) -> Value:
        """The rows of a product with one number per row."""
        rows = [one for one in value.inputs if one.shape[-1:] == (self.width,)]
        if len(rows) != 1 or (value.kind == "div" and rows[0] is not value.inputs[0]):
            raise _NotLinear(self._reason(value))
        return rows[0]

    def _keeps_last(self, value: Value, kind: str) -> bool:
        before = len(value.inputs[0].shape) if value.inputs else 0
        axes = [int(number) % before for number in value.numbers] if before else []
        if kind in ("transpose", "sum"):
            return before - 1 not in axes
        if kind == "permute":
            return axes[-1:] == [before - 1]
        return not (kind in ("cat", "select", "split", "unbind", "chunk") and axes[-1:] == [before - 1] and before > 1)

    def _reason(self, value: Value) -> str:
        owner = self.graph.owner(value)
        where = f"{owner.path} ({type(owner.module).__name__})"
        if value.op == LEAF:
            return f"{value.name or 'a constant'} is added beside its projections"
        if is_norm({value.op}):
            return "a norm follows the projection, and an update behind a norm isn't one before it"
        return f"what is added is the result of {value.op} in {where}, not of a projection"

    def _with_siblings(self, path: str) -> list[str]:
        """A projection with the same one of every other expert of its list: those that no token chose didn't run."""
        parts = path.split(".")
        for place in range(len(parts) - 1, 0, -1):
            above, below = ".".join(parts[:place]), ".".join(parts[place + 1 :])
            listed = self.model.get_submodule(above)
            if not isinstance(listed, nn.ModuleList) or above in self.link.call.path:
                continue
            return list(self._siblings(listed, above, below))
        return [path]

    def _siblings(self, listed: Sequence[nn.Module] | nn.ModuleList, above: str, below: str) -> Iterator[str]:
        for place, module in enumerate(listed):
            path = f"{above}.{place}.{below}" if below else f"{above}.{place}"
            try:
                module.get_submodule(below)
            except AttributeError:
                raise _NotLinear(f"{above} holds experts of several kinds") from None
            yield path


def _natural(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]
