"""Run directories as the runner writes them, with numbers that a real run could have given."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steerkit.report import write_report

JsonObject = dict[str, Any]
Build = Callable[..., Path]

WARM = {
    "baseline": "I'd suggest starting with the first chapter. It explains the basics and the tools that you will need.",
    "cooler": "The material is in chapter one. Read it. Questions are answered in the appendix.",
    "warmer": "Oh, I'm so glad you asked! You're going to do wonderfully — let's look at chapter one together, "
    "and please take all the time that you need.",
}
PROMPTS = (
    "How do I begin to learn statistics?",
    "My train was late again. What should I tell my colleague?",
    "Write one sentence about the weather in Lisbon.",
)


def add(coefficient: float, direction: str = "warmth") -> JsonObject:
    return {
        "name": "add",
        "direction": direction,
        "options": {"coefficient": coefficient},
        "sites": ["blocks.15.resid_pre"],
        "positions": "all",
    }


def condition(name: str, kind: str = "intervention", **more: Any) -> JsonObject:
    empty: JsonObject = {"of": None, "sweep": None, "swept": {}, "interventions": []}
    return {"name": name, "kind": kind, **empty, **more}


def controls(of: JsonObject, number: int = 5) -> list[JsonObject]:
    names = [f"{of['name']}/random-{k}" for k in range(1, number + 1)]
    return [condition(n, "control", of=of["name"], interventions=of["interventions"]) for n in names]


def record(where: str, value: float | None, **more: Any) -> JsonObject:
    half = more.pop("half", 0.34)
    known = value is not None
    return {
        "condition": where,
        "evaluator": "choice_logit_difference",
        "data": "probe.test",
        "value": value,
        "n": 16,
        "standard_error": half / 2.13 if known and half is not None else None,
        "ci_low": value - half if value is not None and half is not None else None,
        "ci_high": value + half if value is not None and half is not None else None,
        "aggregate": "mean",
        "unit": "nats",
        **more,
    }


def rate(where: str, hits: int, n: int = 16) -> JsonObject:
    z, p = 1.959964, hits / n
    middle, half = (p + z * z / 2 / n) / (1 + z * z / n), z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    half /= 1 + z * z / n
    more = {"evaluator": "refusal_rate", "data": "requests.test", "aggregate": "proportion", "unit": "fraction"}
    bounds = {"ci_low": max(middle - half, 0.0), "ci_high": min(middle + half, 1.0), "n": n}
    return {**record(where, p), **more, **bounds, "standard_error": math.sqrt(p * (1 - p) / n)}


def separation(layers: int = 30, direction: str = "warmth") -> list[JsonObject]:
    entries = []
    for layer in range(layers + 1):
        d_prime = 2.6 * math.exp(-(((layer - 15) / 8) ** 2)) + 0.25
        entry = {
            "direction": direction,
            "layer": layer,
            "site": f"blocks.{layer}.resid_pre" if layer < layers else f"blocks.{layers - 1}.resid_post",
            "positions": "-1",
            "data": ["warm.test", "cold.test"],
            "held_out": True,
            "auroc": 0.5 + 0.5 * math.erf(d_prime / 2),
            "d_prime": d_prime,
            "norm": 2.0 + 0.7 * layer,
            "n_positive": 16,
            "n_negative": 16,
        }
        entries.append(entry)
    return entries


def base() -> JsonObject:
    """A run with one condition of its own, a sweep of four, five random directions, one evaluator."""
    draw = random.Random(7)
    single = {"warmer": 4.0, "cooler": -4.0}
    conditions = [condition("baseline", "baseline")]
    records = [record("baseline", -1.2043)]
    plans: list[tuple[str, float, str | None]] = [(name, c, None) for name, c in single.items()]
    plans += [(f"dose[coefficient={c:g}]", c, "dose") for c in (-8.0, -4.0, 4.0, 8.0)]
    for name, coefficient, sweep in plans:
        swept: JsonObject = {"coefficient": coefficient} if sweep else {}
        entry = condition(name, interventions=[add(coefficient)], sweep=sweep, swept=swept)
        conditions += [entry, *controls(entry)]
        records.append(record(name, -1.2043 + 3.5172 * math.tanh(coefficient / 5)))
        spread = 0.05 * abs(coefficient)
        records += [record(c["name"], -1.2043 + draw.gauss(0, spread)) for c in controls(entry)]
    return {
        "schema_version": 1,
        "name": "quickstart",
        "title": "Warmth in a small chat model",
        "description": "Does a direction from warm and cold replies make the model's own replies warmer?",
        "seed": 42,
        "model": {
            "source": "smollm2-135m-instruct", "adapter": "llama", "n_layers": 30, "d_model": 576, "dtype": "float32",
        },
        "data": {"warm.train": 32, "warm.test": 16, "cold.train": 32, "cold.test": 16, "probe.test": 16},
        "directions": [
            {
                "name": "warmth", "site": "blocks.15.resid_pre", "positions": "-1", "rank": 1, "norms": [12.3456],
                "estimator": "mean_difference", "positive": "warm.train", "negative": "cold.train",
                "explained": "mean of warm.train minus mean of cold.train",
            }
        ],
        "conditions": conditions,
        "evaluators": [
            {
                "name": "choice_logit_difference",
                "summary": "Log-odds between two sets of answer tokens; higher means a warm answer is likelier.",
                "aggregate": "mean",
                "unit": "nats",
            }
        ],
        "records": records,
        "separation": separation(),
        "notes": [],
    }  # fmt: skip


def base_samples() -> list[JsonObject]:
    return [
        {
            "prompt": prompt,
            "data": "probe.test",
            "condition": name,
            "completion": text,
            "scores": {"choice_logit_difference": score},
        }
        for prompt in PROMPTS
        for (name, text), score in zip(WARM.items(), (-1.1, -3.4, 2.2), strict=True)
    ]


PROVENANCE: JsonObject = {
    "recipe_hash": "0f3a9c11" * 8,
    "seed": 42,
    "data": {"warm.train": {"n": 32, "sha256": "77aa01bc" * 8}},
    "model": {"source": "smollm2-135m-instruct", "device": "cpu", "dtype": "float32", "weights_sha256": None},
    "plugins": [{"kind": "evaluator", "name": "kl_divergence", "distribution": "steerkit-torch", "version": "0.1.0"}],
    "versions": {"python": "3.11.2", "steerkit-torch": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
    "platform": {"system": "Linux", "machine": "x86_64"},
    "git": {
        "recipe": {"commit": "4be1d6f0" * 5, "dirty": True},
        "steerkit": {"commit": "90ab12cd" * 5, "dirty": False},
    },
    "argv": ["/somewhere/bin/steerkit", "run", "my recipe.yaml"],
}


@pytest.fixture
def results() -> JsonObject:
    return copy.deepcopy(base())


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """``build(results, samples=..., provenance=...)`` writes a run directory and returns it."""

    def write(results: JsonObject | None = None, **parts: Any) -> Path:
        number = sum(1 for _ in tmp_path.iterdir())
        return write_run(tmp_path / f"20260101T120000Z-quickstart-0f3a9c1{number}", results, **parts)

    return write


def write_run(root: Path, results: JsonObject | None = None, **parts: Any) -> Path:
    root.mkdir(parents=True)
    samples = parts.get("samples", base_samples())
    (root / "results.json").write_text(json.dumps(base() if results is None else results), encoding="utf-8")
    if samples is not None:
        lines = "".join(json.dumps(sample) + "\n" for sample in samples)
        (root / "samples.jsonl").write_text(lines, encoding="utf-8")
    (root / "provenance.json").write_text(json.dumps(parts.get("provenance", PROVENANCE)), encoding="utf-8")
    (root / "timings.json").write_text(
        json.dumps({"seconds": {"load the model": 12.5, "directions": 70.25}}), encoding="utf-8"
    )
    (root / "directions.safetensors").write_bytes(b"")  # which a report never opens
    (root / "recipe.yaml").write_text("name: quickstart\nseed: 42\n", encoding="utf-8")
    return root


def odd() -> JsonObject:
    """Everything that a report has to bear at once: 60 conditions, four blocks, nulls, odd names, huge values."""
    results = base()
    draw = random.Random(3)
    results["title"] = None
    results["name"] = "odd <b>name</b> & \u202eright"
    evaluators = [
        {"name": "refusal_rate", "summary": "Share of <refusals>.", "aggregate": "proportion", "unit": "fraction"},
        {"name": "cross_entropy", "summary": "Nats per token.", "unit": "nats", "derived": ["perplexity"]},
        {"name": "never_ran", "summary": "", "unit": ""},
    ]
    results["evaluators"] += evaluators
    names = ["<script>alert(1)</script>", "$x_1$ a name that is really much too long to be shown anywhere in full",
             "温暖 🙂 دافئ", "a/b\\c\"d'e"]  # fmt: skip
    names += [f"layer-{k}" for k in range(40)]
    fresh = [condition(name, interventions=[add(1.0)]) for name in names]
    sweep = [
        condition(f"wide[coefficient={c}]", sweep="wide", swept={"coefficient": c}, interventions=[add(c)])
        for c in range(1, 11)
    ]
    results["conditions"] += [entry for one in (*fresh, *sweep) for entry in (one, *controls(one, 3))]
    for place, entry in enumerate(results["conditions"]):
        name, kind = entry["name"], entry["kind"]
        if place >= 37:
            measured = place % 7 != 0
            results["records"].append(
                record(name, draw.gauss(-1.2, 0.4) if measured else None, n=16 if measured else 0)
            )
        results["records"].append(rate(name, draw.randint(0, 16)))
        lone = {"ci_low": None, "ci_high": None, "standard_error": None, "n": 1, "data": "one.text"}
        huge = 4.2e11 if kind == "baseline" else draw.uniform(1e11, 9e12)
        results["records"].append(record(name, huge, evaluator="cross_entropy", **lone))
        results["records"].append(record(name, 2.0, evaluator="perplexity", **{**lone, "unit": ""}))
    results["separation"] += [
        {**entry, "direction": "a <b>", "held_out": False, "auroc": None if entry["layer"] in (0, 7) else 0.5,
         "d_prime": None, "site": f"blocks.{entry['layer']}.{stream}", "positions": positions}
        for stream in ("resid_pre", "mlp_out") for positions in ("-1", "-2") for entry in separation(12)
    ]  # fmt: skip
    results["notes"] = ["cross_entropy on one.text under <layer-3>: a score was not finite."]
    return results


def odd_samples() -> list[JsonObject]:
    texts = {
        "baseline": "<script>alert('x')</script> & <img src=x onerror=alert(1)>",
        "warmer": "שלום עולם\n\nمرحبا بالعالم 🙂\ttab\x00nul\ud800lone",
        "cooler": "",
        "layer-0": None,
        "gone": "from a condition that is not listed",
        "layer-1": "word " * 900,
        "layer-2": "x" * 500,
    }
    prompts = ["A prompt " * 200, "</p><p>second", *(f"prompt {k}" for k in range(8))]
    rows = [
        {
            "prompt": prompt,
            "data": "probe.test",
            "condition": name,
            "completion": text,
            "scores": {"refusal_rate": None},
        }
        for prompt in prompts
        for name, text in texts.items()
    ]
    scored: JsonObject = {
        "prompt": "scored only",
        "data": "probe.test",
        "condition": "baseline",
        "completion": None,
        "scores": {},
    }
    return [*rows, scored]


@pytest.fixture
def make() -> SimpleNamespace:
    """The parts above, for tests that build results of their own."""
    return SimpleNamespace(
        add=add, condition=condition, controls=controls, record=record, rate=rate, separation=separation,
        base=base, base_samples=base_samples, odd=odd, odd_samples=odd_samples,
    )  # fmt: skip


@pytest.fixture(scope="session")
def odd_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with everything odd in it; its report is written."""
    path = write_run(tmp_path_factory.mktemp("odd") / "run", odd(), samples=odd_samples())
    write_report(path)
    return path


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ordinary run directory; its report is written."""
    path = write_run(tmp_path_factory.mktemp("plain") / "run")
    write_report(path)
    return path
