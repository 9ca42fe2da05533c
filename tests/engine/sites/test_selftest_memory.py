"""A self-test that was passed is not run again, and only that one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steerkit import session
from steerkit.engine.sites import selftest
from steerkit.engine.sites.behaviours import Behaviours
from steerkit.engine.sites.selftest_memory import Passed, key_of, passed_before, remember_passed
from tests.conftest import tiny_live


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path))


def test_a_model_is_tested_at_its_first_load_only(monkeypatch: pytest.MonkeyPatch) -> None:
    live = tiny_live("llama")
    runs: list[str] = []
    real = selftest.self_test

    def counted(*args: object, **kwargs: object) -> object:
        runs.append("ran")
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(selftest, "self_test", counted)
    for dtype, expected in (("float32", 1), ("float32", 1), ("bfloat16", 2)):
        session.load_model("tiny-random:llama", dtype=dtype, device="cpu")
        assert len(runs) == expected
    # A model from memory says nothing of where its weights came from.
    session.wrap(live.model, live.tokenizer)
    session.wrap(live.model, live.tokenizer)
    assert len(runs) == 4


def test_what_the_outcome_depends_on_is_in_the_key() -> None:
    live = tiny_live("llama")
    key = key_of(live.model, live.layout, "sha256:a")
    assert key == key_of(live.model, live.layout, "sha256:a")
    other = replace(live.layout, softcap=30.0)
    # What the layout prints of itself leaves this out.
    deeper = replace(live.layout, embed=replace(live.layout.embed, keyword="x"))
    hashes = [key, key_of(live.model, live.layout, "sha256:b"), key_of(live.model, other, "sha256:a")]
    assert len({*hashes, key_of(live.model, deeper, "sha256:a")}) == 4
    assert passed_before(key) is None
    passed = Passed(Behaviours(cached=False), (frozenset({"mixing"}), frozenset({"edited", "logits"})))
    remember_passed(key, passed)
    assert passed_before(key) == passed


def test_a_cache_that_cannot_be_written_costs_a_test_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "selftests").write_text("in the way")
    remember_passed("key", Passed(Behaviours()))
    assert passed_before("key") is None
    assert session.load_model("tiny-random:llama", device="cpu").model.dtype is torch.float32
