"""Streams in whatever a block gives: a tensor, or the first item of a tuple, of one with names, or of a list."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from torch import Tensor, nn

from steerkit.api.architecture import Layout, Tap
from steerkit.engine.hooking.prepared import OUTPUT, _hook_of_buffer
from steerkit.engine.sites.selftest import self_test
from steerkit.engine.sites.taps import register_tap
from steerkit.engine.tiny.models import VOCAB_SIZE, tiny_model
from steerkit.errors import SiteError, UnsupportedModelError
from steerkit.session import wrap
from steerkit_architectures._llama import LlamaAdapter

Named = namedtuple("Named", ["stream", "weights"])
KINDS: dict[str, Callable[[Tensor], Any]] = {
    "a tensor": lambda value: value,
    "a tuple": lambda value: (value, None),
    "a tuple with names": lambda value: Named(value, None),
    "a list": lambda value: [value, None],
}


class Gives(nn.Module):
    def __init__(self, kind: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, value: Tensor) -> Any:
        return self.kind(value)


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_leaves_the_kind_of_output(kind: str) -> None:
    module = nn.ModuleDict({"block": Gives(KINDS[kind])})
    value = torch.ones(1, 2, 3)
    handle = register_tap(module, Tap("block"), lambda seen: seen + 1)
    found = module["block"](value)
    handle.remove()
    expected = KINDS[kind](value + 1)
    assert type(found) is type(expected)
    torch.testing.assert_close(found if kind == "a tensor" else found[0], value + 1)
    assert kind == "a tensor" or (len(found) == 2 and found[1] is None)


@pytest.mark.parametrize(
    "output", [{"stream": torch.ones(1)}, (), (None, torch.ones(1))], ids=["dict", "empty", "none"]
)
def test_no_tensor_is_an_error_in_words(output: Any) -> None:
    module = nn.ModuleDict({"block": Gives(lambda value: output)})
    register_tap(module, Tap("block"), lambda seen: seen)
    with pytest.raises(SiteError, match="where its layout has a stream"):
        module["block"](torch.ones(1))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a tensor"])
def test_blocks_of_every_kind_pass_the_self_test(kind: str) -> None:
    model, layout = _with_blocks_that_give(KINDS[kind])
    self_test(model, layout).raise_if_failed()


@pytest.mark.parametrize("kind", KINDS)
def test_a_prepared_place_leaves_the_kind_of_output(kind: str) -> None:
    module = nn.ModuleDict({"block": Gives(KINDS[kind])})
    module["block"].register_buffer(OUTPUT, torch.tensor([[[5.0, 6.0, 7.0]]]))
    handle = module["block"].register_forward_hook(_hook_of_buffer(Tap("block")))
    found = module["block"](torch.ones(1, 2, 3))
    handle.remove()
    assert type(found) is type(KINDS[kind](torch.ones(1)))
    torch.testing.assert_close(found if kind == "a tensor" else found[0], torch.tensor([6.0, 7.0, 8.0]).expand(1, 2, 3))


def _with_blocks_that_give(kind: Callable[[Tensor], Any]) -> tuple[Any, Layout]:
    """A model whose blocks give that to their hooks and to whoever calls them, and the model's loop a tensor."""
    model = tiny_model("llama")
    for place, block in enumerate(model.model.layers):
        model.model.layers[place] = _Unpacked(_Packed(block, kind))
    layout = LlamaAdapter().layout(tiny_model("llama"))
    return model, _renamed(layout)


class _Packed(nn.Module):
    def __init__(self, block: nn.Module, kind: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.block, self.kind = block, kind

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Any:
        return self.kind(self.block(hidden_states, **kwargs))


class _Unpacked(nn.Module):
    def __init__(self, packed: nn.Module) -> None:
        super().__init__()
        self.packed = packed

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        output = self.packed(hidden_states, **kwargs)
        found: Tensor = output[0] if isinstance(output, (tuple, list)) else output
        return found


def _renamed(layout: Layout) -> Layout:
    """A layout whose blocks lie two modules deeper, and the block's own ends one."""

    def deeper(path: str) -> str:
        parts = path.split(".")
        return ".".join([*parts[:3], "packed", "block", *parts[3:]])

    def moved(tap: Tap) -> Tap:
        return replace(tap, module=deeper(tap.module))

    blocks = []
    for block in layout.blocks:
        writers = tuple(
            replace(one, tap=moved(one.tap), projections=tuple(map(deeper, one.projections))) for one in block.writers
        )
        assert block.resid_mid is not None and block.heads is not None
        heads = replace(block.heads, tap=moved(block.heads.tap))
        module = f"{block.module}.packed"
        blocks.append(replace(block, module=module, writers=writers, resid_mid=moved(block.resid_mid), heads=heads))
    return replace(layout, blocks=tuple(blocks))


def test_a_model_that_is_offloaded_as_a_whole_is_refused_with_what_to_do() -> None:
    model = tiny_model("llama")
    cpu_offload(model, execution_device=torch.device("cpu"), preload_module_classes=["LlamaForCausalLM"])
    with pytest.raises(UnsupportedModelError, match="part by part"):
        wrap(model)


def test_a_model_that_is_offloaded_block_by_block_is_steered_as_it_is() -> None:
    model, plain = tiny_model("llama"), tiny_model("llama")
    cpu_offload(model, execution_device=torch.device("cpu"), preload_module_classes=["LlamaDecoderLayer"])
    ids = torch.randint(6, VOCAB_SIZE, (2, 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: Any = wrap(model).forward(ids).logits
        assert found.equal(plain(ids).logits)
