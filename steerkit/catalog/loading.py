"""From entry points to specs. Whatever breaks the contract is told apart from what can't be imported."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final

import pluggy

from steerkit.api.hookspecs import CONTRACT, KINDS, Options, Spec
from steerkit.catalog.entries import Entry, Option, Origin, describe_options
from steerkit.errors import PluginError

GROUP: Final = "steerkit"
DISABLE_VARIABLE: Final = "STEERKIT_DISABLE_PLUGINS"

CONTRACT_NAME: Final = "STEERKIT_CONTRACT"
"""Under which name a plugin's module says the version of the contract that it was written for."""

_FOLLOW: Final[Mapping[int, str]] = {1: "CHANGELOG 0.2: Plugins, from contract 1 to contract 2"}
"""What to follow from an older version of the contract."""

_HOOKS: Final[Mapping[str, type[Spec]]] = {kind.hook: kind.spec for kind in KINDS}


def _specification() -> Callable[[], list[Spec]]:
    """What pluggy holds a hook to: no arguments, and a list of specs."""

    def hook() -> list[Spec]:
        raise NotImplementedError

    return pluggy.HookspecMarker(GROUP)(hook)


class _Manager(pluggy.PluginManager):
    """Looks at what can be a hook alone: pluggy asks of every name of a module at some length."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """Of functions and methods; of what isn't a module, whatever pluggy finds."""
        if isinstance(plugin, ModuleType) and not isinstance(vars(plugin).get(name), _HOOKABLE):
            return None
        return super().parse_hookimpl_opts(plugin, name)

    def parse_hookspec_opts(self, module_or_class: Any, name: str) -> Any:
        """Of the hooks that there are."""
        return super().parse_hookspec_opts(module_or_class, name) if name in _HOOKS else None


_HOOKABLE: Final = (FunctionType, MethodType, staticmethod, classmethod)
_HOOKSPECS: Final = type("Hooks", (), {name: staticmethod(_specification()) for name in _HOOKS})


def load_plugin(origin: Origin, load: Callable[[], Any]) -> list[Entry]:
    """Load one entry point, by itself: its failure is kept, never raised."""
    try:
        plugin = load()
    except (Exception, SystemExit) as error:
        # Whatever a stranger's module raises on import is the user's news, not our crash.
        return [Entry(origin, "broken", None, f"{type(error).__name__}: {error}")]
    stale = _stale(plugin, origin)
    if stale is not None:
        return [stale]
    try:
        return [Entry(origin, "ok", spec, options=_describe(spec)) for spec in _read_hooks(plugin)]
    except PluginError as error:
        hint = f"Fix it, or leave it out with {DISABLE_VARIABLE}={origin.selector}."
        return [Entry(origin, "invalid", None, f"Plugin {origin.entry_point!r} of {origin}: {error} {hint}")]


def _stale(plugin: Any, origin: Origin) -> Entry | None:
    """An entry for a plugin that was written for another contract, whose hooks mean something else; None for ours."""
    said = getattr(plugin, CONTRACT_NAME, 1)
    who = f"Plugin {origin.entry_point!r} of {origin}"
    leave = f"or leave it out with {DISABLE_VARIABLE}={origin.selector}"
    if isinstance(said, bool) or not isinstance(said, int) or said < 1:
        cause = f"{who}: {CONTRACT_NAME} is {said!r}, not a whole number such as {CONTRACT}. Fix it, {leave}."
        return Entry(origin, "invalid", None, cause)
    if said < CONTRACT:
        how = "" if hasattr(plugin, CONTRACT_NAME) else f" (it has no {CONTRACT_NAME})"
        cause = (
            f"{who} was written for contract {said}{how}, and this steerkit's is {CONTRACT}, so its hooks aren't "
            f"called. See {_FOLLOW[said]}; then say {CONTRACT_NAME} = {CONTRACT} in the module, {leave}."
        )
        return Entry(origin, "outdated", None, cause)
    if said > CONTRACT:
        why = f"was written for contract {said}, and this steerkit's is {CONTRACT}"
        cause = f"{who} {why}: upgrade steerkit-torch, {leave}."
        return Entry(origin, "newer", None, cause)
    return None


def _read_hooks(plugin: Any) -> list[Spec]:
    for name in _HOOKS:
        function = getattr(plugin, name, None)
        if callable(function) and not hasattr(function, f"{GROUP}_impl"):
            raise PluginError(
                f"function {name!r} isn't marked @hookimpl (of steerkit.api.hookspecs), so it does nothing."
            )
    # A manager of its own for each plugin: pluggy's checks then speak of this plugin alone.
    manager = _Manager(GROUP)
    manager.add_hookspecs(_HOOKSPECS)
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
    "fallback": (lambda value: isinstance(value, bool), "True or False"),
    "note": (lambda value: isinstance(value, str), "a text"),
    "suffixes": (_are_texts, "a tuple of texts"),
    "acts": (lambda value: isinstance(value, str), "a text"),
    "reads": (lambda value: isinstance(value, bool), "True or False"),
    "writes": (lambda value: isinstance(value, bool), "True or False"),
    "folder": (lambda value: isinstance(value, bool), "True or False"),
    "directions": (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
        "a number of directions: 0, 1, 2, ...",
    ),
    "additive": (lambda value: isinstance(value, str), "the name of an option, or an empty text"),
    "refusal_tokens": (
        lambda value: (
            isinstance(value, Mapping)
            and all(
                isinstance(size, int)
                and isinstance(listed, Mapping)
                and listed
                and all(isinstance(token, int) and _is_text(text) for token, text in listed.items())
                for size, listed in value.items()
            )
        ),
        "a mapping from vocabulary size to {token id: text}",
    ),
    "many_sites": (lambda value: isinstance(value, bool), "True or False"),
    "needs": (callable, "a function from the options to what it needs"),
}


def _check_arguments(spec: Spec, where: str) -> None:
    for field in fields(spec):
        check, expected = _EXPECTED.get(field.name, (None, ""))
        value = getattr(spec, field.name)
        if check is not None and not check(value):
            raise PluginError(f"{where}, argument {field.name!r}: {value!r} is not {expected}.")
    additive = getattr(spec, "additive", "")
    if additive and additive not in spec.options.model_fields:
        known = ", ".join(spec.options.model_fields) or "none"
        raise PluginError(f"{where}, argument 'additive': there is no option {additive!r}. Its options: {known}.")


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
