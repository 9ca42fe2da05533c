"""One model on three processes, cut by tensor parallelism or gathered by FSDP, against the same model in one.

All of it in one start of three processes on a tiny model.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.parallel.cases import ALIKE, CASES
from tests.parallel.starting import started

NAMES = [*CASES, *(f"fsdp_{name}" for name in ALIKE)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer

    folder = tmp_path_factory.mktemp("cut")
    model = tiny_model(
        "llama",
        d_model=48,
        num_attention_heads=6,
        num_key_value_heads=3,
        intermediate_size=96,
        tie_word_embeddings=True,
    )
    model.save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    ended = started("tests/parallel/steps.py", folder / "model", folder / "results.json")
    assert ended.returncode == 0, ended.stderr[-3000:]
    results: dict[str, list[dict[str, Any]]] = json.loads((folder / "results.json").read_text())
    assert list(results) == NAMES
    return results


@pytest.mark.parametrize("name", NAMES)
def test_three_processes_do_what_one_does(found: dict[str, list[dict[str, Any]]], name: str) -> None:
    ranks = found[name]
    assert [one.get("failed") for one in ranks] == [None] * 3
    assert len({one["error"] for one in ranks}) == 1  # to the bit
    assert ranks[0]["error"] <= 1e-4
