"""Whole recipes on a Ray cluster. ``make test-ray`` runs this, in an environment that has Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import steerkit
from tests.small_run import STABLE
from tests.sweeping.small import MODELS, RECIPE, REFUSED, listed

pytestmark = pytest.mark.ray
pytest.importorskip("ray", reason="Ray isn't installed here; make test-ray has it")


def test_a_sweep_on_a_cluster_has_the_bytes_of_one_in_this_process(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    over: dict[str, list[Any]] = {"model.source": [MODELS[0], REFUSED], "seed": [1, 2]}
    here = steerkit.sweep(tmp_path / "small.yaml", over, out=tmp_path / "here", threads=1)
    there = steerkit.sweep(tmp_path / "small.yaml", over, out=tmp_path / "there", executor="ray", workers=2, threads=1)
    assert here.told == there.told == "4 runs, 2 finished, 2 failed"
    assert here.failures == there.failures
    for mine, theirs in zip(listed(there.path)["members"][:2], listed(here.path)["members"], strict=False):
        for name in STABLE:
            assert (there.path / mine["run"] / name).read_bytes() == (here.path / theirs["run"] / name).read_bytes(), (
                name
            )
