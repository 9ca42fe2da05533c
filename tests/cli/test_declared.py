"""A layout printed as an adapter's module: run as it is, it gives the layout again."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from steerkit.api.architecture import Layout, Tap
from steerkit.api.hookspecs import ModelFacts
from steerkit.catalog import Catalog, implementation, installed
from steerkit.cli.declared import adapter_module, adapter_name, config_sizes
from steerkit.cli.main import main
from steerkit.engine.tiny.models import tiny_model
from steerkit.sources import TINY_MODEL_TYPES
from steerkit_architectures._auto import AutoAdapter
from tests.api.test_layout_saved import FULL
from tests.architectures.conftest import built


def run(source: str, model: Any) -> Layout:
    """The layout that the adapter of a module's source gives, by way of its plugin."""
    module = ModuleType("declared_here")
    sys.modules["declared_here"] = module
    try:
        exec(compile(source, "declared_here.py", "exec"), module.__dict__)
        (entry,) = Catalog.from_modules(module).entries
        assert entry.spec is not None
        return cast(Layout, implementation(entry.spec)().layout(model))
    finally:
        del sys.modules["declared_here"]


class Unsized:
    """A model whose config says nothing."""

    class config:
        @staticmethod
        def get_text_config() -> None:
            return None


@pytest.mark.parametrize("model_type", TINY_MODEL_TYPES)
def test_the_module_of_a_models_layout_gives_it_again(model_type: str) -> None:
    model, layout = built(model_type)
    source = adapter_module(layout, model_type, "mine", config_sizes(model.config.get_text_config()))
    assert run(source, model) == layout
    assert max(map(len, source.splitlines())) <= 120


def test_every_field_is_written() -> None:
    assert run(adapter_module(FULL, "x", "x", {}), Unsized()) == FULL


TWO = FULL.blocks


def alternating(pattern: str, module: str = "model.h.{}") -> Layout:
    """Blocks of the two kinds, by letter."""
    blocks = []
    for layer, letter in enumerate(pattern):
        block = TWO["ab".index(letter)]
        text = {"model.h.0": module.format(layer), "model.h.1": module.format(layer)}
        values = replace(FULL, blocks=(block,)).to_dict()
        blocks.append(Layout.from_dict(renamed(values, text)).blocks[0])
    return replace(FULL, blocks=tuple(blocks))


def renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item, names) for item in value]
    if isinstance(value, str):
        return re.sub(r"^model\.h\.[01](?![0-9])", lambda match: names[match[0]], value)
    return value


@pytest.mark.parametrize(
    ("pattern", "condition"),
    [
        ("aaaa", ""),
        ("abbb", "layer == 0"),
        ("aabbb", "layer in (0, 1)"),
        ("aaabbbb", "layer in range(0, 3)"),
        ("bbbbbabbbbbabbbbba", "layer in range(5, 18, 6)"),
        ("abbabbbba", "layer in (0, 3, 8)"),
    ],
)
def test_layers_that_are_alike_are_written_once(pattern: str, condition: str) -> None:
    layout = alternating(pattern)
    source = adapter_module(layout, "x", "x", {})
    assert run(source, Unsized()) == layout
    assert source.count("        return Block(\n") == len(set(pattern))
    assert f"if {condition}:" in source if condition else "if layer" not in source


@pytest.mark.parametrize("module", ["h.{}.inner", "{}", "a.0.h.{}", "odd.x{}"])
def test_blocks_lie_under_any_path(module: str) -> None:
    layout = alternating("aba", module)
    assert run(adapter_module(layout, "x", "x", {}), Unsized()) == layout


def test_texts_of_any_kind_come_back() -> None:
    odd = 'a "quoted" \\ text\nwith {braces}, 你好 and ' + "very long words " * 20 + '"""'
    layout = replace(FULL, notes=(odd, ""), embed=Tap('we"ird'))
    assert run(adapter_module(layout, 'x"""\n', "x", {}), Unsized()) == layout


def test_sizes_are_the_configs_where_it_says_them() -> None:
    model, layout = built("llama")
    source = adapter_module(layout, "llama", "x", config_sizes(model.config))
    assert "d_model=config.hidden_size" in source and "range(config.num_hidden_layers)" in source
    wider, expected = built("llama", hidden_size=64, num_hidden_layers=2)
    assert run(source, wider) == expected
    assert "config." not in adapter_module(layout, "llama", "x", {})


def test_heads_of_a_config_that_says_no_width_share_the_stream() -> None:
    source = adapter_module(AutoAdapter().layout(model := tiny_model("gpt2")), "gpt2", "x", config_sizes(model.config))
    assert "d_head=config.hidden_size // config.num_attention_heads" in source
    wider = tiny_model("gpt2", n_embd=64, n_layer=2)
    assert run(source, wider) == AutoAdapter().layout(wider)


def test_names_are_those_that_a_plugin_may_have() -> None:
    assert adapter_name("gpt2", ["llama"]) == "gpt2"
    assert adapter_name("llama", ["llama", "own_llama"]) == "own_own_llama"
    assert adapter_name("Qwen-3.5 (x)", []) == "qwen_3_5_x"
    assert adapter_name("3gpt", []) == "model_3gpt"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["inspect", *arguments])
    output = capsys.readouterr()
    return int(caught.value.code or 0), output.out, output.err


def test_inspect_prints_a_module_whose_claim_goes_before_the_familys(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = printed(capsys, "tiny-random:llama", "--declare")
    assert code == 0
    _, layout = built("llama")
    assert run(out, built("llama")[0]) == layout

    from steerkit_architectures import llama, yi

    module = ModuleType("declared_beside")
    exec(compile(out, "declared_beside.py", "exec"), module.__dict__)
    catalog = Catalog.from_modules(module, llama, yi)
    assert catalog.adapter_for(ModelFacts("llama", {})).name == "own_llama"
    assert "own_llama" not in installed().names("architecture")


def test_the_module_imports_no_torch(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, out, _ = printed(capsys, "tiny-random:gemma4_text", "--declare")
    (tmp_path / "printed.py").write_text(out, "utf-8")
    code = "import sys, printed; printed.steerkit_architectures(); sys.exit('torch' in sys.modules)"
    path = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"
    assert subprocess.run([sys.executable, "-c", path], check=False).returncode == 0


def test_a_module_is_not_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = printed(capsys, "tiny-random:llama", "--declare", "--json")
    assert code == 2 and not out and "leave one of them out" in err


def test_what_fails_the_self_test_is_printed_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = printed(capsys, "tiny-random:gemma2", "--adapter", "llama", "--declare")
    assert code == 3 and "class" in out and "block_sum" not in out and "blocks.0.resid_post" in err
