"""The shapes of the scale study, and what is said of them."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from benchmarks.scale.__main__ import _compared, gpu_points
from benchmarks.scale.models import MEASURED, PAPER, Sized
from benchmarks.scale.page import _generated
from benchmarks.scale.points import Point
from benchmarks.scale.simulate import GPUS, Machine, Simulated, simulate

PUBLISHED = {"Qwen 1.8B": 1.84, "Gemma 2B": 2.51, "Llama-2 7B": 6.74, "Llama-3 8B": 8.03, "Yi 6B": 6.06}
"""Billions of parameters, as the models' own pages have them."""


def small() -> Sized:
    return next(one for one in MEASURED if one.name == "random 31M")


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_are_those_of_the_models(name: str) -> None:
    sized = next(one for one in PAPER if one.name == name)
    count = sum({id(one): one.numel() for one in sized.empty(torch.bfloat16).parameters()}.values())
    assert count / 1e9 == pytest.approx(PUBLISHED[name], abs=0.006)


def test_all_thirteen_are_there() -> None:
    assert len(PAPER) == len({one.name for one in PAPER}) == 13


def test_a_step_reads_each_weight_once_and_a_prefill_computes_each_product() -> None:
    found, sized = simulate(small(), "float32", rows=2, columns=16), small()
    matrices = found.parameters - sized.vocabulary * sized.width  # the embedding is looked up
    norms = (2 * sized.layers + 1) * sized.width
    cache = 2 * sized.layers * sized.kv_heads * (sized.width // sized.heads) * 4
    assert found.cache == 2 * 16 * cache
    assert found.step_bytes == pytest.approx(4 * matrices + 16 * cache, rel=1e-4)
    # Scores of 17 tokens by heads, and what they weigh: two products.
    attention = sized.layers * 2 * 2 * 17 * sized.width
    assert found.step_operations == pytest.approx(2 * (matrices - norms) + attention, rel=1e-6)
    head = 2 * 2 * sized.vocabulary * sized.width
    blocks = 2 * (matrices - norms) - head // 2
    assert found.prefill_operations == pytest.approx(
        2 * 16 * blocks + head + sized.layers * 2 * 2 * 2 * 16 * 16 * sized.width
    )


def test_the_slower_of_memory_and_arithmetic_decides() -> None:
    found = Simulated(
        1, 1000, 0, 0, step_bytes=1000, step_operations=10, prefill_operations=10**6, gpus=1, shared_out=None
    )
    machine = Machine("m", bandwidth=100.0, rate=1000.0, memory=1.0, source="made up")
    assert found.step_seconds(machine) == 10.0 and found.prefill_seconds(machine) == 1000.0


def test_the_page_tells_what_was_computed_from_what_was_measured() -> None:
    made = simulate(small(), "float32", rows=2, columns=16)
    point = Point("random 31M", made.weights * 2, made.cache + made.work, 0.5, 1.0, 1e9, 1e10)
    compared = _compared("random 31M", made, point)
    assert compared["measured_over_simulated"]["weights"] == 2.0 and compared["measured_over_simulated"]["peak"] == 1.0
    best = {one.name: {"step_seconds": 0.01, "prefill_seconds": 0.1} for one in GPUS}
    found = {
        "machine": {"cpu": "a CPU"},
        "small": [compared],
        "paper": [{"name": "Large", **asdict(made), "gpus": 2, "at_best": best}],
        "gpu": [],
    }
    text = "\n".join(_generated(found))
    assert "| Large | 0.03 billion |" in text and "`device_map: balanced`, or `tensor_parallel: 2`" in text
    assert "nothing here was measured" in text and "(2.00)" in text and "Not measured." in text


def test_kept_figures_of_a_gpu_are_found() -> None:
    found = gpu_points()
    assert {one["calls"] for one in found} == {"eager", "compiled"} and all(one["seconds"] > 0 for one in found)
