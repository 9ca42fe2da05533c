"""What is added to the stream, as module outputs that a tap can name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from steerkit.api.architecture import Tap
from steerkit.types import ATTN_OUT, MLP_OUT
from steerkit_architectures._discovery.chain import Link
from steerkit_architectures._discovery.following import Course
from steerkit_architectures._discovery.graph import Call, Graph, Port, Value, added, times
from steerkit_architectures._discovery.refusing import NotASum, Place


@dataclass(frozen=True)
class Contribution:
    """One thing that a block adds.

    Args:
        tap: where it is.
        value: the tapped value, before the tap's factor.
        keep: what the stream is multiplied by before it is added.
        alone: whether it is all that one addition adds.
    """

    tap: Tap
    value: Value
    keep: float
    alone: bool


def contributions(graph: Graph, link: Link, course: Course) -> list[Contribution]:
    """Everything that a block adds, in order.

    Raises:
        NotASum: where a part of it is no module's output, so that it can't be read or replaced.
    """
    found: list[Contribution] = []
    for addition in course.additions:
        parts = sorted(_parts(graph, link, addition.value, addition.factor), key=lambda part: part[1].index)
        keeps = [addition.keep, *(1.0 for _ in parts[1:])]
        found += [
            Contribution(tap, value, keep, len(parts) == 1) for (tap, value), keep in zip(parts, keeps, strict=True)
        ]
    if not found:
        raise NotASum(f"{link.call.path} adds nothing to the stream", Place("", link.call.path, link.layer))
    return found


def _parts(graph: Graph, link: Link, value: Value, factor: float) -> list[tuple[Tap, Value]]:
    """The module outputs that make up an addend, each with its factor."""
    tap = tap_of(graph, value, link.call)
    if tap is not None:
        return [(replace(tap, factor=factor), value)]
    origin = value.origin
    sides = added(origin)
    if sides is not None:
        return [part for side, own in sides for part in _parts(graph, link, side, factor * own)]
    product = times(origin)
    if product is not None and product[1] is not None:
        return _parts(graph, link, product[0], factor * product[1])
    raise _not_tapped(graph, link, origin, product)


def tap_of(graph: Graph, value: Value, within: Call) -> Tap | None:
    """The outermost module below a block that gives a value, or one that alone reads it; None where there is none."""
    width = value.shape[-1] if value.shape else 0
    copies = [copy for copy in value.copies if within.start <= copy.index <= within.stop]
    for shape in ((*graph.shape, width), (graph.shape[0] * graph.shape[1], width)):
        here = [copy for copy in copies if copy.shape == shape]
        ports = [(port, copy) for port, copy in graph.outputs(here, within) if port.leads and graph.once(port.call)]
        if ports:
            port, copy = min(ports, key=lambda item: (item[0].call.depth, -item[0].call.stop))
            return tap_at(port, copy, within, output=True)
    for copy in copies:
        if copy.shape != (*graph.shape, width):
            continue
        for port in sorted(copy.into, key=lambda port: port.call.depth):
            if not _is_only_reader(graph, port, copy, within):
                continue
            return tap_at(port, copy, within, output=False)
    return None


def _is_only_reader(graph: Graph, port: Port, value: Value, within: Call) -> bool:
    if port.call is within or not port.call.inside(within) or not graph.once(port.call) or not port.is_first_argument:
        return False
    return all(port.call.holds(user) for user in value.users)


def tap_at(port: Port, value: Value, within: Call, *, output: bool) -> Tap:
    """The tap of a value where it enters or leaves a module."""
    keyword = port.key if isinstance(port.key, str) and not output else "hidden_states"
    flat_within = within.path if len(value.shape) == 2 else ""
    return Tap(port.call.path, "output" if output else "input", keyword=keyword, flat_within=flat_within)


def _not_tapped(
    graph: Graph, link: Link, value: Value, product: tuple[Value, float | None, Value | None] | None
) -> NotASum:
    """Why a part of a contribution can't be tapped."""
    block, owner = link.call.path, graph.owner(value)
    where = Place(value.op, owner.path, link.layer)
    if not value.of_tokens:
        name = next((name for index in graph.made_of(value) if (name := graph.values[index].name)), value.op)
        return NotASum(f"{block} adds {name} to the stream outside of any module", where)
    if product is not None and product[2] is not None and not product[2].of_tokens:
        by = product[2]
        name = by.parameter or f"what {by.origin.op} gives"
        return NotASum(
            f"in {block} a contribution is multiplied by {name} {list(by.shape)} outside of any module", where
        )
    for port, copy in sorted(graph.outputs(value.copies, link.call), key=lambda item: item[0].call.depth):
        if not graph.once(port.call):
            runs = len(graph.calls_of(port.call.module))
            return NotASum(f"{port.call.path}, which contributes in {block}, runs {runs} times in one pass", where)
        if not port.leads:
            at = f"item {port.key} of what {port.call.path} gives"
            return NotASum(f"in {block} a contribution is {at}, and only the first item can be read", where)
        if len(copy.shape) != 3:
            return NotASum(f"in {block} a contribution leaves {port.call.path} as {list(copy.shape)}", where)
    made = f"made by {value.op} in {owner.path} ({type(owner.module).__name__})"
    return NotASum(f"in {block} a contribution is {made}, where no module ends", where)


def middle(graph: Graph, link: Link, course: Course, parts: Sequence[Contribution]) -> Tap | None:
    """Where the stream between the first two contributions is read; None where there is no such point."""
    if len(course.additions) < 2 or not parts[0].alone:
        return None
    total, block = course.additions[0].total, link.call
    ports = [
        (port, copy)
        for copy in total.copies
        for port in copy.into
        if port.call is not block and port.call.inside(block) and port.call.start >= total.index
    ]
    readers = [item for item in ports if graph.once(item[0].call) and item[0].is_first_argument]
    if not readers:
        return None
    port, copy = min(readers, key=lambda item: (item[0].call.start, item[0].call.depth))
    return tap_at(port, copy, block, output=False)


def names(taps: Sequence[Tap], mixing: Sequence[bool]) -> list[str]:
    """``attn_out`` for the first that mixes tokens, ``mlp_out`` for the first that doesn't, else the module's."""
    found: list[str] = []
    for tap, mixes in zip(taps, mixing, strict=True):
        name = ATTN_OUT if mixes else MLP_OUT
        if name in found:
            *above, last = tap.module.split(".")
            own = f"{above[-1]}_{last}" if last.isdigit() and above else last
            plain = re.sub(r"[^a-z0-9]+", "_", own.lower()).strip("_")
            candidates = [f"{plain}_out", *(f"{plain}_{number}_out" for number in range(2, len(taps) + 2))]
            name = next(one for one in candidates if one not in found)
        found.append(name)
    return found
