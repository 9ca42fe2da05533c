"""Which modules are the blocks: the siblings that hand one value on from each to the next."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from steerkit_architectures._discovery.graph import COPIES, LEAF, Call, Graph, Key, Value
from steerkit_architectures._discovery.recording import named_once
from steerkit_architectures._discovery.refusing import Place, refusal


@dataclass(frozen=True)
class Link:
    """One block of the chain.

    Args:
        call: of the block.
        layer: its number.
        key: under which it gets the stream.
        place: at which it gives it.
        into: the stream that it gets.
        out: the stream that it gives.
    """

    call: Call
    layer: int
    key: Key
    place: int
    into: Value
    out: Value


@dataclass(frozen=True)
class Chain:
    """The blocks of a model, and paths of their siblings that text alone doesn't run."""

    links: Sequence[Link]
    idle: Sequence[str]

    @property
    def work(self) -> int:
        """How much of the pass lies in it."""
        return len(self.links) * (self.links[-1].call.stop - self.links[0].call.start)


def find_chain(model: nn.Module, graph: Graph) -> Chain:
    """The longest chain of siblings that leads to the logits.

    Raises:
        UnsupportedModelError: where there is none, or where what it hands on isn't one vector per token.
    """
    found = [chain for path, children in _lists(model) if (chain := _chain(graph, path, children))]
    if not found:
        raise _no_chain(model, graph)
    behind = graph.made_of(graph.logits) if graph.logits is not None else set()
    leading = [chain for chain in found if chain.links[-1].out.index in behind] or found
    chain = max(leading, key=lambda chain: chain.work)
    _require_stream(model, graph, chain.links)
    return chain


def _lists(model: nn.Module) -> list[tuple[str, list[tuple[str, nn.Module]]]]:
    paths = {id(module): path for path, module in named_once(model)}
    found: list[tuple[str, list[tuple[str, nn.Module]]]] = []
    for path, module in named_once(model):
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) > 1:
            children = [(paths.get(id(child), f"{path}.{place}"), child) for place, child in enumerate(module)]
            found.append((path, children))
    return found


def _chain(graph: Graph, path: str, children: Sequence[tuple[str, nn.Module]]) -> Chain | None:
    ran = [(child, graph.calls_of(module)) for child, module in children]
    calls = [own[0] for _, own in ran if own]
    if len(calls) < 2 or any(len(own) > 1 for _, own in ran):
        return None
    if any(before.stop > after.start for before, after in itertools.pairwise(calls)):
        return None
    handed = [_handed(before, after) for before, after in itertools.pairwise(calls)]
    first = handed[0]
    if first is None or any(one != first for one in handed):
        return None
    key, place = first
    links = []
    for layer, call in enumerate(calls):
        into, out = dict(call.arguments).get(key), dict(call.outputs).get(place)
        if into is None or out is None or into.shape != out.shape:
            return None
        links.append(Link(call, layer, key, place, into, out))
    return Chain(links, [child for child, own in ran if not own])


def _handed(before: Call, after: Call) -> tuple[Key, int] | None:
    """Under which key a block gets what the one before gave, and at which place that gave it."""
    for place, value in before.outputs:
        for key, other in after.arguments:
            if value.dtype.is_floating_point and len(value.shape) >= 2 and value.origin is other.origin:
                return key, place
    return None


def _no_chain(model: nn.Module, graph: Graph) -> Exception:
    """Why, of the list of modules that does most of the work."""
    reason, place, most = "no list of modules is run one after the other", Place(), 0
    for path, children in _lists(model):
        own = [calls for _, module in children if (calls := graph.calls_of(module))]
        work = sum(call.stop - call.start for calls in own for call in calls)
        if len(own) < 2 or work <= most:
            continue
        most = work
        if any(len(calls) > 1 for calls in own):
            times = max(len(calls) for calls in own)
            reason, place = f"{path} runs its modules up to {times} times in one pass", Place(module=path)
            continue
        reason, place = f"the modules of {path} take and give different things", Place(module=path)
        for layer, (before, after) in enumerate(itertools.pairwise(own)):
            if _handed(before[0], after[0]) is None:
                between = graph.values[before[0].stop : after[0].start]
                ops = list(dict.fromkeys(one.op for one in between if one.op not in COPIES and one.op != LEAF))
                lie = f"between them lie {', '.join(ops[:6])}" if ops else "nothing is passed on"
                reason = f"what {before[0].path} gives isn't what {after[0].path} takes ({lie})"
                place = Place(ops[0] if ops else "", after[0].path, layer + 1)
                break
    return refusal("no chain of blocks", reason, place)


def _require_stream(model: nn.Module, graph: Graph, links: Sequence[Link]) -> None:
    """The contract's stream: one vector per token, first among what a block gets and gives."""
    first = links[0]
    shape, tokens, here = list(first.into.shape), list(graph.shape), Place("", first.call.path, 0)
    said = f"what {first.call.path} takes is {shape} for tokens {tokens}"
    config = getattr(model, "config", None)
    width = getattr(config.get_text_config(), "hidden_size", None) if config is not None else None
    if len(shape) > 3:
        why = "several streams run side by side and every block mixes them, so they are not one sum"
        raise refusal("several streams", f"{said}: {why}", here)
    if shape[:2] == tokens[::-1]:
        raise refusal("positions first", f"{said}: positions come before rows", here)
    if len(shape) != 3 or shape[:2] != tokens:
        raise refusal("positions aren't tokens", f"{said}, so a token has no place in it that is its own", here)
    if isinstance(width, int) and shape[-1] != width:
        why = f"where the model is {width} wide: several streams lie side by side, so they are not one sum"
        raise refusal("several streams", f"{said} {why}", here)
    if first.place not in (-1, 0):
        raise refusal("not the first output", f"the stream is output {first.place} of {first.call.path}", here)
    if first.key != 0 and (first.key != "hidden_states" or first.call.positional):
        raise refusal("not the first argument", f"the stream is argument {first.key!r} of {first.call.path}", here)
