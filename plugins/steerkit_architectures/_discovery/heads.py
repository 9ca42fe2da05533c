"""A token mixer's heads: what its output projection reads, and how that was laid side by side."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.api.architecture import Heads, Tap
from steerkit_architectures._discovery.chain import Link
from steerkit_architectures._discovery.folding import is_linear
from steerkit_architectures._discovery.graph import COPIES, Call, Graph, Value

_PASSED = COPIES | {
    "transpose", "permute", "cat", "mul", "sigmoid", "silu", "add", "gelu", "tanh", "relu", "rsqrt", "pow", "mean",
    "native_layer_norm#0", "native_group_norm#0", "_fused_rms_norm#0", "div", "neg", "exp", "sub", "softplus", "square",
}  # fmt: skip
"""What may stand between a contribution and its projection, or between heads side by side and single ones."""


def find_heads(graph: Graph, link: Link, value: Value, projections: Sequence[str]) -> Heads | None:
    """The heads behind a contribution; None where its projection isn't one, or where no heads show before it."""
    call = _projection(graph, link, value, projections)
    into = dict(call.arguments).get(0) if call is not None else None
    if call is None or into is None or into.shape[:-1] != graph.shape:
        return None
    split = _split(graph, link, into)
    return None if split is None else Heads(Tap(call.path, "input"), *split)


def _projection(graph: Graph, link: Link, value: Value, projections: Sequence[str]) -> Call | None:
    """The projection that all of a contribution passes last, also where a norm or the like stands behind it."""
    found: dict[str, Call] = {}
    todo, seen = [value], set[int]()
    while todo:
        one = todo.pop()
        if one.index in seen or one.index < link.call.start:
            continue
        seen.add(one.index)
        ports = (port for port in one.out_of if port.call.inside(link.call) and is_linear(port.call))
        linear = next((port.call for port in ports if graph.once(port.call)), None)
        if linear is not None:
            found[linear.path] = linear
        elif one.op in _PASSED or one.kind in _PASSED:
            todo += [before for before in one.inputs if len(before.shape) > 1]
    return next(iter(found.values())) if len(found) == 1 else None


def _split(graph: Graph, link: Link, into: Value) -> tuple[int, int] | None:
    """Number of heads and width of one, from the last ``[batch, pos, heads, width]`` that was laid side by side."""
    todo, seen = [into], set[int]()
    while todo:
        one = todo.pop(0)
        if one.index in seen or one.index < link.call.start:
            continue
        seen.add(one.index)
        shape = one.shape
        if len(shape) == 4 and shape[:2] == graph.shape and shape[2] * shape[3] == into.shape[-1]:
            return shape[2], shape[3]
        if one.op in _PASSED or one.kind in _PASSED:
            todo += [before for before in one.inputs if len(before.shape) > 1]
    return None
