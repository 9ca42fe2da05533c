"""Discovery of plugins, with real distributions on the path: sound, broken, mistyped, clashing."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from steerkit.api.hookspecs import ArchitectureSpec, ModelFacts, NoOptions, hookimpl
from steerkit.catalog import DISABLE_VARIABLE, KINDS, Catalog
from steerkit.cli.main import main
from steerkit.errors import PluginError, UnknownNameError, UnsupportedModelError

ESTIMATOR = """
    from pydantic import Field
    from steerkit.api.hookspecs import EstimatorSpec, Options, hookimpl

    STEERKIT_CONTRACT = 2

    class MedianOptions(Options):
        trim: float = Field(default=0.1, description="Share to trim.")

    @hookimpl
    def steerkit_estimators():
        return [EstimatorSpec("{name}", "Medians.", "{module}:Missing", MedianOptions)]
"""

Make = Callable[..., str]


@pytest.fixture
def make_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Install a distribution with one plugin module into a folder on the path; returns the module's name."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delenv(DISABLE_VARIABLE, raising=False)
    made: list[str] = []

    def make(distribution: str, code: str, *, version: str = "1.2", entry_point: str = "") -> str:
        module = f"{distribution.replace('-', '_')}_plugin"
        (site / f"{module}.py").write_text(textwrap.dedent(code.replace("{module}", module)), "utf-8")
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n", "utf-8")
        (info / "entry_points.txt").write_text(f"[steerkit]\n{entry_point or distribution} = {module}\n", "utf-8")
        made.append(module)
        return module

    yield make
    for module in made:
        sys.modules.pop(module, None)


def test_a_plugin_is_listed_with_where_it_comes_from_and_what_can_be_set(make_distribution: Make) -> None:
    module = make_distribution("acme-median", ESTIMATOR.replace("{name}", "median"))
    catalog = Catalog.discover()
    entry = catalog.entry("estimator", "median")
    assert (entry.status, entry.origin.distribution, entry.origin.version) == ("ok", "acme-median", "1.2")
    assert entry.origin.module == module
    (option,) = entry.options
    assert (option.name, option.type, option.default, option.required) == ("trim", "float", 0.1, False)
    assert option.description == "Share to trim."
    assert catalog.get("estimator", "median").summary == "Medians."


def test_first_party_plugins_are_discovered_as_a_strangers_are() -> None:
    catalog = Catalog.discover()
    assert not catalog.broken
    assert {"add", "ablate", "affine_concept_editing", "set_projection"} <= set(catalog.names("intervention"))
    assert {entry.origin.distribution for entry in catalog.entries} >= {"steerkit-torch"}


def test_a_broken_plugin_takes_no_other_with_it_and_never_vanishes(make_distribution: Make) -> None:
    make_distribution("acme-broken", "import a_module_that_is_not_there\n")
    make_distribution("acme-exits", "raise SystemExit(3)\n")
    make_distribution("acme-median", ESTIMATOR.replace("{name}", "median"))
    catalog = Catalog.discover()
    assert catalog.get("estimator", "median")
    causes = {entry.name: entry.cause for entry in catalog.broken}
    assert causes["acme-broken"] == "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"
    assert causes["acme-exits"] == "SystemExit: 3"
    with pytest.raises(UnknownNameError, match=r"Did you mean 'median'.*failed to load.*'acme-broken' of acme-broken"):
        catalog.get("estimator", "mediann")


@pytest.mark.parametrize(
    ("said", "status", "parts"),
    [
        ("", "outdated", ["contract 1 (it has no STEERKIT_CONTRACT)", "See CHANGELOG 0.2: Plugins"]),
        (
            "STEERKIT_CONTRACT = 1",
            "outdated",
            ["written for contract 1, and this steerkit's is 2", "See CHANGELOG 0.2"],
        ),
        ("STEERKIT_CONTRACT = 3", "newer", ["written for contract 3", "upgrade steerkit-torch"]),
    ],
)
def test_a_plugin_of_another_contract_is_listed_with_what_to_do_and_its_hooks_are_not_called(
    make_distribution: Make, capsys: pytest.CaptureFixture[str], said: str, status: str, parts: list[str]
) -> None:
    code = ESTIMATOR.replace("{name}", "median").replace("STEERKIT_CONTRACT = 2", said)
    make_distribution("acme-median", code.replace("return [", "1 / 0; return ["), entry_point="estimators.median")
    catalog = Catalog.discover()
    (entry,) = catalog.stale
    assert (entry.status, entry.origin.distribution) == (status, "acme-median")
    with pytest.raises(UnknownNameError) as caught:
        catalog.get("estimator", "median")
    for part in (*parts, f"{DISABLE_VARIABLE}=acme-median:estimators.median"):
        assert part in entry.cause
        assert part in str(caught.value)
    with pytest.raises(UnknownNameError, match=r"written for another contract.*'estimators\.median' of acme-median"):
        catalog.get("estimator", "mode")
    assert shown("plugins", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert {item["status"] for item in listed["plugins"] if item["distribution"] == "acme-median"} == {status}
    assert listed["faults"] == []
    assert shown("plugins") == 0
    assert "1 of another contract" in capsys.readouterr().out


def shown(*arguments: str) -> object:
    """The command line, in this process; its exit code."""
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    return leaving.value.code


def test_every_kind_has_its_spec_its_base_and_its_suite() -> None:
    import steerkit.testing
    from steerkit.api import hookspecs

    specs = {item for item in vars(hookspecs).values() if isinstance(item, type) and issubclass(item, hookspecs.Spec)}
    assert {kind.spec for kind in KINDS} == specs - {hookspecs.Spec}
    for kind in KINDS:
        module, _, name = kind.base.partition(":")
        assert isinstance(getattr(import_module(module), name), type)
        assert kind.suite in steerkit.testing.__all__
        assert getattr(steerkit.testing, kind.suite)
        assert kind.spec.kind == kind.name
        assert Catalog.discover().names(kind.name), kind


def test_two_plugins_of_one_kind_and_name_are_an_error_that_names_both(make_distribution: Make) -> None:
    one = make_distribution("acme-median", ESTIMATOR.replace("{name}", "median"), version="1.0")
    two = make_distribution("other-median", ESTIMATOR.replace("{name}", "median"), version="2.0")
    with pytest.raises(PluginError) as caught:
        Catalog.discover()
    message = str(caught.value)
    assert message.count("both provide estimator 'median'") == 1
    for part in (f"acme-median 1.0 (module {one})", f"other-median 2.0 (module {two})", f"{DISABLE_VARIABLE}="):
        assert part in message
    lenient = Catalog.discover(strict=False)
    assert [entry.status for entry in lenient.entries if entry.name == "median"] == ["clash", "clash"]


@pytest.mark.parametrize("off", ["acme-median", "ACME_Median", "other-entry"])
def test_either_of_two_rivals_can_be_disabled(
    make_distribution: Make, monkeypatch: pytest.MonkeyPatch, off: str
) -> None:
    make_distribution("acme-median", ESTIMATOR.replace("{name}", "median"))
    make_distribution("other-median", ESTIMATOR.replace("{name}", "median"), entry_point="other-entry")
    kept = "acme-median" if off == "other-entry" else "other-median"
    assert Catalog.discover(disabled=[off]).entry("estimator", "median").origin.distribution == kept
    monkeypatch.setenv(DISABLE_VARIABLE, f"nothing, {off}")
    assert Catalog.discover().entry("estimator", "median").origin.distribution == kept


def test_the_advice_disables_one_of_two_rivals_whose_entry_points_have_one_name(
    make_distribution: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for distribution in ("acme-median", "other-median"):
        make_distribution(distribution, ESTIMATOR.replace("{name}", "median"), entry_point="estimators.median")
    with pytest.raises(PluginError) as caught:
        Catalog.discover()
    ways = re.findall(rf"{DISABLE_VARIABLE}=(\S+?)[ .](?:or|$)", str(caught.value))
    assert len(ways) == 2
    kept = set()
    for way in ways:
        monkeypatch.setenv(DISABLE_VARIABLE, way)
        kept.add(Catalog.discover().entry("estimator", "median").origin.distribution)
    assert kept == {"acme-median", "other-median"}


def test_one_plugin_that_gives_a_name_twice_is_told_so(make_distribution: Make) -> None:
    twice = ESTIMATOR.replace("{name}", "median").replace("return [", "return 2 * [")
    make_distribution("acme-median", twice, entry_point="estimators.median")
    with pytest.raises(PluginError, match=r"one plugin: rename .*=acme-median:estimators\.median\."):
        Catalog.discover()


def test_the_advice_on_a_broken_contract_leaves_out_that_plugin_alone(
    make_distribution: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_distribution("acme-wrong", "STEERKIT_CONTRACT = 2\n", entry_point="estimators.median")
    make_distribution("acme-median", ESTIMATOR.replace("{name}", "median"), entry_point="estimators.median")
    with pytest.raises(PluginError) as caught:
        Catalog.discover()
    (way,) = re.findall(rf"{DISABLE_VARIABLE}=(\S+)\.$", str(caught.value))
    monkeypatch.setenv(DISABLE_VARIABLE, way)
    assert Catalog.discover().get("estimator", "median")


def test_options_that_cant_be_listed_are_their_plugins_fault(make_distribution: Make) -> None:
    code = """
        from typing import Any
        from steerkit.api.hookspecs import EstimatorSpec, Options, hookimpl

        STEERKIT_CONTRACT = 2

        class Shy:
            def __repr__(self):
                raise RuntimeError("shy")

        class ShyOptions(Options):
            a: Any = Shy()

        @hookimpl
        def steerkit_estimators():
            return [EstimatorSpec("shy", "Shy.", "{module}:Missing", ShyOptions)]
    """
    make_distribution("acme-shy", code)
    entries = [entry for entry in Catalog.discover(strict=False).entries if entry.origin.distribution == "acme-shy"]
    assert [entry.status for entry in entries] == ["invalid"]
    assert "'options': ShyOptions can't be listed" in entries[0].cause


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("@hookimpl\ndef steerkit_estimater():\n    return []\n", ["unknown hook 'steerkit_estimater'"]),
        ("@hookimpl\ndef steerkit_estimators(catalog):\n    return []\n", ["steerkit_estimators", "catalog"]),
        ("def steerkit_estimators():\n    return []\n", ["'steerkit_estimators' isn't marked @hookimpl"]),
        ("x = 1\n", ["provides nothing"]),
        ("@hookimpl\ndef steerkit_estimators():\n    return None\n", ["'steerkit_estimators' returned NoneType"]),
        ("@hookimpl\ndef steerkit_estimators():\n    return ['median']\n", ["returned a str in its list"]),
        ("@hookimpl\ndef steerkit_estimators():\n    1 / 0\n", ["'steerkit_estimators' failed", "ZeroDivisionError"]),
        (
            "@hookimpl\ndef steerkit_estimators():\n    return [EstimatorSpec('m', 's', 'a:B', dict)]\n",
            ["'steerkit_estimators'", "'options'", "steerkit.api.hookspecs.Options"],
        ),
        (
            "@hookimpl\ndef steerkit_estimators():\n    return [EstimatorSpec('m', 's', 'a.B')]\n",
            ["'implementation'", "module:attribute"],
        ),
        ("@hookimpl\ndef steerkit_estimators():\n    return [EstimatorSpec('M m', 's', 'a:B')]\n", ["'name'", "M m"]),
        (
            "@hookimpl\ndef steerkit_estimators():\n    return [EstimatorSpec('m', 's', 'a:B', needs='rows')]\n",
            ["'needs'", "a function from the options"],
        ),
        (
            "@hookimpl\ndef steerkit_formats():\n    return [FormatSpec('m', 's', 'a:B', suffixes='.pt')]\n",
            ["'suffixes'", "tuple of texts"],
        ),
        ("STEERKIT_CONTRACT = '2'\n", ["STEERKIT_CONTRACT is '2'", "a whole number such as 2"]),
        (
            "@hookimpl\ndef steerkit_architectures():\n"
            "    return [ArchitectureSpec('m', 's', 'a:B', model_types='gpt')]\n",
            ["'model_types'", "tuple of texts"],
        ),
        (
            "@hookimpl\ndef steerkit_interventions():\n    return [InterventionSpec('m', 's', 'a:B', directions=-1)]\n",
            ["'directions'", "number of directions"],
        ),
        (
            "@hookimpl\ndef steerkit_interventions():\n"
            "    return [InterventionSpec('m', 's', 'a:B', additive='times')]\n",
            ["'additive'", "there is no option 'times'"],
        ),
        (
            "@hookimpl\ndef steerkit_architectures():\n"
            "    return [ArchitectureSpec('m', 's', 'a:B', refusal_tokens={9: ['I']})]\n",
            ["'refusal_tokens'", "{token id: text}"],
        ),
    ],
)
def test_a_broken_contract_names_plugin_hook_and_argument(make_distribution: Make, code: str, parts: list[str]) -> None:
    head = "from steerkit.api.hookspecs import *\nfrom steerkit.api.hookspecs import hookimpl\nSTEERKIT_CONTRACT = 2\n"
    make_distribution("acme-wrong", head + code)
    with pytest.raises(PluginError) as caught:
        Catalog.discover()
    for part in ("'acme-wrong' of acme-wrong 1.2", f"{DISABLE_VARIABLE}=acme-wrong", *parts):
        assert part in str(caught.value)
    (entry,) = [entry for entry in Catalog.discover(strict=False).entries if entry.name == "acme-wrong"]
    assert entry.status == "invalid"
    assert entry.cause in str(caught.value)


def architectures(*specs: ArchitectureSpec) -> Catalog:
    module = ModuleType("fake_architectures")

    @hookimpl
    def steerkit_architectures() -> list[ArchitectureSpec]:
        return list(specs)

    module.STEERKIT_CONTRACT = 2  # type: ignore[attr-defined]
    module.steerkit_architectures = steerkit_architectures  # type: ignore[attr-defined]
    return Catalog.from_modules(module)


def spec(name: str, *types: str, **kwargs: object) -> ArchitectureSpec:
    return ArchitectureSpec(name, "A family.", "fake:Adapter", NoOptions, types, **kwargs)  # type: ignore[arg-type]


LLAMA = spec("llama", "llama")
YI = spec("yi", "llama", recognise=lambda facts: facts.config.get("vocab_size") == 64000, refines=("llama",))


def test_an_adapter_that_refines_another_one_comes_first_where_it_claims_the_model() -> None:
    catalog = architectures(LLAMA, YI)
    assert catalog.adapter_for(ModelFacts("llama", {"vocab_size": 64000})) == YI
    assert catalog.adapter_for(ModelFacts("llama", {"vocab_size": 32000})) == LLAMA
    assert catalog.adapter_for(ModelFacts("llama", {"vocab_size": 32000}), "yi") == YI


@pytest.mark.parametrize(
    "rivals", [(LLAMA, spec("other", "llama")), (spec("a", "x", refines=("b",)), spec("b", "x", refines=("a",)))]
)
def test_equal_claims_are_an_error_that_names_both(rivals: tuple[ArchitectureSpec, ArchitectureSpec]) -> None:
    with pytest.raises(PluginError, match=rf"'{rivals[0].name}' of .*'{rivals[1].name}' of .*model\.adapter"):
        architectures(*rivals).adapter_for(ModelFacts(rivals[0].model_types[0], {}))


def test_a_refusal_gives_its_reason_unless_another_adapter_claims_the_type() -> None:
    refusing = spec("gemma", "gemma2", refuses={"gemma3n": "its streams are not one sum"})
    facts = ModelFacts("gemma3n", {})
    with pytest.raises(UnsupportedModelError, match="'gemma3n' is refused by adapter 'gemma': its streams"):
        architectures(refusing).adapter_for(facts)
    with pytest.raises(UnsupportedModelError, match="not one sum") as caught:
        architectures(refusing).adapter_for(facts, "gemma")
    assert caught.value.model_type == "gemma3n"
    assert architectures(refusing, spec("brave", "gemma3n")).adapter_for(facts).name == "brave"


AUTO = spec("auto", fallback=True)


def test_a_fallback_takes_what_no_other_adapter_claims_by_name() -> None:
    catalog = architectures(AUTO, LLAMA, YI)
    assert catalog.adapter_for(ModelFacts("llama", {"vocab_size": 32000})) == LLAMA
    assert catalog.adapter_for(ModelFacts("gpt2", {})) == AUTO
    assert catalog.adapter_for(ModelFacts("llama", {}), "auto") == AUTO
    # A type by name, of a checkpoint that its test doesn't recognise, is claimed by nobody.
    assert architectures(AUTO, YI).adapter_for(ModelFacts("llama", {"vocab_size": 1})) == AUTO


def test_a_familys_refusal_stands_above_a_fallback_that_nobody_named() -> None:
    refusing = spec("gemma", "gemma2", refuses={"gemma3n": "its streams are not one sum"})
    facts = ModelFacts("gemma3n", {})
    with pytest.raises(UnsupportedModelError, match=r"by adapter 'gemma': its streams.*name adapter 'auto'.*adapter="):
        architectures(AUTO, refusing).adapter_for(facts)
    assert architectures(AUTO, refusing).adapter_for(facts, "auto") == AUTO
    own = spec("auto", fallback=True, refuses={"gemma3n": "of no use"})
    with pytest.raises(UnsupportedModelError, match=r"^Model type 'gemma3n' is refused by adapter 'auto': of no use$"):
        architectures(own).adapter_for(facts)
    assert architectures(own, AUTO_OTHER).adapter_for(facts, "other") == AUTO_OTHER


AUTO_OTHER = spec("other", fallback=True)


def test_two_fallbacks_with_equal_right_are_an_error_that_names_both() -> None:
    with pytest.raises(PluginError, match=r"'auto' of .*'other' of .*claim model type 'gpt2' with equal right"):
        architectures(AUTO, AUTO_OTHER).adapter_for(ModelFacts("gpt2", {}))
    better = spec("better", fallback=True, refines=("auto",))
    assert architectures(AUTO, better).adapter_for(ModelFacts("gpt2", {})) == better
    assert architectures(AUTO, AUTO_OTHER, LLAMA).adapter_for(ModelFacts("llama", {})) == LLAMA


def test_whether_it_is_a_fallback_is_true_or_false() -> None:
    with pytest.raises(PluginError, match=r"fallback.*True or False"):
        architectures(spec("auto", fallback="yes"))


def test_a_fallback_that_declines_leaves_a_model_unclaimed() -> None:
    picky = spec("picky", fallback=True, recognise=lambda facts: facts.model_type == "gpt2")
    assert architectures(picky).adapter_for(ModelFacts("gpt2", {})) == picky
    with pytest.raises(UnsupportedModelError, match="No adapter claims model type 'opt'"):
        architectures(picky).adapter_for(ModelFacts("opt", {}))


def test_an_unclaimed_model_type_tells_how_to_write_an_adapter() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        architectures(LLAMA).adapter_for(ModelFacts("lama", {}))
    template = Path(__file__).parents[2] / "plugins" / "template"
    for part in ("'lama'", "Did you mean 'llama'", f"a copy of {template}", "steerkit.testing.ArchitectureSuite"):
        assert part in str(caught.value)
    assert caught.value.model_type == "lama"
    with pytest.raises(UnknownNameError, match="Did you mean 'llama'"):
        architectures(LLAMA).adapter_for(ModelFacts("llama", {}), "lama")


def test_a_recogniser_that_fails_names_its_plugin() -> None:
    failing = spec("failing", "llama", recognise=lambda facts: facts.config["vocab_size"] == 1)
    with pytest.raises(PluginError, match=r"'fake_architectures'.*recognise.*'failing'.*KeyError"):
        architectures(failing).adapter_for(ModelFacts("llama", {}))
