"""Where the embedding enters the stream, and which tables it is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from steerkit.api.architecture import Tap
from steerkit_architectures._discovery.chain import Link
from steerkit_architectures._discovery.graph import LEAF, SHAPE_ALONE, Call, Graph, Value, times
from steerkit_architectures._discovery.writers import tap_at

_ROWS = frozenset({"embedding", "index", "index_select"})


@dataclass(frozen=True)
class Beginning:
    """The beginning of the stream, as ``Layout`` says it."""

    embed: Tap
    is_first_resid_pre: bool = True
    weight: str = ""
    beside: tuple[str, ...] = ()
    note: str = ""


def find_beginning(graph: Graph, first: Link, start: Tap | None) -> Beginning:
    """Where the embedding is seen, whether it is the first block's input, and of which tables it is a sum."""
    if start is not None:
        return Beginning(start, note="The embedding passes a norm within the first block, so it isn't folded.")
    weight, beside, note = _tables(graph, first)
    whole = (*graph.shape, first.into.shape[-1])
    copies = [copy for copy in first.into.copies if copy.index <= first.call.start]
    ports = [
        (port.call, copy)
        for copy in copies
        for port in copy.out_of
        if copy.shape == whole and port.leads and graph.once(port.call) and port.call.stop <= first.call.start
    ]
    if not ports:
        return Beginning(_at_block(first), True, weight, beside, note)
    call, tapped = min(ports, key=lambda one: (not isinstance(one[0].module, nn.Embedding), one[0].depth, -one[0].stop))
    alone = _is_alone(call, tapped, copies, first)
    return Beginning(Tap(call.path), alone, weight, beside, note)


def _at_block(first: Link) -> Tap:
    port = next(port for port in first.into.into if port.call is first.call)
    return tap_at(port, first.into, first.call, output=False)


def _is_alone(call: Call, tapped: Value, copies: list[Value], first: Link) -> bool:
    """Whether what the tap shows is read by the first block alone."""
    for copy in copies:
        if copy.index < tapped.index:
            continue
        for user in copy.users:
            inside = first.call.holds(user) or call.holds(user)
            if user.copied is not copy and not inside and user.op not in SHAPE_ALONE:
                return False
    return True


def _tables(graph: Graph, first: Link) -> tuple[str, tuple[str, ...], str]:
    """The table of the tokens, those that are added beside it, and a note where the embedding is anything else."""
    rows: list[tuple[Value, str, float]] = []
    todo = [(first.into, 1.0)]
    while todo:
        value, factor = todo.pop()
        origin = value.origin
        owner = _table_of(graph, origin)
        if owner is not None:
            rows.append((origin, owner.path, factor))
        elif (sides := _sides(origin)) is not None:
            todo += [(side, factor * own) for side, own in sides[::-1]]
        elif (product := times(origin)) is not None and _is_one_number(product):
            # Without values a factor isn't known; tokens may have any.
            todo.append((product[0], factor * (math.nan if product[1] is None else product[1])))
        else:
            where = graph.owner(origin).path or "the model"
            made = origin.name or f"made by {origin.op} in {where}"
            return "", (), f"A part of the embedding is {made}, not the rows of a table, so it isn't folded."
    token = _of_tokens(rows)
    if token is None:
        return "", (), "The embedding is a sum of rows of several tables of tokens, so it isn't folded."
    beside = [row for row in rows if row is not token]
    if any(factor != 1.0 for _, _, factor in beside):
        return "", (), "A table that is added to the rows of tokens is multiplied by a factor, so it isn't folded."
    return token[1], tuple(path for _, path, _ in beside), ""


def _of_tokens(rows: list[tuple[Value, str, float]]) -> tuple[Value, str, float] | None:
    """The rows that tokens choose; of several those whose indices are the tokens: positions may count from them."""
    chosen = [row for row in rows if row[0].of_tokens]
    if len(chosen) > 1:
        chosen = [row for row in chosen if row[0].inputs[1].origin.op == LEAF]
    return chosen[0] if len(chosen) == 1 else None


def _sides(value: Value) -> list[tuple[Value, float]] | None:
    """The sides of a sum of which one is the same for every row of the batch."""
    if value.kind != "add" or len(value.inputs) != 2:
        return None
    return [(value.inputs[0], 1.0), (value.inputs[1], value.alpha)]


def _is_one_number(product: tuple[Value, float | None, Value | None]) -> bool:
    _, number, by = product
    return number is not None or (by is not None and by.size == 1 and not by.of_tokens)


def _table_of(graph: Graph, value: Value) -> Call | None:
    """The call of an embedding module of which a value is rows."""
    if value.op not in _ROWS or len(value.inputs) < 2:
        return None
    owner = graph.owner(value)
    own = value.inputs[0].parameter.rpartition(".") == (owner.path, ".", "weight")
    return owner if own and isinstance(owner.module, nn.Embedding) and graph.once(owner) else None
