"""``docs/scale.md`` and its figure, from results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.scale.models import PAPER
from steerkit.errors import counted

PAGE: Final = Path(__file__).parents[2] / "docs" / "scale.md"
BEGIN: Final = "<!-- what follows is written by `python -m benchmarks.scale` -->\n"
GB: Final = 1e9
Value = Callable[[Mapping[str, Any]], float]


def write_page(found: Mapping[str, Any]) -> None:
    """Write what is generated of the page behind what is written by hand."""
    by_hand = PAGE.read_text("utf-8").partition(BEGIN)[0]
    PAGE.write_text(by_hand + BEGIN + "\n".join(_generated(found)) + "\n", "utf-8")


def _generated(found: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## What the thirteen models of the paper need\n"
    yield (
        "Computed from shapes, in bfloat16, with a batch of 16 rows of 256 tokens; nothing here was measured. Speeds "
        "are what the data sheet's bandwidth and rate allow at best, on one GPU as if it held the model.\n"
    )
    columns = ("model", "parameters", "weights", "keys and values", "a pass", "80 GB GPUs", "placement")
    yield f"| {' | '.join(columns)} | step at best, H100 | prefill at best, H100 |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for one in found["paper"]:
        best, placement = one["at_best"]["H100 80 GB SXM"], _placement(one["gpus"], one["name"])
        yield (
            f"| {one['name']} | {one['parameters'] / GB:.2f} billion | {one['weights'] / GB:.1f} GB | "
            f"{one['cache'] / GB:.2f} GB | {one['work'] / GB:.2f} GB | {one['gpus']} | {placement} | "
            f"{1e3 * best['step_seconds']:.1f} ms ({1 / best['step_seconds']:.0f} tokens/s) | "
            f"{1e3 * best['prefill_seconds']:.0f} ms ({4096 / best['prefill_seconds']:,.0f} tokens/s) |"
        )
    yield from _small(found)
    yield from _gpu(found["gpu"])


def _placement(gpus: int, name: str) -> str:
    """Processes of tensor parallelism share out heads, those for keys and values too, so their number divides them."""
    if gpus == 1:
        return "one device"
    heads = next((one.kv_heads for one in PAPER if one.name == name), gpus)
    processes = next(number for number in range(gpus, heads + 1) if heads % number == 0)
    return f"`device_map: balanced`, or `tensor_parallel: {processes}`"


def _small(found: Mapping[str, Any]) -> Iterator[str]:
    rates = [one["measured"] for one in found["small"]]
    reads, computes = (max(one[key] for one in rates) / GB for key in ("bandwidth", "rate"))
    yield "\n## Held against what was measured\n"
    yield (
        f"Random models in Llama's shape, float32, on one thread of a CPU ({found['machine']['cpu']}) that reads up to "
        f"{reads:.1f} GB/s and computes up to {computes:.0f} GFLOP/s, both measured beside each model. "
        "Memory is what the process grew by. A step is of one row behind 256 tokens, a prefill of 16 × 256.\n"
    )
    yield "| model | weights, measured / computed | a pass | step, measured (at best) | prefill, measured (at best) |"
    yield "|---|---|---|---|---|"
    for one in found["small"]:
        point, ratio, best = one["measured"], one["measured_over_simulated"], one["at_best"]
        yield (
            f"| {one['name']} | {point['weights'] / GB:.2f} / {one['weights'] / GB:.2f} GB ({ratio['weights']:.2f}) | "
            f"{point['peak'] / GB:.2f} / {(one['cache'] + one['work']) / GB:.2f} GB ({ratio['peak']:.2f}) | "
            f"{1e3 * point['step_seconds']:.0f} ms ({1e3 * best['step_seconds']:.0f}; {ratio['step']:.2f}) | "
            f"{point['prefill_seconds']:.1f} s ({best['prefill_seconds']:.1f}; {ratio['prefill']:.2f}) |"
        )


def _gpu(points: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "\n## On a GPU\n"
    if not points:
        yield "Not measured."
        return
    yield "A random model in Llama-3 8B's shape, bfloat16, plain calls (`python -m benchmarks.overhead`):\n"
    yield "| GPU | calls | what | measured |"
    yield "|---|---|---|---|"
    for one in points:
        tokens = one["batch"] * (1 if one["phase"] == "decode" else 256)
        rows = counted(one["batch"], "row")
        what = f"decode step, {rows}" if one["phase"] == "decode" else f"prefill, {rows} of 256 tokens"
        seconds = one["seconds"]
        yield f"| {one['gpu']} | {one['calls']} | {what} | {1e3 * seconds:.1f} ms ({tokens / seconds:,.0f} tokens/s) |"
    yield (
        "\nEager steps are bound by what Python launches, not by memory: at best an H200 would take 3.3 ms for one. "
        "No other model, and no placement over several GPUs, was measured."
    )


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Steps and memory against parameters, both axes logarithmic: lines at best, points as measured."""
    from matplotlib.figure import Figure

    from steerkit.report.svg import CHOSEN, DIRECTION, SERIES, render

    def make() -> Figure:
        figure = Figure(figsize=(9.2, 3.4))
        memory, speed = figure.subplots(1, 2)
        paper, small = found["paper"], found["small"]
        _scatter(memory, paper, lambda one: one["weights"] / GB, ("computed, bfloat16", SERIES[2], "o"))
        _scatter(memory, small, lambda one: one["weights"] / GB, ("computed, float32", DIRECTION, "o"))
        _scatter(memory, small, lambda one: one["measured"]["weights"] / GB, ("measured, float32", CHOSEN, "x"))
        memory.set_ylabel("weights, GB")
        best = "H100 80 GB SXM"
        _scatter(speed, paper, lambda one: 1 / one["at_best"][best]["step_seconds"], ("H100 at best", SERIES[2], "o"))
        _scatter(speed, small, lambda one: 1 / one["at_best"]["step_seconds"], ("this CPU at best", DIRECTION, "o"))
        _scatter(speed, small, lambda one: 1 / one["measured"]["step_seconds"], ("measured here", CHOSEN, "x"))
        speed.set_ylabel("tokens per second, one row")
        for axes in (memory, speed):
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("parameters")
            axes.legend(frameon=False, fontsize=8)
        figure.tight_layout()
        return figure

    path.write_text(render(make), "utf-8")


def _scatter(axes: Any, rows: Sequence[Mapping[str, Any]], value: Value, look: tuple[str, str, str]) -> None:
    label, colour, mark = look
    places = [one["parameters"] for one in rows]
    axes.plot(places, [value(one) for one in rows], mark, color=colour, label=label, markersize=5)
