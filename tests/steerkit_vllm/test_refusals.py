"""Engines under which a request could be served otherwise than it asked don't start."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from steerkit.errors import AttachError
from steerkit_vllm.refusals import require_engine
from steerkit_vllm.starting import engine_settings


def parallel(**changes: Any) -> SimpleNamespace:
    sizes = dict.fromkeys(("pipeline", "decode_context", "prefill_context"), 1)
    parts: dict[str, Any] = {f"{name}_parallel_size": size for name, size in sizes.items()} | {"use_ubatching": False}
    return SimpleNamespace(**parts | changes)


def config(**changes: Any) -> Any:
    parts: dict[str, Any] = {
        "parallel_config": parallel(),
        "speculative_config": None,
        "model_config": SimpleNamespace(is_encoder_decoder=False),
        "cache_config": SimpleNamespace(enable_prefix_caching=True),
        "additional_config": {"steerkit": {"gated": True}},
        "use_v2_model_runner": False,
    }
    return SimpleNamespace(**parts | changes)


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    found = SimpleNamespace(__version__="0.32.1")
    monkeypatch.setitem(sys.modules, "vllm", found)
    return found


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"speculative_config": object()}, "speculative decoding"),
        ({"parallel_config": parallel(pipeline_parallel_size=2)}, "pipeline parallelism"),
        ({"parallel_config": parallel(use_ubatching=True)}, "dual batch overlap"),
        ({"parallel_config": parallel(prefill_context_parallel_size=2)}, "context parallelism"),
        ({"model_config": SimpleNamespace(is_encoder_decoder=True)}, "encoder-decoder"),
        ({"use_v2_model_runner": True}, "VLLM_USE_V2_MODEL_RUNNER=0"),
        ({"additional_config": {}}, "nobody salts"),
        ({"additional_config": {"steerkit": {"slots": 3}}}, "nobody salts"),
    ],
)
def test_what_isnt_known_to_be_exact_is_refused(changes: dict[str, Any], says: str) -> None:
    require_engine(config())
    with pytest.raises(AttachError, match=says):
        require_engine(config(**changes))


def test_without_a_cache_of_beginnings_nothing_need_be_salted() -> None:
    require_engine(config(additional_config={}, cache_config=SimpleNamespace(enable_prefix_caching=False)))


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0"])
def test_versions_that_nobody_read_are_refused(version: str, vllm: SimpleNamespace) -> None:
    vllm.__version__ = version
    with pytest.raises(AttachError, match=version):
        require_engine(config())


@pytest.mark.parametrize(("asked", "wanted"), [(None, "0"), ("1", "1")])
def test_the_first_model_runner_is_asked_for(asked: str | None, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", asked or "")
    if asked is None:
        monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER")
    engine_settings("auto", None, 4, cpu=False)
    assert os.environ["VLLM_USE_V2_MODEL_RUNNER"] == wanted


def test_who_has_a_gate_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    _, told = engine_settings("auto", {"steerkit": {"gated": False}}, 4, cpu=True)
    require_engine(config(additional_config=told))
