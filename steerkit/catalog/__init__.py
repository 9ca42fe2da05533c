"""Discovery of plugins. Conflicts and broken contracts are errors; a plugin never vanishes. Imports no torch.

Every entry point of the group ``steerkit`` is loaded by itself, so that one that fails takes no other
with it: a failed import is kept with its cause, and shown wherever it may be what the user misses.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, overload

from steerkit.api.hookspecs import (
    KINDS,
    ArchitectureSpec,
    EstimatorNeeds,
    EstimatorSpec,
    EvaluatorSpec,
    FormatSpec,
    InterventionSpec,
    Kind,
    ModelFacts,
    Options,
    Spec,
)
from steerkit.catalog.entries import Entry, Option, Origin, Status, describe_options
from steerkit.catalog.loading import DISABLE_VARIABLE, GROUP, load_plugin, mark_clashes
from steerkit.errors import PluginError, UnknownNameError, UnsupportedModelError, nearest

__all__ = [
    "DISABLE_VARIABLE",
    "KINDS",
    "Catalog",
    "Entry",
    "Kind",
    "Option",
    "Origin",
    "Status",
    "describe_options",
    "implementation",
    "installed",
    "needs_of",
    "template_folder",
]


@dataclass(frozen=True)
class Catalog:
    """Every plugin that is installed and not disabled.

    Args:
        entries: in order of kind and name, the broken ones last.
        faults: contracts that plugins break, as sentences. Only a lenient discovery leaves any.
    """

    entries: tuple[Entry, ...] = ()
    faults: tuple[str, ...] = ()
    _index: Mapping[tuple[str, str], Entry] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        index = {(entry.kind, entry.name): entry for entry in self.entries if entry.spec is not None}
        object.__setattr__(self, "_index", index)

    @classmethod
    def discover(cls, disabled: Iterable[str] = (), *, strict: bool = True) -> Catalog:
        """Load every entry point of the group ``steerkit``.

        Args:
            disabled: entry points, distributions, or ``distribution:entry_point``, to leave out beside those
                in the environment variable ``STEERKIT_DISABLE_PLUGINS`` (separated by commas).
            strict: raise on broken contracts and clashes; otherwise list them in ``faults``.

        Raises:
            PluginError: naming every plugin that breaks its contract (a hook that doesn't exist, a
                wrong return value) and every two that have one kind and name.
        """
        from importlib.metadata import entry_points

        off = (*disabled, *filter(None, os.environ.get(DISABLE_VARIABLE, "").split(",")))
        entries: list[Entry] = []
        about: dict[int, tuple[str, str]] = {}  # a distribution reads its metadata anew whenever it is asked
        for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
            dist = point.dist
            if id(dist) not in about:
                about[id(dist)] = (dist.name, dist.version) if dist else ("(unknown)", "")
            origin = Origin(point.name, point.module, *about[id(dist)])
            if not origin.matches(off):
                entries += load_plugin(origin, point.load)
        return cls._assemble(entries, strict=strict)

    @classmethod
    def from_modules(cls, *modules: ModuleType) -> Catalog:
        """A catalog of these plugin modules alone, installed or not: for tests and notebooks."""
        entries = [entry for module in modules for entry in _load_module(module)]
        return cls._assemble(entries, strict=True)

    @classmethod
    def _assemble(cls, entries: list[Entry], *, strict: bool) -> Catalog:
        entries = mark_clashes(entries)
        faults = tuple(dict.fromkeys(entry.cause for entry in entries if entry.status in ("invalid", "clash")))
        if strict and faults:
            raise PluginError("\n".join(faults))
        order = [*(kind.name for kind in KINDS), ""]
        entries.sort(key=lambda entry: (order.index(entry.kind), entry.name, entry.origin.distribution))
        return cls(tuple(entries), faults)

    @property
    def broken(self) -> tuple[Entry, ...]:
        """The plugins that could not be loaded, with their causes."""
        return tuple(entry for entry in self.entries if entry.status == "broken")

    @property
    def stale(self) -> tuple[Entry, ...]:
        """The plugins that were written for another version of the contract, with what to do."""
        return tuple(entry for entry in self.entries if entry.status in ("outdated", "newer"))

    def only(self, kind: str) -> Catalog:
        """The plugins of one kind, and those that failed to load, which might have been of it."""
        return Catalog(tuple(entry for entry in self.entries if entry.kind in (kind, "")))

    def names(self, kind: str) -> tuple[str, ...]:
        """The names that plugins of a kind have."""
        return tuple(name for known, name in self._index if known == kind)

    @overload
    def get(self, kind: Literal["architecture"], name: str) -> ArchitectureSpec: ...
    @overload
    def get(self, kind: Literal["estimator"], name: str) -> EstimatorSpec: ...
    @overload
    def get(self, kind: Literal["intervention"], name: str) -> InterventionSpec: ...
    @overload
    def get(self, kind: Literal["evaluator"], name: str) -> EvaluatorSpec: ...
    @overload
    def get(self, kind: Literal["format"], name: str) -> FormatSpec: ...
    @overload
    def get(self, kind: str, name: str) -> Spec: ...
    def get(self, kind: str, name: str) -> Spec:
        """Return the spec of a plugin.

        Raises:
            UnknownNameError: with the nearest names, and the plugins that failed to load.
        """
        spec = self.entry(kind, name).spec
        assert spec is not None
        return spec

    def entry(self, kind: str, name: str) -> Entry:
        """Like ``get``, with where the plugin comes from."""
        found = self._index.get((kind, name))
        if found is None:
            # Its hooks aren't called, so what a plugin of another contract provides is known by its entry point only.
            stale = [entry for entry in self.stale if name in (entry.name, entry.name.rpartition(".")[2])]
            if stale:
                raise UnknownNameError(f"Unknown {kind} {name!r}. {' '.join(entry.cause for entry in stale)}")
            message = f"Unknown {kind} {name!r}. {nearest(name, self.names(kind), kind)}"
            raise UnknownNameError(f"{message}{self._mention_broken()}")
        return found

    def _mention_broken(self) -> str:
        said = ""
        for entries, what in ((self.broken, "failed to load"), (self.stale, "were written for another contract")):
            listed = ", ".join(f"{entry.origin.entry_point!r} of {entry.origin.distribution}" for entry in entries)
            said += f" These plugins {what}, see `steerkit plugins`: {listed}." if entries else ""
        return said

    def adapter_for(self, facts: ModelFacts, name: str | None = None) -> ArchitectureSpec:
        """Return the adapter for a checkpoint: the one that is named, or the one that claims it.

        A claim by model type goes before a fallback, and so does a refusal; a fallback that is named is bound by its
        own refusals alone.

        Raises:
            UnknownNameError: no adapter has that name.
            UnsupportedModelError: none claims the model, or one refuses it with a reason.
            PluginError: two claim it with equal right.
        """
        if name is not None:
            chosen = self.get("architecture", name)
            if facts.model_type in chosen.refuses:
                raise UnsupportedModelError(_refusal(facts, chosen), facts.model_type)
            return chosen
        adapters = [self.get("architecture", known) for known in self.names("architecture")]
        by_type = [spec for spec in adapters if facts.model_type in spec.model_types and self._claims(spec, facts)]
        if by_type:
            return self._best(by_type, facts)
        fallbacks = [spec for spec in adapters if spec.fallback and facts.model_type not in spec.refuses]
        refusing = next((spec for spec in adapters if facts.model_type in spec.refuses), None)
        if refusing is not None:
            raise UnsupportedModelError(_refusal(facts, refusing, fallbacks), facts.model_type)
        claiming = [spec for spec in fallbacks if self._claims(spec, facts)]
        if not claiming:
            raise UnsupportedModelError(self._unclaimed(facts, adapters), facts.model_type)
        return self._best(claiming, facts)

    def _best(self, claiming: list[ArchitectureSpec], facts: ModelFacts) -> ArchitectureSpec:
        """The one that no other one refines. Raises ``PluginError`` where there are several."""
        refined = {name for spec in claiming for name in spec.refines}
        best = [spec for spec in claiming if spec.name not in refined] or claiming
        if len(best) > 1:
            listed = " and ".join(f"{spec.name!r} of {self.entry('architecture', spec.name).origin}" for spec in best)
            raise PluginError(
                f"Adapters {listed} claim model type {facts.model_type!r} with equal right. "
                f"Name one in the recipe (model.adapter: {best[0].name}), or disable the other's plugin with "
                f"the environment variable {DISABLE_VARIABLE}."
            )
        return best[0]

    def _claims(self, spec: ArchitectureSpec, facts: ModelFacts) -> bool:
        try:
            return spec.claims(facts)
        except Exception as error:
            origin = self.entry("architecture", spec.name).origin
            raise PluginError(
                f"Plugin {origin.entry_point!r} of {origin}: the test `recognise` of adapter {spec.name!r} failed "
                f"with {type(error).__name__}: {error}"
            ) from error

    def _unclaimed(self, facts: ModelFacts, adapters: list[ArchitectureSpec]) -> str:
        types = sorted({model_type for spec in adapters for model_type in spec.model_types})
        return (
            f"No adapter claims model type {facts.model_type!r}. {nearest(facts.model_type, types, 'model type')} "
            "To add it, write an adapter: a class that declares which module holds each stream, in a small package "
            f"of your own. Start from {_template()} (steerkit new-plugin NAME --kind architecture makes it), and prove "
            "it with steerkit.testing.ArchitectureSuite. "
            "If the model is built like one of these families, name its adapter (model.adapter in the recipe, "
            f"adapter= in Python); the self-test will say whether it fits.{self._mention_broken()}"
        )


@cache
def installed() -> Catalog:
    """The plugins of this environment, discovered once: building an intervention in a loop must cost nothing."""
    return Catalog.discover()


def implementation(spec: Spec) -> type[Any]:
    """Import the class that a spec names as ``"module:attribute"``.

    Raises:
        PluginError: where the module can't be imported, lacks the attribute, or holds something else
            than a class of the spec's kind.
    """
    where = f"The implementation of {spec.kind} {spec.name!r}, {spec.implementation!r},"
    module_name, _, attribute = spec.implementation.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise PluginError(f"{where} can't be imported: {type(error).__name__}: {error}") from error
    found = getattr(module, attribute, None)
    if found is None:
        public = [name for name in vars(module) if not name.startswith("_")]
        raise PluginError(
            f"{where} isn't there: module {module_name} has no {attribute!r}. {nearest(attribute, public)}"
        )
    (kind,) = (kind for kind in KINDS if kind.name == spec.kind)
    base_module, _, base_name = kind.base.partition(":")
    base = getattr(importlib.import_module(base_module), base_name)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise PluginError(f"{where} is not a subclass of {base_module}.{base_name}.")
    return found


def needs_of(spec: EstimatorSpec, options: Options) -> EstimatorNeeds:
    """What an estimator must see under these options.

    Raises:
        PluginError: where it fails to say.
    """
    try:
        needs: object = spec.needs(options)
    except Exception as error:
        raise PluginError(
            f"Estimator {spec.name!r} failed to say what it needs: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(needs, EstimatorNeeds):
        what = type(needs).__name__
        raise PluginError(f"Estimator {spec.name!r}: `needs` returned {what}, not EstimatorNeeds.")
    return needs


def _load_module(module: ModuleType) -> list[Entry]:
    return load_plugin(Origin(module.__name__, module.__name__), lambda: module)


def template_folder() -> Path | None:
    """Where the template plugin lies: package data of the wheel, ``plugins/template`` of a checkout, or None."""
    package = Path(__file__).resolve().parents[1]
    folders = (package / "_shipped" / "template", package.parent / "plugins" / "template")
    return next((folder for folder in folders if folder.is_dir()), None)


def _template() -> str:
    folder = template_folder()
    return "plugins/template of steerkit's source" if folder is None else f"a copy of {folder}"


def _refusal(facts: ModelFacts, spec: ArchitectureSpec, fallbacks: Sequence[ArchitectureSpec] = ()) -> str:
    """Why a model type is refused, and who looks at it all the same where somebody asks."""
    said = f"Model type {facts.model_type!r} is refused by adapter {spec.name!r}: {spec.refuses[facts.model_type]}"
    if not fallbacks:
        return said
    name = fallbacks[0].name
    return (
        f"{said.rstrip('.')}. To have the model itself looked at all the same, name adapter {name!r} (`model: "
        f"{{adapter: {name}}}` in the recipe, --adapter {name}, adapter={name!r} in Python)."
    )
