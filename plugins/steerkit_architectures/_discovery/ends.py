"""From the last block to the logits: norm, head, what lies between them, factors and a soft cap."""

from __future__ import annotations

from dataclasses import dataclass, field

from steerkit_architectures._discovery.chain import Link
from steerkit_architectures._discovery.graph import Call, Graph, Value, is_norm, times
from steerkit_architectures._discovery.refusing import Place, refusal


@dataclass(frozen=True)
class Ending:
    """What makes logits of the last block's output.

    Args:
        behind: calls from there to the head, which is the last, in order.
        scale: factor on the logits.
        softcap: of the logits.
    """

    behind: list[Call]
    scale: float
    softcap: float | None

    @property
    def head(self) -> Call:
        """The call of the head."""
        return self.behind[-1]


@dataclass
class _Head:
    value: Value
    scale: float = 1.0
    softcap: float | None = None
    call: Call | None = field(default=None)


def find_ending(graph: Graph, last: Link) -> Ending:
    """The end of a pass.

    Raises:
        UnsupportedModelError: where something stands there that a layout can't say.
    """
    if graph.logits is None:
        raise refusal("no logits", "a pass over text gives no logits")
    head = _Head(graph.logits)
    while head.call is None:
        _back_from_logits(graph, last, head)
    call, into = head.call, head.call.first_argument
    if into is None:
        raise refusal(
            "no head", f"{call.path}, which gives the logits, is called without a tensor", Place("", call.path)
        )
    behind, factor = _tail(graph, last, call, into)
    if factor != 1.0 and getattr(call.module, "bias", None) is not None:
        reason = f"a factor of {factor:.4g} stands before the head {call.path}, which has a bias"
        raise refusal("a factor before a biased head", reason, Place("mul", call.path))
    return Ending(behind, head.scale * factor, head.softcap)


def _back_from_logits(graph: Graph, last: Link, head: _Head) -> None:
    """One step from the logits towards the head."""
    value = head.value
    ports = [port for port in value.out_of if port.leads and port.call.start >= last.call.stop]
    if ports:
        head.call = min(ports, key=lambda port: port.call.depth).call
        return
    if value.copied is not None:
        head.value = value.copied
        return
    product = times(value)
    if product is None or product[1] is None:
        owner = graph.owner(value).path
        reason = f"{value.op} in {owner or 'the model'} stands between the head and the logits"
        raise refusal("something behind the head", reason, Place(value.op, owner))
    inside, number = product[0], product[1]
    if inside.origin.kind == "tanh" and head.scale == 1.0 and head.softcap is None:
        capped = inside.origin.inputs[0].origin
        before = times(capped)
        if before is None or before[1] is None or abs(before[1] * number - 1) > 1e-6:
            raise refusal("another soft cap", "the logits pass a tanh of another form than c * tanh(logits / c)")
        head.softcap, head.value = number, before[0]
        return
    head.scale *= number
    head.value = inside


def _tail(graph: Graph, last: Link, head: Call, into: Value) -> tuple[list[Call], float]:
    """Calls from the last block to the head, and the product of the factors among them."""
    calls, factor, value = [head], 1.0, into
    while value.origin is not last.out.origin:
        step = _module_before(graph, last, head, value)
        if step is not None:
            calls.insert(0, step)
            before = step.first_argument
            assert before is not None  # a step has one
            value = before
            continue
        product = times(value.origin)
        if product is None or product[1] is None:
            owner = graph.owner(value.origin).path
            reason = f"{value.origin.op} in {owner or 'the model'} stands between the last block and the head"
            raise refusal("something before the head", reason, Place(value.origin.op, owner))
        if len(calls) > 1 and not _scales(graph, calls[:-1]):
            raise refusal(
                "a factor before a norm", f"a factor stands before {calls[0].path}", Place("mul", calls[0].path)
            )
        factor, value = factor * product[1], product[0]
    return calls, factor


def _scales(graph: Graph, calls: list[Call]) -> bool:
    """Whether modules pass a factor on as it is: linear ones without a bias."""
    return all(type(call.module).__name__ == "Linear" and call.module.bias is None for call in calls)


def _module_before(graph: Graph, last: Link, head: Call, value: Value) -> Call | None:
    """The outermost module behind the blocks that gives a value and takes something made of the last block's output."""
    for copy in value.copies:
        for port in sorted(copy.out_of, key=lambda port: port.call.depth):
            taken = port.call.first_argument
            if taken is None or not port.leads or not last.call.stop <= port.call.start <= head.start:
                continue
            if taken.index >= last.out.index or taken.origin is last.out.origin:
                return port.call
    return None


def has_norm(graph: Graph, call: Call) -> bool:
    """Whether a norm runs in a call."""
    return is_norm({value.op for value in graph.values[call.start : call.stop]})


def find_base(graph: Graph, first: Link, head: Call) -> Call:
    """The outermost module, other than the model, that runs the blocks and not the head."""
    for call in graph.calls[1:]:
        if call is not first.call and first.call.inside(call) and not head.inside(call) and call.outputs:
            return call
    raise refusal("no base", "no module runs the blocks and not the head", Place("", first.call.path, 0))
