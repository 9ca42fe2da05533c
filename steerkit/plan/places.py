"""Sites of a recipe that only a model's modules tell of: which they are, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from steerkit.api.hookspecs import ArchitectureSpec
from steerkit.errors import SteerkitError
from steerkit.plan.names import KeyPart, unusual
from steerkit.plan.planned.model import PlannedModel
from steerkit.types import EMBED, HEAD_OUT, RESID_POST, RESID_PRE, STREAMS, Site, SitePattern, resolve_sites

if TYPE_CHECKING:
    from steerkit.api.architecture import Layout

Look: TypeAlias = "Callable[[PlannedModel, str, bool], Layout]"
"""From a model, its adapter's name and whether code of its own may run to its layout, without weights. Raises
``SteerkitError`` where that can't be known."""

Placed: TypeAlias = tuple[Site | SitePattern, tuple[KeyPart, ...]]
"""A site or pattern of a recipe, and where it stands."""

_EVERYWHERE: Final = (EMBED, RESID_PRE, RESID_POST)


@dataclass(frozen=True)
class Wanted:
    """What a recipe asks of a model's places.

    Args:
        placed: its sites.
        everywhere: where it says that something acts at all that writes to the stream.
    """

    placed: tuple[Placed, ...] = ()
    everywhere: tuple[tuple[KeyPart, ...], ...] = ()


@dataclass(frozen=True)
class Places:
    """What came of it: problems with their places, doubts of that kind, notes, and notes of before that are settled."""

    problems: tuple[tuple[str, tuple[KeyPart, ...]], ...] = ()
    doubts: tuple[tuple[str, tuple[KeyPart, ...]], ...] = ()
    notes: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()


def places(
    wanted: Wanted, adapter: ArchitectureSpec, model: PlannedModel, trust_remote_code: bool, look: Look
) -> Places:
    """Hold a recipe's sites to the layout of its model, if any of them asks for that.

    Args:
        wanted: the recipe's sites.
        adapter: of the model.
        model: what is known of it.
        trust_remote_code: whether the recipe allows it.
        look: asked at most once.
    """
    asked = [one for one in wanted.placed if _is_open(one[0], adapter, model)]
    # What the families declare is all that writes.
    everywhere = wanted.everywhere if adapter.fallback else ()
    if not asked and not everywhere:
        return Places()
    if model.model_type is None:
        return Places()  # a plan says already that it knows nothing of the model
    if model.folder is None and not model.is_tiny:
        return Places(notes=("The sites are checked when the model is loaded: no config of it is at hand.",))
    try:
        layout = look(model, adapter.name, trust_remote_code)
    except SteerkitError as error:
        why = str(error).rstrip(".")
        return Places(notes=(f"The sites are checked when the model is loaded: without weights, {why}.",))
    problems: list[tuple[str, tuple[KeyPart, ...]]] = []
    doubts: list[tuple[str, tuple[KeyPart, ...]]] = []
    for path in everywhere:
        if layout.not_a_sum:
            problems.append((_no_writers(layout), path))
    for sites, path in wanted.placed:
        fault = _fault(sites, layout)
        if fault:
            (doubts if _is_doubtful(sites, adapter, layout) else problems).append((fault, path))
    notes = (f"Only the ends of blocks are sites of this model: {layout.not_a_sum}.",) if layout.not_a_sum else ()
    return Places(tuple(problems), tuple(doubts), notes, tuple(unusual(sites.stream) for sites, _ in asked))


def _no_writers(layout: Layout) -> str:
    try:
        layout.writer_sites()
    except SteerkitError as error:
        return str(error)
    return ""


def _is_doubtful(sites: Site | SitePattern, adapter: ArchitectureSpec, layout: Layout) -> bool:
    """Whether the weights may tell otherwise: which writer mixes tokens, and so its name, is seen in numbers alone."""
    named = sites.stream.endswith("_out") and sites.stream != HEAD_OUT
    return adapter.fallback and named and not layout.not_a_sum


def _is_open(sites: Site | SitePattern, adapter: ArchitectureSpec, model: PlannedModel) -> bool:
    """Whether a site may be one that the model hasn't, as far as a plan knows."""
    if sites.head >= 0 or (model.n_layers is None and sites.stream != EMBED):
        return True
    return sites.stream not in (_EVERYWHERE if adapter.fallback else STREAMS)


def _fault(sites: Site | SitePattern, layout: Layout) -> str:
    """Why a model doesn't have a site, or any of a pattern's."""
    try:
        for site in resolve_sites(sites, layout.n_layers):
            layout.require(site)
    except SteerkitError as error:
        return str(error)
    return ""
