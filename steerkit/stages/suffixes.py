"""Studies of suffixes: prompts with and without texts behind the user's turn, read along a direction."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from steerkit.artifacts.results import SuffixesEntry
from steerkit.errors import DataError
from steerkit.recipe.joined import with_suffix
from steerkit.stages.graph import Graph
from steerkit.stages.tasks import Examples, SuffixesTask
from steerkit.types import Example

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.api.direction import Direction
    from steerkit.engine.prompts.chat import Rendered
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


def study_suffixes(payload: SuffixesTask, direction: Direction, live: LiveModel, observer: Observer) -> dict[str, Any]:
    """Read prompts by themselves, those to compare with, and the prompts with each suffix, given or random.

    As the paper does (arXiv 2406.11717, section 5), but with any texts: the cosine of the last token's ``resid_pre``
    with the direction at every layer, beside that under random texts of as many tokens.

    Returns:
        ``groups``, each as ``SuffixGroupEntry`` has it.

    Raises:
        DataError: where the direction isn't one vector of the stream, a suffix adds no token, or no random one can be
            drawn.
    """
    from steerkit.engine.reading.last import last_token_cosines, require_vector

    try:
        unit = require_vector(live, direction.vectors, direction.name)
        groups = _groups(payload, live)
    except DataError as error:
        raise DataError(f"suffixes.{payload.name}: {error}") from None
    plain: Tensor | None = None
    found = []
    for group in groups:
        observer.step(f"{group.kind} {'' if group.suffix is None else repr(group.suffix)}".rstrip())
        cosines = last_token_cosines(live, group.rendered, unit, observer.progress)
        plain = cosines if plain is None else plain
        entry = {"kind": group.kind, "n": len(group.rendered), "suffix": group.suffix, "of": group.of}
        entry["cosines"], entry["errors"] = _means(cosines)
        if group.suffix is not None:
            entry["change"], entry["change_errors"] = _means(cosines - plain)
            entry["tokens"] = sum(_added(groups[0].rendered, group.rendered)) / len(group.rendered)
        found.append(entry)
    return {"groups": found}


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
        f"no random text adds {tokens} tokens to the first prompt as the chat template renders it. Set random: 0."
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
    from steerkit.stages.carry import from_bytes

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
