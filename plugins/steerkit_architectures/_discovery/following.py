"""From a block's output back to its input: what was added to the stream on the way, and what it was multiplied by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerkit_architectures._discovery.chain import Link
from steerkit_architectures._discovery.graph import Call, Graph, Value, added, is_norm, times
from steerkit_architectures._discovery.refusing import NotASum, Place


@dataclass(frozen=True)
class Addition:
    """Something that is added to the stream.

    Args:
        value: what.
        factor: times what.
        keep: what the stream is multiplied by just before.
        total: the stream with it.
    """

    value: Value
    factor: float
    keep: float
    total: Value


@dataclass(frozen=True)
class Course:
    """How a block makes its output of its input.

    Args:
        additions: in order.
        keep: number that multiplies the whole in the end.
        scale: path of a buffer that does in its place.
        start: where the sum begins, where that isn't the block's input.
    """

    additions: Sequence[Addition]
    keep: float = 1.0
    scale: str = ""
    start: Value | None = None


@dataclass(frozen=True)
class _Product:
    number: float | None
    name: str


def follow(graph: Graph, link: Link) -> Course:
    """Follow the stream through a block.

    Raises:
        NotASum: where its output is no sum that holds its input.
    """
    goal, start = link.into.origin, None
    carrying = _carrying(graph, goal, link.out)
    if link.out.index not in carrying:
        start = _start(graph, link, goal)
        if start is None:
            raise _lost(graph, link, link.out.origin)
        goal = start
        carrying = _carrying(graph, goal, link.out)
    steps: list[Addition | _Product] = []
    value = link.out
    while value is not goal:
        if value.copied is not None:
            value = value.copied
            continue
        step, value = _step(graph, link, value, carrying)
        steps += step
    return _course(graph, link, steps, start)


def _carrying(graph: Graph, goal: Value, end: Value) -> set[int]:
    """Indices of all values that are the stream with something added, or a multiple of it."""
    found = {goal.index}
    for value in graph.values[goal.index + 1 : end.index + 1]:
        if any(one.index in found for one in _addends(value)):
            found.add(value.index)
    return found


def _addends(value: Value) -> list[Value]:
    """What a value is a sum or a multiple of."""
    if value.copied is not None:
        return [value.copied]
    sides = added(value)
    if sides is not None:
        return [side for side, _ in sides]
    product = times(value)
    return [product[0]] if product is not None else []


def _step(graph: Graph, link: Link, value: Value, carrying: set[int]) -> tuple[list[Addition | _Product], Value]:
    """One operation back: what it did to the stream, and the stream before it."""
    sides = added(value)
    if sides is not None:
        (first, one), (second, two) = sides
        if first.index in carrying and second.index in carrying:
            where = Place(value.op, graph.owner(value).path, link.layer)
            raise NotASum(f"in {link.call.path} the stream is added to itself, so it is no sum of contributions", where)
        stream, own = (first, one) if first.index in carrying else (second, two)
        other, factor = (second, two) if stream is first else (first, one)
        if stream.index not in carrying:
            raise _lost(graph, link, value)
        kept: list[Addition | _Product] = [_Product(own, "")] if own != 1.0 else []
        return [Addition(other, factor, 1.0, value), *kept], stream
    product = times(value)
    if product is None or product[0].index not in carrying:
        raise _lost(graph, link, value)
    stream, number, by = product
    name = by.parameter if by is not None else ""
    if number is None and not (by is not None and name and by.size == 1):
        raise _multiplied(graph, link, value, by)
    return [_Product(number, name)], stream


def _multiplied(graph: Graph, link: Link, value: Value, by: Value | None) -> NotASum:
    owner = graph.owner(value)
    where = Place(value.op, owner.path, link.layer)
    if _is_norm(graph, link, owner, value):
        return _passes_norm(link, owner, where)
    what = (by.parameter or f"what {by.origin.op} gives") if by is not None else "a number"
    if by is not None and by.size == 1:
        return NotASum(f"in {link.call.path} the stream is multiplied by {what}, whose value isn't known here", where)
    shape = f" {list(by.shape)}" if by is not None else ""
    return NotASum(
        f"in {link.call.path} the stream is multiplied by {what}{shape}, so a direction taken out of it comes back",
        where,
    )


def _course(graph: Graph, link: Link, steps: Sequence[Addition | _Product], start: Value | None) -> Course:
    """Steps from the end to the beginning, told from the beginning."""
    additions: list[Addition] = []
    products: list[_Product] = []
    for step in reversed(steps):
        if isinstance(step, _Product):
            products.append(step)
            continue
        keep = _number(link, products)
        additions.append(Addition(step.value, step.factor, keep, step.total))
        products = []
    if len(products) == 1 and products[0].name:
        return Course(additions, scale=products[0].name, start=start)
    return Course(additions, keep=_number(link, products), start=start)


def _number(link: Link, products: Sequence[_Product]) -> float:
    number = 1.0
    for product in products:
        if product.number is None:
            reason = f"in {link.call.path} the stream is multiplied by {product.name}, whose value isn't known here"
            raise NotASum(reason, Place("mul", link.call.path, link.layer))
        number *= product.number
    return number


def _start(graph: Graph, link: Link, goal: Value) -> Value | None:
    """Where the stream starts, if the block first passes all of its input through one module, and uses it no more."""
    readers = [user for copy in goal.copies for user in copy.users if link.call.holds(user) and user.copied is None]
    for leaf in _leaves(link.out):
        for port, _ in graph.outputs(leaf.copies, link.call):
            reads = any(value.origin is goal for _, value in port.call.arguments)
            if port.leads and reads and all(port.call.holds(user) for user in readers):
                return leaf
    return None


def _leaves(end: Value) -> list[Value]:
    """What a sum is made of in the end."""
    found, todo, seen = [], [end], set[int]()
    while todo:
        value = todo.pop().origin
        if value.index in seen:
            continue
        seen.add(value.index)
        addends = _addends(value)
        todo += addends
        if not addends:
            found.append(value)
    return found


def _is_norm(graph: Graph, link: Link, owner: Call, value: Value) -> bool:
    """Whether a value is what a norm gives: torch's own, or one that a module of its own computes."""
    computes = owner is not link.call and not list(owner.module.children())
    return is_norm({value.op}) or (computes and is_norm(graph.operations(value, owner.start)))


def _passes_norm(link: Link, owner: Call, where: Place) -> NotASum:
    what = f"{owner.path} ({type(owner.module).__name__})"
    return NotASum(f"in {link.call.path} the stream itself passes the norm {what}, so it is no sum", where)


def _lost(graph: Graph, link: Link, value: Value) -> NotASum:
    """Why the stream can't be followed further back than to a value."""
    owner = graph.owner(value)
    where = Place(value.op, owner.path, link.layer)
    if link.into.origin.index not in graph.made_of(value):
        return NotASum(f"what {link.call.path} gives isn't made of its input", where)
    if _is_norm(graph, link, owner, value):
        return _passes_norm(link, owner, where)
    if value.kind in ("add", "sub"):
        reason = f"{link.call.path} gives a sum of which its input is no part"
        return NotASum(f"{reason} (it is made in {owner.path})", where)
    return NotASum(f"in {link.call.path} the stream passes {value.op} in {owner.path} before it leaves", where)
