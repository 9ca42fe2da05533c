"""What the suites have in common: finding the plugin, its options, and keeping the checks whole."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar

import pytest

from steerkit.api.hookspecs import CONTRACT, KINDS, Kind, Options, Spec

SpecT = TypeVar("SpecT", bound=Spec)


class PluginSuite(Generic[SpecT]):
    """Base of the suites. A subclass names the plugin's module and inherits the checks.

    Class attributes:
        plugin: the module that the entry point names.
        name: which of the module's plugins is meant, where it provides several of one kind.
        settings: the options that the checks run under: those that have no default, and others as you like.

    A check that a plugin can't pass may be overridden only to mark it ``pytest.mark.xfail`` with a reason.
    """

    plugin: ClassVar[ModuleType]
    name: ClassVar[str] = ""
    settings: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def kind(cls) -> Kind:
        """The kind of plugin that the suite is for, by the table of kinds."""
        suites = {base.__name__ for base in cls.__mro__ if base.__module__.startswith("steerkit.testing.")}
        (kind,) = (kind for kind in KINDS if kind.suite in suites)
        return kind

    def spec(self) -> SpecT:
        """The plugin's spec, as its hook gives it."""
        name = self.kind().hook
        hook = getattr(self.plugin, name, None)
        assert hook is not None, f"{self.plugin.__name__} has no hook {name}()."
        specs = [spec for spec in hook() if not self.name or spec.name == self.name]
        assert len(specs) == 1, (
            f"{self.plugin.__name__}.{name}() gives {len(specs)} specs that could be meant; "
            f"set `name` on {type(self).__name__}."
        )
        found: SpecT = specs[0]
        return found

    def options(self, **changes: Any) -> Options:
        """The plugin's options: ``settings``, with ``changes``."""
        return self.spec().options(**{**self.settings, **changes})

    def implementation(self) -> type[Any]:
        """The class that the spec names."""
        module, _, attribute = self.spec().implementation.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, type), f"{self.spec().implementation} is not a class."
        return found

    def test_spec_says_what_it_is(self) -> None:
        """Name and summary are there, and the summary is one line."""
        spec = self.spec()
        assert spec.name.isidentifier(), f"{spec.name!r} can't be written as a key in a recipe."
        assert spec.summary.strip() and "\n" not in spec.summary, "The summary is one line, and not empty."

    def test_declares_the_contract(self) -> None:
        """The module says which version of the contract it was written for, and it is this one."""
        said = getattr(self.plugin, "STEERKIT_CONTRACT", None)
        assert said == CONTRACT, f"{self.plugin.__name__}.STEERKIT_CONTRACT is {said!r}, not {CONTRACT}."

    def test_every_option_is_described(self) -> None:
        """Recipes are written from the descriptions, so each option has one."""
        fields = self.spec().options.model_fields
        bare = [name for name, field in fields.items() if not (field.description or "").strip()]
        assert not bare, f"Options without a description: {', '.join(bare)}."

    def test_options_are_frozen_and_refuse_unknown_keys(self) -> None:
        """A mistyped option is an error, not a default."""
        config = self.spec().options.model_config
        assert config.get("frozen") is True and config.get("extra") == "forbid", (
            "Derive the options from steerkit.api.hookspecs.Options and leave `frozen` and `extra` as they are."
        )

    def test_module_imports_no_torch(self) -> None:
        """Plugins are listed and recipes checked without torch, so the module and its specs do without it."""
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; import importlib; "
            f"module = importlib.import_module({self.plugin.__name__!r}); module.{self.kind().hook}(); "
            "sys.exit('torch' in sys.modules)"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{self.plugin.__name__} imports torch, or fails alone:\n{result.stderr}"

    def test_no_check_was_weakened(self) -> None:
        """An overridden check hides what it was for; an expected failure says why."""
        own = type(self)
        suites = [base for base in own.__mro__ if base.__module__.startswith("steerkit.testing")]
        checks = {name: getattr(base, name) for base in suites for name in vars(base) if name.startswith("test_")}
        for name, check in checks.items():
            found = getattr(own, name)
            if found is not check and not _expected_failure(found):
                raise AssertionError(
                    f"{own.__name__}.{name} replaces a check of the suite. Remove it, or mark it "
                    "pytest.mark.xfail(reason=...)."
                )


def _expected_failure(check: Any) -> bool:
    marks: list[pytest.Mark] = getattr(check, "pytestmark", [])
    return any(mark.name == "xfail" and str(mark.kwargs.get("reason", "")).strip() for mark in marks)
