"""From entry points to specs. Whatever breaks the contract is told apart from what can't be imported."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Final, get_args

import pluggy

from steerkit.api import hookspecs
from steerkit.api.hookspecs import (
    ArchitectureSpec,
    EstimatorSpec,
    EvaluatorSpec,
    InterventionSpec,
    Options,
    Spec,
    StatisticsKind,
)
from steerkit.catalog.entries import Entry, Option, Origin, describe_options
from steerkit.errors import PluginError

GROUP: Final = "steerkit"
DISABLE_VARIABLE: Final = "STEERKIT_DISABLE_PLUGINS"

_HOOKS: Final[Mapping[str, type[Spec]]] = {
    "steerkit_architectures": ArchitectureSpec,
    "steerkit_estimators": EstimatorSpec,
    "steerkit_interventions": InterventionSpec,
    "steerkit_evaluators": EvaluatorSpec,
}


def load_plugin(origin: Origin, load: Callable[[], Any]) -> list[Entry]:
    """Load one entry point, by itself: its failure is kept, never raised."""
    try:
        plugin = load()
    except (Exception, SystemExit) as error:
        # Whatever a stranger's module raises on import is the user's news, not our crash.
        return [Entry(origin, "broken", None, f"{type(error).__name__}: {error}")]
    try:
        return [Entry(origin, "ok", spec, options=_describe(spec)) for spec in _read_hooks(plugin)]
    except PluginError as error:
        hint = f"Fix it, or leave it out with {DISABLE_VARIABLE}={origin.selector}."
        return [Entry(origin, "invalid", None, f"Plugin {origin.entry_point!r} of {origin}: {error} {hint}")]


def _read_hooks(plugin: Any) -> list[Spec]:
    for name in _HOOKS:
        function = getattr(plugin, name, None)
        # A star import of hookspecs brings the specifications along; they are no attempt at a hook.
        if callable(function) and not (hasattr(function, f"{GROUP}_impl") or hasattr(function, f"{GROUP}_spec")):
            raise PluginError(
                f"function {name!r} isn't marked @hookimpl (of steerkit.api.hookspecs), so it does nothing."
            )
    # A manager of its own for each plugin: pluggy's checks then speak of this plugin alone.
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        known = ", ".join(_HOOKS)
        raise PluginError(f"{str(error).strip()} (the hooks are {known}).".replace("\n", " ")) from error
    callers = manager.get_hookcallers(plugin) or []
    if not callers:
        raise PluginError(f"it provides nothing: no function is marked @hookimpl. The hooks are {', '.join(_HOOKS)}.")
    specs: list[Spec] = []
    for caller in callers:
        (hook,) = caller.get_hookimpls()
        try:
            returned = hook.function()
        except Exception as error:
            raise PluginError(f"hook {caller.name!r} failed with {type(error).__name__}: {error}.") from error
        specs += _check_specs(caller.name, returned)
    return specs


def _check_specs(hook: str, returned: Any) -> list[Spec]:
    expected = _HOOKS[hook]
    if not isinstance(returned, (list, tuple)):
        raise PluginError(f"hook {hook!r} returned {type(returned).__name__}, not a list of {expected.__name__}.")
    for spec in returned:
        if not isinstance(spec, expected):
            raise PluginError(f"hook {hook!r} returned a {type(spec).__name__} in its list, not a {expected.__name__}.")
        _check_arguments(spec, f"hook {hook!r}, {expected.__name__} {spec.name!r}")
    return list(returned)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) for item in value)


_EXPECTED: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "name": (
        lambda value: isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9_]*", value) is not None,
        "a name of lower-case letters, digits and underscores",
    ),
    "summary": (_is_text, "a line of text"),
    "implementation": (
        lambda value: isinstance(value, str) and re.fullmatch(r"[\w.]+:\w+", value) is not None,
        "of the form 'module:attribute'",
    ),
    "options": (
        lambda value: isinstance(value, type) and issubclass(value, Options),
        "a subclass of steerkit.api.hookspecs.Options",
    ),
    "model_types": (_are_texts, "a tuple of texts"),
    "recognise": (lambda value: value is None or callable(value), "a function of ModelFacts"),
    "refines": (_are_texts, "a tuple of texts"),
    "refuses": (
        lambda value: isinstance(value, Mapping) and all(map(_is_text, (*value, *value.values()))),
        "a mapping from model type to reason",
    ),
    "note": (lambda value: isinstance(value, str), "a text"),
    "statistics": (lambda value: value in get_args(StatisticsKind), f"one of {', '.join(get_args(StatisticsKind))}"),
    "directions": (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
        "a number of directions: 0, 1, 2, ...",
    ),
    "many_sites": (lambda value: isinstance(value, bool), "True or False"),
    "needs": (callable, "a function from the options to Needs"),
}


def _check_arguments(spec: Spec, where: str) -> None:
    for field in fields(spec):
        check, expected = _EXPECTED.get(field.name, (None, ""))
        value = getattr(spec, field.name)
        if check is not None and not check(value):
            raise PluginError(f"{where}, argument {field.name!r}: {value!r} is not {expected}.")


def _describe(spec: Spec) -> tuple[Option, ...]:
    try:
        return describe_options(spec.options)
    except Exception as error:
        # Defaults are objects of the plugin's own, with what they say of themselves.
        raise PluginError(
            f"{type(spec).__name__} {spec.name!r}, argument 'options': {spec.options.__name__} can't be listed: "
            f"{type(error).__name__}: {error}."
        ) from error


def mark_clashes(entries: list[Entry]) -> list[Entry]:
    """Mark every two plugins that have one kind and name."""
    owners: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        if entry.spec is not None:
            owners.setdefault((entry.kind, entry.name), []).append(entry)
    marked = []
    for entry in entries:
        rivals = owners.get((entry.kind, entry.name), [])
        if entry.spec is not None and len(rivals) > 1:
            entry = replace(entry, status="clash", cause=_clash(rivals))
        marked.append(entry)
    return marked


def _clash(rivals: list[Entry]) -> str:
    listed = " and ".join(f"{rival.origin.entry_point!r} of {rival.origin}" for rival in rivals)
    both = f"Plugins {listed} both provide {rivals[0].kind} {rivals[0].name!r}."
    # Distribution and entry point: two plugins for one thing are likely to call their entry points alike.
    ways = list(dict.fromkeys(f"{DISABLE_VARIABLE}={rival.origin.selector}" for rival in rivals))
    if len(ways) == 1:
        return f"{both} They are one plugin: rename one of the two in it, or leave it out with {ways[0]}."
    return f"{both} Disable one of them in the environment: {' or '.join(ways)}."
