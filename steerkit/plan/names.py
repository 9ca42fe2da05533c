"""Names of a recipe to what they mean. What can't be resolved becomes a problem, and the search goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias, overload

from steerkit.api.hookspecs import (
    ArchitectureSpec,
    EstimatorSpec,
    EvaluatorSpec,
    FormatSpec,
    InterventionSpec,
    Options,
    Spec,
)
from steerkit.catalog import Catalog
from steerkit.errors import DataError, Problem, SteerkitError, counted
from steerkit.plan.planned.model import PlannedModel
from steerkit.recipe.data import DataRef, Splits, parse_ref
from steerkit.recipe.draft import Draft
from steerkit.recipe.problems import find_faults, news
from steerkit.types import STREAMS, Example, Positions, Site, SitePattern, parse_sites

KeyPart: TypeAlias = str | int
"""One step of a path into a recipe: a key, or an index of a list."""


def unusual(stream: str) -> str:
    """The note on a stream of which only the model tells whether it has it."""
    return f"Stream {stream!r} is one that not every model has; that is checked at load."


class Resolver:
    """Looks names up and gathers what is wrong.

    Args:
        draft: the recipe as written.
        catalog: the plugins that it may name.
    """

    def __init__(self, draft: Draft, catalog: Catalog) -> None:
        self.draft = draft
        self.recipe = recipe = draft.recipe
        self.catalog = catalog
        self.problems: list[Problem] = list(draft.problems)
        self.notes: list[str] = []
        self.used: dict[tuple[str, str], None] = {}
        self.model = PlannedModel(recipe.model.source)
        self.data: Mapping[str, Splits] = {}
        self.placed: list[
            tuple[Site | SitePattern, tuple[KeyPart, ...]]
        ] = []  # sites of the recipe, and where they stand
        self.everywhere: list[tuple[KeyPart, ...]] = []  # where something is to act at all that writes
        self.further: dict[str, None] = {}  # directions that estimators give beside those that the recipe names

    def complain(self, message: object, *path: KeyPart) -> None:
        """Note a problem at a key of the recipe, unless a draft has lost what stood there."""
        if not self.draft.lost(*path):
            self.problems.append(Problem(str(message), *self.draft.place(*path)))

    @overload
    def spec(self, kind: Literal["architecture"], name: str, *path: KeyPart) -> ArchitectureSpec | None: ...
    @overload
    def spec(self, kind: Literal["estimator"], name: str, *path: KeyPart) -> EstimatorSpec | None: ...
    @overload
    def spec(self, kind: Literal["intervention"], name: str, *path: KeyPart) -> InterventionSpec | None: ...
    @overload
    def spec(self, kind: Literal["evaluator"], name: str, *path: KeyPart) -> EvaluatorSpec | None: ...
    @overload
    def spec(self, kind: Literal["format"], name: str, *path: KeyPart) -> FormatSpec | None: ...
    def spec(self, kind: str, name: str, *path: KeyPart) -> Spec | None:
        """A plugin, or None and a problem."""
        try:
            found = self.catalog.get(kind, name)
        except SteerkitError as error:
            self.complain(error, *path)
            return None
        self.used[(kind, name)] = None
        return found

    def options(
        self,
        spec: Spec,
        values: Mapping[str, Any],
        *path: KeyPart,
        moved: Mapping[str, tuple[KeyPart, ...]] | None = None,
        beside: Iterable[str] = (),
        partial: bool = False,
    ) -> Options | None:
        """A plugin's options, or None and problems.

        Args:
            spec: the plugin.
            values: what the recipe sets.
            path: where the options stand.
            moved: options that stand elsewhere (the values of a sweep), with their places.
            beside: keys of ours that stand among the options.
            partial: whether an option is known to be lost.
        """
        found, faults = find_faults(spec.options, dict(values), beside)
        for fault in news(faults, partial=partial):
            elsewhere = (moved or {}).get(str(fault.path[0])) if fault.path else None
            self.complain(fault.message, *(elsewhere or (*path, *fault.path)))
        return found

    def ref(self, text: str, *path: KeyPart) -> DataRef | None:
        """A data reference, or None and a problem."""
        dataset = text.partition(".")[0]
        if dataset in self.data and not self.data[dataset]:
            return None  # what it is made of isn't known, which is told where it stands
        try:
            return parse_ref(text, self.data)
        except DataError as error:
            if not any(self.draft.lost_within("data", dataset, key) for key in ("split", "pairs", "completions")):
                self.complain(error, *path)
            return None

    def site(self, text: str, *path: KeyPart) -> Site:
        """A site that the model can have, as far as is known."""
        site = Site.parse(text)
        layers = self.model.n_layers
        if layers is not None and site.layer >= layers:
            self.complain(f"no site {site}: the model has {counted(layers, 'layer')}, 0 to {layers - 1}", *path)
        else:
            self.placed.append((site, path))
        self.note_stream(site.stream)
        return site

    def sites_of(self, text: str, *path: KeyPart) -> Site | SitePattern:
        """A site or a pattern of several that the model can have, as far as is known."""
        sites = parse_sites(text)
        if isinstance(sites, Site):
            return self.site(text, *path)
        try:
            if self.model.n_layers is not None:
                sites.sites(self.model.n_layers)
            self.placed.append((sites, path))
        except SteerkitError as error:
            self.complain(error, *path)
        self.note_stream(sites.stream)
        return sites

    def check_one(self, positions: Positions, *path: KeyPart) -> None:
        """Positions are tokens to be taken together, not those among which a search chooses."""
        if positions.each:
            self.complain(f"'{positions}' are for a direction that a search chooses; leave out [*]", *path)

    def note_stream(self, stream: str) -> None:
        """Say that a stream is one that not every model has."""
        if stream not in STREAMS:
            self.notes.append(unusual(stream))

    def examples(self, ref: DataRef) -> tuple[Example, ...]:
        """The examples of a split."""
        return self.data[ref.dataset][ref.split]
