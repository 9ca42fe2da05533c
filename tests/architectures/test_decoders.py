"""The table of decoders is so: what is found now is what its rows say, and every type has one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import benchmarks.decoders.promises as promises
import benchmarks.decoders.row as rows
from benchmarks.decoders.page import BEGIN, PAGE, generated
from benchmarks.decoders.promises import _checks, broken_promises
from benchmarks.decoders.row import STATUSES, Row, measure
from benchmarks.decoders.table import NAMES, TABLE, changes, missing, read_table
from steerkit.engine.tiny.models import tiny_model
from steerkit.errors import UnsupportedModelError
from steerkit.sources import TINY_CANNOT_RUN, TINY_VARIANTS
from steerkit_architectures._auto import AutoAdapter

SAMPLE = (
    *("gpt2", "opt", "falcon", "mixtral", "granite", "mamba", "olmo2", "llama4_text"),  # full
    *("openai-gpt", "bert"),  # ends of blocks alone
    *("deepseek_v4", "gemma3n"),  # refused, and not run
)
WITH_SUITE = ("gpt2", "openai-gpt")
FOUND_BY_ONE_PASS = ("status", "cause", "detail", "adapter", "writers", "heads", "absent", "experts", "behaviours")


def test_every_type_of_the_installed_transformers_has_a_row_and_no_other() -> None:
    """A new release turns this red, with the types that it adds or drops."""
    assert missing(set(read_table()) - set(TINY_VARIANTS), MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) == []
    assert set(read_table()) == set(NAMES)


def test_a_type_without_a_row_is_named() -> None:
    new, gone = missing(["gpt2", "old"], ["gpt2", "new"])
    assert new.startswith("new: new in the installed transformers") and gone.startswith("old: no longer")


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_rows_is_what_is_found(name: str) -> None:
    found = measure(name, seeds=(0,), suite=False)
    assert changes(read_table(), [found], FOUND_BY_ONE_PASS) == []


@pytest.mark.parametrize("name", WITH_SUITE)
def test_the_promises_of_a_row_are_what_the_suite_says(name: str) -> None:
    row = read_table()[name]
    assert broken_promises(name) == (row.broken, row.not_asked)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_what_is_found(name: str) -> None:
    assert changes(read_table(), [measure(name)]) == []


def test_the_table_holds_what_was_asked_of_it() -> None:
    table = {name: row for name, row in read_table().items() if name not in TINY_VARIANTS}
    n = {status: sum(row.status == status for row in table.values()) for status in STATUSES}
    assert sum(n.values()) == len(table)
    assert n["full"] >= 145 and n["full"] + n["ends only"] >= 170
    kept = [row for row in table.values() if row.status in ("full", "ends only")]
    assert sum(row.keeps_all for row in kept) >= 122
    assert all(row.seeds == (0, 1, 2, 3) for row in kept)
    assert all(row.cause and row.detail for row in table.values() if row.status != "full")


def test_the_page_shows_the_table() -> None:
    """Stale: run `python -m benchmarks.decoders`, or call ``write_page`` on the kept rows."""
    by_hand, _, shown = PAGE.read_text("utf-8").partition(BEGIN)
    assert by_hand and shown == generated(read_table().values())


def test_every_type_is_on_the_page() -> None:
    shown = generated(read_table().values())
    assert [name for name in NAMES if f"`{name}`" not in shown] == []


def test_a_change_is_told_with_the_row_and_what_changed() -> None:
    row = Row("gpt2", "full", heads="4 of 4")
    assert changes({"gpt2": row}, [replace(row, status="refused", cause="several streams")]) == [
        'gpt2: status was "full", now "refused".',
        'gpt2: cause was nothing, now "several streams".',
    ]
    assert changes({"gpt2": row}, [replace(row, heads="3 of 4")], ["heads"]) == [
        'gpt2: heads was "4 of 4", now "3 of 4".'
    ]
    assert "has no row yet" in changes({}, [row])[0]


def test_rows_are_kept_as_they_are() -> None:
    for line in json.loads(TABLE.read_text("utf-8"))["rows"]:
        assert Row.from_dict(line).to_dict() == line


class _Changed(AutoAdapter):
    """Raises what it is told to."""

    error: Exception

    def layout(self, model: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ZeroDivisionError("by 0"), "an error of kind ZeroDivisionError"),
        (UnsupportedModelError("No.", cause="several streams"), "several streams"),
    ],
)
def test_whatever_raises_is_a_row_with_a_reason(monkeypatch: pytest.MonkeyPatch, error: Exception, cause: str) -> None:
    monkeypatch.setattr(_Changed, "error", error, raising=False)
    monkeypatch.setattr(rows, "AutoAdapter", _Changed)
    row = measure("gpt2", seeds=(0,), suite=False)
    assert (row.status, row.cause) == ("refused", cause) and row.detail


def test_a_model_that_does_not_run_is_a_row_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, seed: int) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(rows, "tiny_model", broken)
    row = measure("gpt2", seeds=(0,), suite=False)
    assert (row.status, row.detail) == ("not run", "no such kernel.")
    assert measure("gemma3n").detail == TINY_CANNOT_RUN["gemma3n"]


def test_seeds_that_differ_are_no_row_to_rely_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        rows, "tiny_model", lambda name, seed: tiny_model("openai-gpt" if seed == 2 else name, seed=seed)
    )
    row = measure("gpt2", suite=False)
    assert (row.status, row.cause) == ("refused", "found by chance") and "seed" in row.detail


def test_what_depends_on_the_weights_stands_for_the_worst_seed() -> None:
    better = Row("gpt2", "full", heads="4 of 4", behaviours={"causal": True, "cached": True})
    worse = replace(
        better, heads="3 of 4", absent=("head_out in blocks 0",), behaviours={"causal": True, "cached": False}
    )
    row = rows._together((0, 1, 2), [better, worse, better])
    assert row.behaviours == {"causal": True, "cached": False} and row.heads == "3 of 4"
    assert row.varies == ("cached", "head_out in blocks 0") and row.seeds == (0, 1, 2)
    assert rows._together((0, 1), [better, better]).varies == ()


def test_a_layout_that_fails_the_self_test_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(AutoAdapter):
        def layout(self, model: Any) -> Any:
            return replace(super().layout(model), logit_scale=1.01)

    monkeypatch.setattr(rows, "AutoAdapter", Wrong)
    row = measure("gpt2", seeds=(0,), suite=False)
    assert (row.status, row.cause) == ("refused", "fails the self-test") and row.detail.startswith("logits at ")


def test_what_a_layout_leaves_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Less(AutoAdapter):
        def layout(self, model: Any) -> Any:
            found = super().layout(model)
            first = replace(found.blocks[0], heads=None, resid_mid=None)
            return replace(found, blocks=(first, *found.blocks[1:]), embed_weight="", embed_beside=())

    monkeypatch.setattr(rows, "AutoAdapter", Less)
    row = measure("mistral", seeds=(0,), suite=False)
    assert row.absent == ("resid_mid in blocks 0", "head_out in blocks 0", "folding of the embedding")
    assert row.heads == "3 of 4"


def test_a_promise_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any, built: Any, positions: str) -> None:
        assert positions != "-1", "padded: Tensor-likes are not close! 5"

    name = "test_padding_changes_nothing"
    fails.pytestmark = [pytest.mark.parametrize("positions", ["all", "-1"]).mark]  # type: ignore[attr-defined]
    monkeypatch.setattr(promises.ArchitectureSuite, name, fails)
    only = [one for one in promises._checks() if one[0] == name]
    monkeypatch.setattr(promises, "_checks", lambda: only)
    assert broken_promises("gpt2") == ({name: "AssertionError: padded (positions -1)"}, ())


def test_a_promise_that_does_not_apply_is_named() -> None:
    """BART's positions count padding, so a prompt that is padded on its left isn't what it is alone."""
    assert broken_promises("bart") == ({}, ("test_cached_equals_uncached",))


def test_every_check_of_the_suite_that_takes_a_model_is_tried() -> None:
    from steerkit.testing import ArchitectureSuite

    checks = dict(_checks())
    assert {"test_self_test_passes", "test_bfloat16_works", "test_cached_equals_uncached"} <= set(checks)
    assert "test_module_imports_no_torch" not in checks and all(hasattr(ArchitectureSuite, name) for name in checks)
    assert len(checks["test_cached_equals_uncached"]) == 14 and checks["test_bfloat16_works"] == [{}]


def test_experts_are_told_as_they_are_held() -> None:
    assert measure("mixtral", (0,), suite=False).experts.startswith("fused; ")
    assert measure("gpt2", (0,), suite=False).experts == ""
