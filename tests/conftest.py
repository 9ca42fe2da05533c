"""Tiny steerable models for every test that needs a live one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from steerkit.session.model import LiveModel

_LIVE: dict[str, LiveModel] = {}


KEPT_IN: list[Path] = []
"""Where what tests share between them lies on disk."""


@pytest.fixture(scope="session", autouse=True)
def _kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Removed after success, failure and an interrupt; what a kill leaves, pytest removes some sessions later."""
    KEPT_IN.append(tmp_path_factory.mktemp("kept"))
    yield
    shutil.rmtree(KEPT_IN.pop(), ignore_errors=True)


@pytest.fixture(autouse=True)
def _speeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured of models on this machine is no part of a test, nor the other way round."""
    monkeypatch.setattr("steerkit.speed.cache_folder", lambda: tmp_path / ".speeds")


def tiny_live(model_type: str) -> LiveModel:
    """A tiny steerable model of a type, made once and shared: steering leaves no trace, which tests check."""
    from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
    from steerkit.session import wrap

    if model_type not in _LIVE:
        _LIVE[model_type] = wrap(tiny_model(model_type), tiny_tokenizer())
    return _LIVE[model_type]


@pytest.fixture
def llama() -> Iterator[LiveModel]:
    """A tiny Llama that must come back as it was: no hook, the same bits."""
    live = tiny_live("llama")
    before = {name: value.clone() for name, value in live.model.state_dict().items()}
    # A test's own backward pass leaves gradients, which another test must not take for its own.
    live.model.zero_grad()
    yield live
    assert_clean(live)
    for name, value in live.model.state_dict().items():
        assert value.equal(before[name]), name


def assert_clean(live: LiveModel, *, door: bool = False) -> None:
    """No hook of ours is left on any module, nor anything around what runs its blocks for gradients.

    With ``door``, but the hooks that look at whose passes begin.

    (transformers keeps some of its own once hidden states were asked for.)
    """
    allowed = ("transformers.", "steerkit.engine.runtime.door") if door else ("transformers.",)
    for name, module in live.model.named_modules():
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            assert getattr(hook, "__module__", "").startswith(allowed), f"{name}: {hook}"
        runs = vars(module).get("_gradient_checkpointing_func")
        assert not getattr(runs, "__module__", "").startswith("steerkit."), f"{name}: {runs}"
