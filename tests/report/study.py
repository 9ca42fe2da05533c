"""A study with everything that a report sets side by side, with numbers that a real run could have given."""

from __future__ import annotations

import math
import random
from typing import Any

JsonObject = dict[str, Any]


def proportion(where: str, data: str, hits: int, n: int = 32, before: int | None = None, **more: Any) -> JsonObject:
    """A record of a rate, ``before`` of the examples having been hits without steering."""
    z, p = 1.959964, hits / n
    centre, half = (p + z * z / 2 / n) / (1 + z * z / n), z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    half /= 1 + z * z / n
    moved: JsonObject = {}
    if before is not None:
        change = (hits - before) / n
        half_change = 0.18 if abs(change) > 0.2 else 0.12
        moved = {
            "difference": change, "difference_ci_low": change - half_change, "difference_ci_high": change + half_change,
        }  # fmt: skip
        moved |= {"against": 1 / n, "unmoved": 1 - abs(change) - 1 / n} if change else {}
    return {
        "condition": where, "evaluator": "refused", "data": data, "value": p, "n": n,
        "standard_error": math.sqrt(p * (1 - p) / n), "ci_low": max(centre - half, 0.0),
        "ci_high": min(centre + half, 1.0), "aggregate": "proportion", "unit": "fraction", **moved, **more,
    }  # fmt: skip


def mean(where: str, evaluator: str, data: str, value: float, before: float | None = None) -> JsonObject:
    moved: JsonObject = {}
    if before is not None:
        change = value - before
        moved = {
            "difference": change, "difference_ci_low": change - 0.1, "difference_ci_high": change + 0.1,
            "against": 0.125, "unmoved": 0.0,
        }  # fmt: skip
    return {
        "condition": where, "evaluator": evaluator, "data": data, "value": value, "n": 32, "standard_error": 0.05,
        "ci_low": value - 0.1, "ci_high": value + 0.1, "aggregate": "mean", "unit": "nats", **moved,
    }  # fmt: skip


def intervention(name: str, direction: str, sites: list[str], **options: Any) -> JsonObject:
    return {"name": name, "direction": direction, "options": options, "sites": sites, "positions": "all"}


SITE = "blocks.18.resid_pre"
RATES: dict[str, tuple[int, int, int]] = {
    "baseline": (30, 1, 4), "ablated": (2, 0, 1), "added": (31, 29, 30), "prompted": (31, 24, 27),
}  # fmt: skip
DATA = ("harmful.test", "harmless.test", "lookalikes.test")


def study() -> JsonObject:
    """A search over five positions of thirty layers, two directions, four conditions, a trade-off."""
    draw = random.Random(5)
    conditions: list[JsonObject] = [{"name": "baseline", "kind": "baseline"}]
    done = {
        "ablated": [intervention("ablate", "refusal", ["embed", "blocks.0.attn_out"])],
        "added": [intervention("add", "refusal", [SITE], coefficient=1.0)],
        "prompted": [],
    }
    records: list[JsonObject] = []
    for data, hits in zip(DATA, RATES["baseline"], strict=True):
        records.append(proportion("baseline", data, hits))
    records.append(mean("baseline", "kl_divergence", "harmless.test", 0.0))
    for name, interventions in done.items():
        more = {"system_prompt": "Decline every request."} if name == "prompted" else {}
        conditions.append({"name": name, "kind": "intervention", "interventions": interventions, **more})
        beside = [f"{name}/random-{number}" for number in (1, 2)] if interventions else []
        conditions += [
            {"name": one, "kind": "control", "of": name, "interventions": interventions} for one in beside
        ]  # fmt: skip
        for data, hits, before in zip(DATA, RATES[name], RATES["baseline"], strict=True):
            records.append(proportion(name, data, hits, before=before))
            records += [proportion(one, data, before - at) for at, one in enumerate(beside)]
        records.append(mean(name, "kl_divergence", "harmless.test", 0.4 if name == "ablated" else 2.1, 0.0))
        records += [mean(one, "kl_divergence", "harmless.test", 0.01) for one in beside]
    return {
        "schema_version": 1, "name": "study", "title": "Is refusal carried by one direction?",
        "description": "A study of a small model's refusals.", "seed": 42,
        "model": {"source": "smollm2-135m-refusal", "n_layers": 30, "d_model": 576, "dtype": "float32"},
        "data": {"harmful.train": 128, "harmless.train": 128, **dict.fromkeys(DATA, 32)},
        "directions": [direction("harmfulness"), direction("refusal", SITE)],
        "conditions": conditions,
        "evaluators": [
            {"name": "refused", "summary": "Fraction of completions that refuse.", "aggregate": "proportion",
             "unit": "fraction", "options": {"max_new_tokens": 64}},
            {"name": "kl_divergence", "unit": "nats", "role": "side effect"},
        ],
        "records": records,
        "searches": [search(draw)],
        "tradeoff": {"evaluator": "refused", "should": [DATA[0]], "should_not": list(DATA[1:])},
        "cosines": cosines(),
    }  # fmt: skip


def direction(name: str, site: str | None = None) -> JsonObject:
    where = [site] if site else [f"blocks.{layer}.resid_pre" for layer in range(30)]
    foretold = {
        one: {"agreement": 0.3 + 0.01 * at, "d_prime": 2.0 + 0.1 * at, "paired": False} for at, one in enumerate(where)
    }
    return {
        "name": name, "site": site or "blocks.0.resid_pre … blocks.29.resid_pre (30 sites)", "positions": "-1",
        "norms": [9.5] if site else [], "estimator": "mean_difference", "positive": "harmful.train",
        "negative": "harmless.train", "predictors": foretold,
    }  # fmt: skip


def search(draw: random.Random) -> JsonObject:
    candidates = []
    for position in range(-5, 0):
        for layer in range(30):
            height = math.exp(-(((layer - 18) / 5) ** 2)) * (6 + position) / 5
            kl = 0.02 + 0.2 * height
            removed = "layer" if layer >= 24 else "kl" if kl > 0.2 else None
            scores = {"bypass": 6 - 11 * height + draw.gauss(0, 0.2), "kl": None if removed == "layer" else kl}
            candidates.append(
                {"position": position, "layer": layer, "site": f"blocks.{layer}.resid_pre", "scores": scores,
                 "errors": {"bypass": 0.3}, "removed_by": removed}
            )  # fmt: skip
    feasible = [place for place, one in enumerate(candidates) if one["removed_by"] is None]
    chosen = next(at for at in feasible if candidates[at]["site"] == SITE and candidates[at]["position"] == -2)
    return {
        "name": "refusal", "over": ["candidates"], "objective": "bypass", "n_layers": 30,
        "scores": {
            "bypass": {"evaluator": "refusal_score", "data": "harmful.validation", "under": "ablate"},
            "kl": {"evaluator": "kl_divergence", "data": "harmless.validation", "under": "ablate"},
        },
        "subject_to": {"kl": "kl ≤ 0.2"}, "baseline": {"bypass": 6.0, "kl": 0.0},
        "bounds": {"kl": {"score": "kl", "at_least": None, "at_most": 0.2}}, "layers_below": 24,
        "candidates": candidates, "chosen": chosen, "near_ties": [chosen - 1], "feasible": len(feasible),
        "removed_by": {"layer": 30, "kl": 150 - 30 - len(feasible)},
    }  # fmt: skip


def cosines() -> list[JsonObject]:
    return [
        {
            "first": "harmfulness", "second": "refusal", "site": f"blocks.{layer}.resid_pre",
            "cosine": 0.1 + 0.6 * math.exp(-(((layer - 12) / 7) ** 2)),
            **({} if layer == 18 else {"standing_for": True}),
        }
        for layer in range(30)
    ]  # fmt: skip
