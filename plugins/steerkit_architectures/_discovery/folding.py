"""The projections that a contribution is the sum of."""

from __future__ import annotations

from torch import nn

from steerkit_architectures._discovery.chain import Link
from steerkit_architectures._discovery.graph import Call, Graph, Value, is_norm

NORM_FOLLOWS = "a norm follows the projection, and an update behind a norm isn't one before it"


def is_linear(call: Call) -> bool:
    """Whether a call is of a linear module: a plain one, a Conv1D, or a quantised or adapted one in its place."""
    module = call.module
    sizes = hasattr(module, "in_features") and hasattr(module, "out_features")
    return isinstance(module, nn.Linear) or sizes or type(module).__name__ == "Conv1D"


def linear_behind(graph: Graph, link: Link, value: Value) -> Call | None:
    """The linear module that gives a value, up to copies; None where none does, or where it runs more than once."""
    calls = [port.call for port, _ in graph.outputs(value.copies, link.call) if is_linear(port.call)]
    once = [call for call in calls if graph.once(call)]
    # What an adapter wraps and leaves as it is can be folded, the wrapper can't.
    return min(once, key=lambda call: (type(call.module) is not nn.Linear, call.depth), default=None)


def projections(graph: Graph, link: Link, value: Value) -> tuple[tuple[str, ...], str]:
    """Paths of the linear modules whose outputs sum to a contribution; or none, and why."""
    paths: list[str] = []
    todo = [value]
    while todo:
        one = todo.pop().origin
        linear = linear_behind(graph, link, one)
        if linear is not None:
            paths.append(linear.path)
        elif _plain_sum(one):
            todo += reversed(one.inputs)
        else:
            return (), _why_not(graph, link, one)
    return tuple(paths), ""


def _plain_sum(value: Value) -> bool:
    shapes = [one.shape for one in value.inputs]
    return value.kind == "add" and shapes == [value.shape] * 2 and value.alpha == 1.0


def _why_not(graph: Graph, link: Link, value: Value) -> str:
    owner = graph.owner(value)
    inner = owner is not link.call and not list(owner.module.children())
    if is_norm({value.op}) or (inner and is_norm(graph.operations(value, owner.start))):
        return NORM_FOLLOWS
    where = f"{owner.path} ({type(owner.module).__name__})"
    return f"what is added is the result of {value.op} in {where}, not of a projection"
