"""A layout that an adapter found is found once, and whatever it may follow from makes it be looked for again."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from steerkit import api, session
from steerkit.api.architecture import ArchitectureAdapter, Layout
from steerkit.engine.sites import layout_memory
from steerkit.engine.sites.layout_memory import layout_key, layout_of
from steerkit.engine.tiny.models import tiny_model
from steerkit.errors import UnsupportedModelError
from steerkit_architectures._llama import LlamaAdapter


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path))


class Slow(LlamaAdapter):
    """Counts how often it looks."""

    remembered: ClassVar[bool] = True
    looked: ClassVar[int] = 0

    def layout(self, model: Any) -> Layout:
        type(self).looked += 1
        return super().layout(model)


@pytest.fixture(autouse=True)
def _forget() -> None:
    Slow.looked = 0


def test_a_layout_is_found_once_whatever_the_weights() -> None:
    model = tiny_model("llama")
    first = layout_of(model, Slow())
    assert layout_of(model, Slow()) == first == LlamaAdapter().layout(model)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    layout_of(model.train(), Slow())
    assert Slow.looked == 1


def test_an_adapter_that_says_nothing_is_asked_each_time(tmp_path: Path) -> None:
    class Plain(Slow):
        remembered: ClassVar[bool] = False

    model = tiny_model("llama")
    layout_of(model, Plain())
    layout_of(model, Plain())
    assert Plain.looked == 2 and not [*tmp_path.iterdir()]


def _config(model: Any) -> None:
    model.config.rms_norm_eps *= 2


def _attention(model: Any) -> None:
    model.config._attn_implementation = "eager"


def _swapped(model: Any) -> None:
    model.model.layers[0].mlp.act_fn = nn.ReLU()


def _renamed(model: Any) -> None:
    model.model.extra = nn.Identity()


def _setting(model: Any) -> None:
    model.model.layers[1].self_attn.scaling = 2.0


def _adapters(model: Any) -> None:
    model.model.layers[1].self_attn.active = {"default": [1.0]}


def _dtype(model: Any) -> None:
    model.to(torch.bfloat16)


def _meta(model: Any) -> None:
    model.to("meta")


CHANGES = [_config, _attention, _swapped, _renamed, _setting, _adapters, _dtype, _meta]


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_layout_may_follow_from_is_in_the_key(change: Callable[[Any], None]) -> None:
    model = copy.deepcopy(tiny_model("llama"))
    before = layout_key(model, Slow())
    assert before is not None and before == layout_key(copy.deepcopy(model), Slow())
    change(model)
    assert layout_key(model, Slow()) not in (before, None)


@pytest.mark.parametrize("changed", ["torch", "transformers"])
def test_versions_are_in_the_key(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    before = layout_key(model, Slow())
    monkeypatch.setattr(sys.modules[changed], "__version__", "0.0")
    assert layout_key(model, Slow()) not in (before, None)


def test_the_contract_and_what_stands_in_for_code_are_in_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama")
    before = layout_key(model, Slow())
    with monkeypatch.context() as patched:
        patched.setattr(layout_memory, "_version", lambda name: "9.9" if name == "mamba-ssm" else None)
        assert layout_key(model, Slow()) not in (before, None)
    assert layout_key(model, Slow()) == before
    (tmp_path / "architecture.py").write_text("# another contract", "utf-8")
    monkeypatch.setattr(api, "__path__", [str(tmp_path)])
    assert layout_key(model, Slow()) not in (before, None)


def imported(path: Path, name: str, code: str) -> ModuleType:
    """A module with a file, such as remote code has."""
    from importlib.util import module_from_spec, spec_from_file_location

    path.write_text(code, "utf-8")
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


REMOTE = "from torch import nn\n\n\ndef double(x):\n    return {}\n\n\nclass Remote(nn.ReLU):\n    pass\n"


def test_code_beside_the_model_classes_and_of_the_adapter_is_in_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy.deepcopy(tiny_model("llama"))
    file = tmp_path / "remote_code.py"
    monkeypatch.setitem(sys.modules, "remote_code", ModuleType("remote_code"))
    model.model.layers[0].mlp.act_fn = imported(file, "remote_code", REMOTE.format("2 * x")).Remote()
    before = layout_key(model, Slow())
    file.write_text(REMOTE.format("x + x"), "utf-8")
    changed = layout_key(model, Slow())
    assert None not in (before, changed) and before != changed

    own = tmp_path / "own_adapter.py"
    code = f"from {__name__} import Slow\n\n\nclass Own(Slow):\n    pass\n"
    monkeypatch.setitem(sys.modules, "own_adapter", ModuleType("own_adapter"))
    adapter = imported(own, "own_adapter", code).Own()
    first = layout_key(model, adapter)
    own.write_text(f"{code}\n# differs\n", "utf-8")
    assert None not in (first, layout_key(model, adapter)) and first != layout_key(model, adapter)


def _made_here(model: Any) -> None:
    model.model.layers[0].mlp.act_fn = type("Made", (nn.ReLU,), {})()


def _without_file(model: Any) -> None:
    notebook = ModuleType("a_notebook")
    made = type("Made", (nn.ReLU,), {"__module__": "a_notebook"})
    notebook.Made = made  # type: ignore[attr-defined]
    sys.modules["a_notebook"] = notebook
    model.model.layers[0].mlp.act_fn = made()


def _patched(model: Any) -> None:
    mlp = model.model.layers[0].mlp
    mlp.forward = mlp.act_fn.forward


def _hooked(model: Any) -> None:
    model.model.layers[0].register_forward_hook(lambda module, args, output: output)


@pytest.mark.parametrize("change", [_made_here, _without_file, _patched, _hooked])
def test_code_that_cannot_be_told_is_looked_at_each_time(change: Callable[[Any], None], tmp_path: Path) -> None:
    model = copy.deepcopy(tiny_model("llama"))
    change(model)
    layout_of(model, Slow())
    layout_of(model, Slow())
    assert Slow.looked == 2 and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"layout": 1}', "changed", "cut", "{" * 100_000])
def test_a_damaged_file_is_found_anew_and_mended(damage: str, tmp_path: Path) -> None:
    model = tiny_model("llama")
    layout = layout_of(model, Slow())
    (file,) = (tmp_path / "layouts").iterdir()
    sound = file.read_text("utf-8")
    values = json.loads(sound)
    # A layout by its form, and another one than was found.
    values["layout"]["softcap"] = 3.0
    file.write_text({"changed": json.dumps(values), "cut": sound[: len(sound) // 2]}.get(damage, damage), "utf-8")
    assert layout_of(model, Slow()) == layout
    assert Slow.looked == 2 and file.read_text("utf-8") == sound


def test_a_cache_that_cannot_be_written_costs_a_look_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "layouts").write_text("in the way")
    model = tiny_model("llama")
    assert layout_of(model, Slow()) == layout_of(model, Slow())
    assert Slow.looked == 2


def test_a_refusal_is_not_remembered(tmp_path: Path) -> None:
    class Refusing(Slow):
        def layout(self, model: Any) -> Layout:
            raise UnsupportedModelError("not one sum")

    with pytest.raises(UnsupportedModelError, match="not one sum"):
        layout_of(tiny_model("llama"), Refusing())
    assert not [*tmp_path.iterdir()]


def test_every_way_to_a_model_goes_by_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[ArchitectureAdapter] = []
    real = layout_memory.layout_of

    def seen(model: Any, adapter: ArchitectureAdapter) -> Layout:
        asked.append(adapter)
        return real(model, adapter)

    monkeypatch.setattr(layout_memory, "layout_of", seen)
    session.load_model("tiny-random:llama")
    session.wrap(tiny_model("llama"))
    assert [type(one).__name__ for one in asked] == ["LlamaAdapter", "LlamaAdapter"]
