"""Studies of suffixes: prompts with and without texts behind the user's turn, read along a direction."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from steerkit.artifacts.results import SuffixesEntry
from steerkit.errors import DataError, agreeing, counted
from steerkit.recipe.joined import with_suffix
from steerkit.stages.graph import Graph
from steerkit.stages.tasks import Examples, SuffixesTask
from steerkit.types import Example

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.api.direction import Direction
    from steerkit.engine.prompts.chat import Rendered
    from steerkit.engine.reading.heads import HeadMap
    from steerkit.progress import Observer
    from steerkit.session.model import LiveModel

DRAWS: Final = 20
"""Random texts that are drawn until one has, within the chat template, as many tokens as the given one."""
BEHIND: Final = 32
"""Prompts that a random text mustn't melt into."""


@dataclass(frozen=True)
class _Group:
    """Prompts of a study.

    Args:
        kind: which.
        rendered: as the model reads them.
        suffix: the text behind the user's turn, or None.
        of: which given suffix a random one stands beside.
    """

    kind: Literal["prompts", "reference", "suffix", "random"]
    rendered: Sequence[Rendered]
    suffix: str | None = None
    of: int | None = None


@dataclass(frozen=True)
class _Read:
    """What was read of a group.

    Args:
        group: which.
        cosines: ``[prompts, layers]``.
        shares: what heads add along the direction, ``{layer: [prompts, heads]}``.
    """

    group: _Group
    cosines: Tensor
    shares: Mapping[int, Tensor]


def study_suffixes(payload: SuffixesTask, direction: Direction, live: LiveModel, observer: Observer) -> dict[str, Any]:
    """Read prompts by themselves, those to compare with, and the prompts with each suffix, given or random.

    As the paper does (arXiv 2406.11717, section 5), but with any texts: the cosine of the last token's ``resid_pre``
    with the direction at every layer, what each head adds along the direction, and what the heads that add most to it
    attend to, beside the same under random texts of as many tokens.

    Returns:
        what ``SuffixesEntry`` has beside names.

    Raises:
        DataError: where the direction isn't one vector of the stream, a suffix adds no token, or no random one can be
            drawn.
    """
    from steerkit.engine.reading.heads import head_maps
    from steerkit.engine.reading.last import require_vector

    try:
        unit = require_vector(live, direction.vectors, direction.name)
        groups = _groups(payload, live)
        maps, refused = head_maps(live) if payload.heads else ({}, {})
        read = []
        for group in groups:
            observer.step(f"{group.kind} {'' if group.suffix is None else repr(group.suffix)}".rstrip())
            read.append(_read(live, group, unit, maps, observer))
    except DataError as error:
        raise DataError(f"suffixes.{payload.name}: {error}") from None
    found: dict[str, Any] = {"groups": [_described(one, groups[0], read[0].cosines) for one in read]}
    if payload.heads:
        found |= _heads(payload, live, read, observer)
        found["normed"] = True if any(one.gain is not None for one in maps.values()) else None
        found["notes"] = [*_told_of(refused), *found["notes"]]
    return found


def _read(live: LiveModel, group: _Group, unit: Tensor, maps: Mapping[int, HeadMap], observer: Observer) -> _Read:
    """One pass over a group: cosines, and what heads add."""
    from steerkit.engine.reading.heads import HeadReader
    from steerkit.engine.reading.last import last_token_cosines

    heads = HeadReader(live, maps, unit, len(group.rendered))
    cosines = last_token_cosines(live, group.rendered, unit, observer.progress, beside=heads.takers())
    heads.require_finite()
    return _Read(group, cosines, heads.shares)


def _described(read: _Read, plain: _Group, before: Tensor) -> dict[str, Any]:
    """A group as ``SuffixGroupEntry`` has it."""
    group = read.group
    entry: dict[str, Any] = {"kind": group.kind, "n": len(group.rendered), "suffix": group.suffix, "of": group.of}
    entry["cosines"], entry["errors"] = _means(read.cosines)
    if group.suffix is not None:
        entry["change"], entry["change_errors"] = _means(read.cosines - before)
        entry["tokens"] = sum(_added(plain.rendered, group.rendered)) / len(group.rendered)
    layers = range(read.cosines.shape[1]) if read.shares else ()
    entry["attribution"] = [read.shares[at].mean(0).tolist() if at in read.shares else [] for at in layers]
    return entry


def _heads(payload: SuffixesTask, live: LiveModel, read: Sequence[_Read], observer: Observer) -> dict[str, Any]:
    """The heads that add most along the direction at the prompts as they are, and what these attend to."""
    means = [
        (float(value), layer, head)
        for layer, shares in read[0].shares.items()
        for head, value in enumerate(shares.mean(0))
    ]
    chosen = [(layer, head) for _, layer, head in sorted(means, key=lambda one: (-one[0], *one[1:]))[: payload.heads]]
    entries: list[dict[str, Any]] = [{"layer": layer, "head": head} for layer, head in chosen]
    for entry in entries:
        told = [_means(one.shares[entry["layer"]][:, entry["head"], None]) for one in read]
        entry["attribution"], entry["errors"] = [means[0] for means, _ in told], [errors[0] for _, errors in told]
    notes = _attend(live, read, entries, observer) if entries else []
    return {"heads": entries, "notes": notes}


def _attend(live: LiveModel, read: Sequence[_Read], entries: Sequence[dict[str, Any]], observer: Observer) -> list[str]:
    """Put into heads what they attend to; why nothing is told, where nothing is."""
    from steerkit.engine.reading.heads import attention_to

    spans = [_spans(read[0].group, one.group) for one in read]
    if any(None in its for its in spans):
        return ["No attention is told: nobody knows which tokens are the user's own text."]
    observer.step("attention of the heads that add most")
    heads = [(entry["layer"], entry["head"]) for entry in entries]
    told: list[Tensor] = []
    for one, its in zip(read, spans, strict=True):
        seen = attention_to(live, one.group.rendered, [span for span in its if span is not None], heads)
        if seen is None:
            return ["No attention is told: the model gives no attention weights."]
        told.append(seen.mean(0))
    for place, entry in enumerate(entries):
        entry["instruction"] = [float(one[place, 0]) for one in told]
        entry["suffix"] = [float(one[place, 1]) for one in told]
    return []


def _spans(plain: _Group, group: _Group) -> list[tuple[tuple[int, int], tuple[int, int]] | None]:
    """The tokens of the user's own text and of the suffix in each prompt; None where nobody knows them.

    A token that lies across both is the suffix's.
    """
    found: list[tuple[tuple[int, int], tuple[int, int]] | None] = []
    for place, given in enumerate(group.rendered):
        if given.instruction is None:
            found.append(None)
            continue
        start, border = given.instruction
        stop = border
        if group.suffix is not None:
            before = plain.rendered[place]
            own = before.token_ids[slice(*(before.instruction or (0, 0)))]
            alike = zip(own, given.token_ids[start:stop], strict=False)
            kept = next((at for at, (one, other) in enumerate(alike) if one != other), len(own))
            border = min(start + kept, stop)
        found.append(((start, border), (border, stop)))
    return found


def _told_of(refused: Mapping[int, str]) -> list[str]:
    """Why nothing is told of the heads of some layers."""
    reasons: dict[str, list[int]] = {}
    for layer, reason in refused.items():
        reasons.setdefault(reason, []).append(layer)
    return [
        f"No attribution of heads in {agreeing(len(layers), 'block', 'blocks')} {', '.join(map(str, layers))}: "
        f"{reason}."
        for reason, layers in reasons.items()
    ]


def _groups(payload: SuffixesTask, live: LiveModel) -> list[_Group]:
    plain = live.rendered(payload.prompts)
    groups = [_Group("prompts", plain)]
    if payload.reference is not None:
        groups.append(_Group("reference", live.rendered(payload.reference)))
    for place, suffix in enumerate(payload.suffixes):
        given = _behind(live, payload.prompts, suffix)
        groups.append(_Group("suffix", given, suffix))
        tokens = _added(plain[:1], given[:1])[0]
        if tokens < 1:
            raise DataError(f"suffix {suffix!r} adds no token to a prompt: the chat template leaves it out.")
        for number in range(payload.random):
            # By the text itself: another study, or a suffix more, changes no draw.
            draw = random.Random(f"{payload.seed}/{suffix}/{number}")
            text = draw_suffix(live, payload.prompts, plain[0], tokens, draw)
            groups.append(_Group("random", _behind(live, payload.prompts, text), text, place))
    return groups


def draw_suffix(live: LiveModel, prompts: Examples, first: Rendered, tokens: int, draw: random.Random) -> str:
    """A random text that adds so many tokens to the first prompt, and melts into none of the first ones.

    Args:
        live: the model.
        prompts: what it will stand behind.
        first: the first of them, rendered.
        tokens: how many.
        draw: what draws.
    """
    from steerkit.engine.prompts.random_text import random_text

    behind = [_last_user_turn(one) for one in prompts[:BEHIND]]
    for _ in range(DRAWS):
        text = random_text(live.chat.tokenizer, behind, tokens, draw)
        if _added([first], _behind(live, prompts[:1], text)) == [tokens]:
            return text
    raise DataError(
        f"no random text adds {counted(tokens, 'token')} to the first prompt as the chat template renders it. Set "
        f"random: 0."
    )


def _last_user_turn(example: Example) -> str:
    turns = [turn.content for turn in example.messages if turn.role == "user"]
    return turns[-1] if turns else example.messages[-1].content


def _behind(live: LiveModel, prompts: Examples, suffix: str) -> list[Rendered]:
    return live.rendered([with_suffix(one, suffix) for one in prompts])


def _added(plain: Sequence[Rendered], given: Sequence[Rendered]) -> list[int]:
    """How many tokens more each prompt has."""
    return [len(more.token_ids) - len(one.token_ids) for one, more in zip(plain, given, strict=True)]


def _means(values: Tensor) -> tuple[list[float], list[float | None]]:
    """Means over the prompts ``[prompts, ...]``, and their standard errors, which one prompt alone doesn't have."""
    n = values.shape[0]
    means: list[float] = values.mean(0).tolist()
    if n < 2:
        return means, [None] * len(means)
    errors: list[float | None] = (values.std(0, correction=1) / n**0.5).tolist()
    return means, errors


def read_suffixes(
    graph: Graph, outputs: Mapping[str, bytes], directions: Mapping[str, Direction]
) -> list[SuffixesEntry]:
    """The studies of suffixes as ``results.json`` lists them."""
    from steerkit.stages.packing import from_bytes

    return [
        SuffixesEntry(
            name=planned.name,
            direction=planned.direction,
            site=str(directions[planned.direction].site),
            prompts=str(planned.prompts),
            reference=None if planned.reference is None else str(planned.reference),
            **from_bytes(outputs[task.key]),
        )
        for planned, task in graph.suffixes
    ]
