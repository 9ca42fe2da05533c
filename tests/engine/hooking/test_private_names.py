"""Names that torch, transformers, accelerate and Python keep to themselves and the package uses: each is there still.

Most uses look for such a name and go on without it, so that a version that has it elsewhere would take away what hangs
on it (compiled graphs that are let go, hooks that are seen) without a word. Here it is told.
"""

from __future__ import annotations

import ast
import inspect
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from jinja2.utils import Namespace
from torch import nn
from torch.utils import _python_dispatch, _pytree
from torch.utils.hooks import RemovableHandle

ROOT = Path(__file__).parents[3]


def module() -> Any:
    return nn.Linear(2, 2)


def listed(name: str) -> Callable[[], bool]:
    """A module's attribute that holds hooks in order, by key."""
    return lambda: isinstance(getattr(module(), name), OrderedDict)


def built_from_a_config() -> bool:
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        return type(LlamaForCausalLM._from_config(tiny_config())) is LlamaForCausalLM


def tiny_config() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(num_hidden_layers=1)


def attached_by_accelerate() -> bool:
    from accelerate.hooks import ModelHook, add_hook_to_module

    layer = module()
    add_hook_to_module(layer, ModelHook())
    return hasattr(layer, "_hf_hook")


def set_by_transformers() -> bool:
    from steerkit.engine.tiny.models import tiny_model

    model: Any = tiny_model("llama")
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    return any(hasattr(one, "_gradient_checkpointing_func") for one in model.modules())


def compiled_and_listed() -> bool:
    """A compiled function is known to the tracker; its graphs are listed, and reset."""
    from torch._dynamo import convert_frame, eval_frame

    def plus_one(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    torch.compile(plus_one, backend="eager")(torch.zeros(2))
    code = plus_one.__code__
    known = [one() for one in convert_frame.input_codes.seen]
    entries = eval_frame._debug_get_cache_entry_list(code)
    named = bool(entries) and all(hasattr(entry, "guard_manager") for entry in entries)
    with convert_frame.compile_lock:
        eval_frame.reset_code(code)
    return code in known and named and not eval_frame._debug_get_cache_entry_list(code)


def backward_is_run_there() -> bool:
    """The frame by which a backward pass is known in a thread's stack."""
    seen = []

    class Look(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            frame = inspect.currentframe()
            while frame is not None:
                seen.append(frame.f_code.co_name)
                frame = frame.f_back
            return gradient

    Look.apply(torch.zeros(1, requires_grad=True)).sum().backward()  # type: ignore[no-untyped-call]
    return "_engine_run_backward" in seen


def planned_by_transformers() -> bool:
    """What a model says of how its weights are split over processes."""
    from steerkit.engine.tiny.models import tiny_model

    return bool(tiny_model("llama")._tp_plan)


def ray_is_pinned() -> bool:
    """Ray isn't installed here: its names are those of the version that `make test-ray` installs."""
    return "ray==2.60.0" in (ROOT / "constraints-ray.txt").read_text("utf-8").splitlines()


def joins_by_that_name() -> bool:
    return hasattr(threading.Thread, "_wait_for_tstate_lock") or sys.version_info >= (3, 13)


def persistent() -> bool:
    layer = module()
    layer.register_buffer("b", torch.zeros(1), persistent=False)
    return layer._non_persistent_buffers_set == {"b"} and "b" in layer._buffers


def attention_of_a_config() -> bool:
    config = tiny_config()
    config._attn_implementation = "eager"
    return bool(config._attn_implementation_internal == "eager")


def counted_versions() -> bool:
    value = torch.zeros(2)
    before = value._version
    value += 1
    return value._version > before


def kept_in_generation_config() -> bool:
    from transformers import GenerationConfig

    return GenerationConfig.from_model_config(tiny_config())._from_model_config is True


PINNED: dict[str, Callable[[], bool]] = {
    "_apply": lambda: callable(module()._apply),
    "_attn_implementation": attention_of_a_config,
    "_attn_implementation_internal": attention_of_a_config,
    "_backward_hooks": listed("_backward_hooks"),
    "_backward_pre_hooks": listed("_backward_pre_hooks"),
    "_buffers": persistent,
    "_cdata": lambda: isinstance(torch.zeros(1).untyped_storage()._cdata, int),
    "_compiled_call_impl": lambda: hasattr(module(), "_compiled_call_impl"),
    "_current_frames": lambda: threading.get_ident() in sys._current_frames(),
    "_debug_get_cache_entry_list": compiled_and_listed,
    "_dynamo": lambda: callable(torch._dynamo.mark_static_address),
    "_engine_run_backward": backward_is_run_there,
    "_exit": lambda: callable(os._exit),
    "_forward_hooks": listed("_forward_hooks"),
    "_forward_hooks_always_called": listed("_forward_hooks_always_called"),
    "_forward_pre_hooks": listed("_forward_pre_hooks"),
    "_forward_pre_hooks_with_kwargs": listed("_forward_pre_hooks_with_kwargs"),
    "_from_config": built_from_a_config,
    "_from_model_config": kept_in_generation_config,
    "_getframe": lambda: sys._getframe(0) is inspect.currentframe(),
    "_global_forward_hooks": lambda: hasattr(nn.modules.module, "_global_forward_hooks"),
    "_global_forward_pre_hooks": lambda: hasattr(nn.modules.module, "_global_forward_pre_hooks"),
    "_gradient_checkpointing_func": set_by_transformers,
    "_hf_hook": attached_by_accelerate,
    "_load_state_dict_post_hooks": listed("_load_state_dict_post_hooks"),
    "_load_state_dict_pre_hooks": listed("_load_state_dict_pre_hooks"),
    "_modules": lambda: list(nn.Sequential(module())._modules) == ["0"],
    "_name_or_path": lambda: hasattr(tiny_config(), "_name_or_path"),
    "_Namespace__attrs": lambda: getattr(Namespace(a=1), "_Namespace__attrs") == {"a": 1},  # noqa: B009  (mangled)
    "_non_persistent_buffers_set": persistent,
    "_orig_mod": lambda: "_orig_mod" in torch.compile(module(), backend="eager")._modules,  # type: ignore[attr-defined]
    "_parameters": lambda: list(module()._parameters) == ["weight", "bias"],
    "_private": ray_is_pinned,
    "_schema": lambda: torch.ops.aten.add_.Tensor._schema.is_mutable,
    "_state_dict_hooks": listed("_state_dict_hooks"),
    "_tp_plan": planned_by_transformers,
    "_version": counted_versions,
    "_wait_for_tstate_lock": joins_by_that_name,
    "_worker_logs_enabled": ray_is_pinned,
    "torch._dynamo": compiled_and_listed,
    "torch._dynamo.convert_frame": compiled_and_listed,
    "torch._dynamo.eval_frame": compiled_and_listed,
    "TorchDispatchMode": lambda: hasattr(_python_dispatch.TorchDispatchMode, "__torch_dispatch__"),
    "tree_flatten": lambda: _pytree.tree_flatten(([1], {"a": 2}))[0] == [1, 2],
    "tree_leaves": lambda: _pytree.tree_leaves([torch.zeros(1), 2]) is not None,
}

BEYOND_NAMES: dict[str, Callable[[], bool]] = {
    "a hook's key is its handle's id": lambda: isinstance(RemovableHandle(OrderedDict()).id, int),
    "torch.compile looks at no hooks again": lambda: hasattr(torch._dynamo.config, "skip_nnmodule_hook_guards"),
    "graphs of code that is gone have another kind of guards": lambda: hasattr(
        torch._dynamo.guards, "DeletedGuardManagerWrapper"
    ),
    "passes can be made without torch.compile": lambda: callable(torch.compiler.set_stance),
    "threads that join stand in that file": lambda: Path(threading.__file__).name == "threading.py",
}

OURS = {"_steerkit_state", "_shipped"}
"""Private names of the package's own that it looks up as text."""


@pytest.mark.parametrize("name", [*PINNED, *BEYOND_NAMES])
def test_it_is_there(name: str) -> None:
    assert {**PINNED, **BEYOND_NAMES}[name](), (
        f"{name}: this version of torch, transformers, accelerate or Python has it elsewhere or not at all. Find out "
        "what took its place before you move the pin: the package would go on without it and say nothing."
    )


def test_no_private_name_is_used_that_nobody_watches() -> None:
    used = {name: where for name, where in _used().items() if name not in OURS}
    unwatched = {name: where for name, where in used.items() if name not in PINNED}
    assert not unwatched, f"add what is used of others' private names to PINNED: {unwatched}"
    gone = [name for name in PINNED if name not in used and name not in _text_of_all()]
    assert not gone, f"PINNED lists what nothing uses: {gone}"


def _text_of_all() -> str:
    return "\n".join(path.read_text() for path in _files())


def _files() -> list[Path]:
    return sorted(path for folder in ("steerkit", "plugins") for path in (ROOT / folder).rglob("*.py"))


def _used() -> dict[str, str]:
    """Private names of others, each with a place: attributes of anything, and texts that are looked up."""
    trees = {path: list(ast.walk(ast.parse(path.read_text()))) for path in _files()}
    own = {name for nodes in trees.values() for node in nodes for name in _made(node)}
    return {
        name: f"{path.relative_to(ROOT)}:{node.lineno}"  # type: ignore[attr-defined]
        for path, nodes in trees.items()
        for node in nodes
        for name in _asked(node)
        if name not in own and not name.startswith("__")
    }


def _made(node: ast.AST) -> Iterator[str]:
    """What a piece of the package itself defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
        yield node.attr


def _asked(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
        yield node.attr
    elif isinstance(node, ast.ImportFrom):
        named = f"{node.module or ''}."
        foreign = not node.level and not named.startswith(("steerkit", "__"))
        yield from (alias.name for alias in node.names if foreign and ("._" in named or alias.name.startswith("_")))
    elif isinstance(node, ast.Call) and _looked_up(node.func):
        texts = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        yield from (text for text in texts if text.startswith("_") or "._" in text)


def _looked_up(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id in ("getattr", "hasattr", "setattr", "delattr")
    # sys.modules.get("torch._dynamo…")
    return isinstance(function, ast.Attribute) and ast.unparse(function).startswith("sys.modules.")
