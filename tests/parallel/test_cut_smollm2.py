"""SmolLM2-135M, which has 3 key and value heads, on three processes against one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.parallel.cases import ALIKE, CASES
from tests.parallel.starting import started

pytestmark = [pytest.mark.parallel, pytest.mark.timeout(1500)]


def test_smollm2_on_three_processes(tmp_path: Path) -> None:
    ended = started("tests/parallel/steps.py", "smollm2-135m-instruct", tmp_path / "results.json", seconds=1400)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads((tmp_path / "results.json").read_text())
    assert list(found) == [*CASES, *(f"fsdp_{name}" for name in ALIKE)]
    for name, ranks in found.items():
        assert [one.get("failed") for one in ranks] == [None] * 3, name
        assert len({one["error"] for one in ranks}) == 1, name  # to the bit
        print(f"{name:45} {ranks[0]['error']:.1e}")  # noqa: T201  (shown by pytest -s)
        assert ranks[0]["error"] <= 1e-4, name
