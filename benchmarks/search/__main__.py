"""The search over candidates against the literal protocol, in one process.

    python -m benchmarks.search [--model smollm2-135m-refusal] [--full | --quick] [--json]

Three ways over the same candidates and the same 32 + 32 validation prompts: the literal protocol, an exhaustive search
(every cell of the table) and a pruned one (the winner and everything that decides it). By default 3 positions × 10
layers; ``--full`` takes every position behind the instruction at every layer, which takes the literal protocol 20 to 60
minutes. The extraction of all directions from 128 + 128 prompts is compared in the same way.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmarks.measure import RESULTS, machine, pin
from benchmarks.search.literal import Cell, Literal
from benchmarks.showing import Far
from steerkit.api.direction import Direction
from steerkit.api.hookspecs import Needs, Options
from steerkit.catalog import Catalog
from steerkit.engine.reading.capture import capture
from steerkit.engine.reading.requests import each_position
from steerkit.engine.searching.scorers import Choice, Probe
from steerkit.engine.searching.search import CandidateSearch, Searched, Stage
from steerkit.selection import ARDITI_2024, Candidate, select
from steerkit.session import ablate, add, load_model
from steerkit.session.model import LiveModel
from steerkit.shipped import shipped_folder
from steerkit.types import Example, Positions, Site
from steerkit_evaluators._kl_divergence import KlDivergence
from steerkit_evaluators._refusal_score import RefusalScore
from steerkit_evaluators.kl_divergence import KlDivergenceOptions
from steerkit_evaluators.refusal_score import RefusalScoreOptions

T = TypeVar("T")

POSITIONS, LAYERS = 3, 10
REFUSAL_TOKENS = ("I", "Sorry", "Unfortunately", "No")  # the organism's, as its recipe names them
WAYS = ("literal", "exhaustive", "pruned")
Place = tuple[int, int]


def prompts(name: str) -> list[str]:
    """The study's prompts of a class, in the order of the file."""
    folder = shipped_folder()
    assert folder is not None
    path = folder / "data" / "refusal_study" / f"{name}.jsonl"
    return [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]


@dataclass(frozen=True)
class Took:
    """Seconds by the wall clock, and of the process's CPU, which other work on the machine doesn't lengthen."""

    wall: float
    cpu: float

    def __truediv__(self, other: Took) -> Took:
        return Took(self.wall / other.wall, self.cpu / other.cpu)


def timed(work: Callable[[], T]) -> tuple[T, Took]:
    """What some work gives, and the time that it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, Took(time.perf_counter() - wall, time.process_time() - cpu)


def probes(live: LiveModel, tokens: Sequence[int], harmful: Sequence[str], harmless: Sequence[str]) -> list[Probe]:
    """The scores of the published rule."""
    refusal_options, kl_options = RefusalScoreOptions(tokens=tuple(tokens)), KlDivergenceOptions()
    refusal, kl = RefusalScore(refusal_options, live.vocabulary), KlDivergence(kl_options, live.vocabulary)
    bad, good = tuple(map(Example.of, harmful)), tuple(map(Example.of, harmless))
    logits, compared = Needs(next_token_logits=True), Needs(next_token_logits=True, baseline=True)
    within, far = limits("refusal_score", refusal_options, live), limits("kl_divergence", kl_options, live)
    return [
        Probe("refusal_score", refusal, logits, "harmful", bad, lambda one: (ablate(one),), within),
        Probe("steering_score", refusal, logits, "harmless", good, lambda one: (add(one),), within),
        Probe("kl_div_score", kl, compared, "harmless", good, lambda one: (ablate(one),), far),
    ]


def limits(evaluator: str, options: Options, live: LiveModel) -> tuple[float, float]:
    """Between which values an evaluator says that its scores lie."""
    told = Catalog.discover().get("evaluator", evaluator).limits
    assert told is not None
    return told(options, live.vocabulary.size)


def extract(live: LiveModel, classes: Sequence[Sequence[str]], positions: Sequence[Positions]) -> list[Any]:
    """Means of both classes at every position and layer, by the engine."""
    sites = [Site("resid_pre", layer) for layer in range(live.layout.n_layers)]
    return [capture(live, list(texts), sites, positions, progress=False) for texts in classes]


def searched(live: LiveModel, choices: Sequence[Choice], scores: Sequence[Probe], *, exhaustive: bool) -> Searched:
    """One search, with nothing kept from another."""
    return CandidateSearch(live, scores, ARDITI_2024, exhaustive=exhaustive).run(choices)


def chosen(rows: Sequence[tuple[Place, dict[str, float], str | None]], n_layers: int) -> Place | None:
    """What the published rule takes."""
    names = ARDITI_2024.scores
    table = [
        Candidate(*place, {name: scores.get(name, math.nan) for name in names}, removed_by=failed)
        for place, scores, failed in rows
    ]
    winner = select(table, ARDITI_2024, n_layers).winner
    return None if winner is None else (winner.position, winner.layer)


def spread(items: Sequence[T], count: int) -> list[T]:
    """So many items, spread evenly, the first and the last among them."""
    if count >= len(items):
        return list(items)
    return [items[round(at * (len(items) - 1) / (count - 1))] for at in range(count)]


def mean_differences(
    means: Sequence[Tensor], places: Sequence[int], positions: Sequence[int], layers: Sequence[int]
) -> dict[Place, Tensor]:
    """The difference of the classes' means ``[position, layer, d_model]`` at each place where there is any."""
    found = {
        (position, layer): (means[0] - means[1])[places.index(position), layer].float()
        for position in positions
        for layer in layers
    }
    # A template's token that is the same in every prompt tells nothing before the first block.
    return {place: vector for place, vector in found.items() if float(vector.norm()) > 1e-6}


def study(model: str, *, full: bool, quick: bool = False) -> dict[str, Any]:
    """Measure all three."""
    far_along, (n_train, n_validation) = Far("search"), (16, 4) if quick else (128, 32)
    far_along.say("loading the model")
    live = load_model(model, dtype="float32", device="cpu")
    harmful, harmless = prompts("harmful"), prompts("harmless")
    train = harmful[:n_train], harmless[:n_train]
    validation = harmful[128 : 128 + n_validation], harmless[128 : 128 + n_validation]
    tokens = sorted({live.vocabulary.token_id(text) for text in REFUSAL_TOKENS})
    literal = Literal(live.model, live.tokenizer, tokens)
    everywhere = each_position(live, train, Positions.parse("post_instruction[*]"))
    places = [one.indices[0] for one in everywhere]
    # Once each before the clock runs, so that neither pays for what the first pass sets up.
    literal.mean_activations(train[0][:8], places)
    extract(live, [train[0][:8]], everywhere)
    means, literal_extraction = timed(lambda: [literal.mean_activations(texts, places) for texts in train])
    ours, our_extraction = timed(lambda: extract(live, train, everywhere))
    far = max(
        float((ours[side][Site("resid_pre", layer), where].mean - means[side][at, layer]).abs().max())
        for side in (0, 1)
        for at, where in enumerate(everywhere)
        for layer in range(live.layout.n_layers)
    )
    layers = list(range(live.layout.n_layers)) if full else spread(range(live.layout.n_layers), LAYERS)
    positions = places if full else spread(places, POSITIONS)
    if quick:
        positions, layers = positions[-1:], spread(layers, 3)
    directions = mean_differences(means, places, positions, layers)
    choices = [
        Choice(position, Site("resid_pre", layer), Direction(vector[None], Site("resid_pre", layer), position, "d"))
        for (position, layer), vector in directions.items()
    ]
    scores = probes(live, tokens, *validation)
    # The literal protocol reads every validation prompt for every candidate, three times; ours take less.
    a_prompt = literal_extraction.wall / (2 * n_train)
    far_along.expect(2 * a_prompt * len(directions) * 3 * n_validation)
    far_along.say(f"{len(directions)} candidates by the literal protocol")
    cells, by_literal = timed(lambda: literal.sweep(directions, *validation))
    far_along.say("the same, exhaustive")
    exhaustive, by_exhaustive = timed(lambda: searched(live, choices, scores, exhaustive=True))
    far_along.say("the same, pruned")
    pruned, by_pruned = timed(lambda: searched(live, choices, scores, exhaustive=False))
    took = {"literal": by_literal, "exhaustive": by_exhaustive, "pruned": by_pruned}
    took |= {"extraction_literal": literal_extraction, "extraction": our_extraction}
    return {
        **_compared(live, cells, exhaustive, pruned),
        **_times(took),
        "max_abs_mean_difference": far,
        "candidates": len(directions),
        "ms_per_cell": {name: 1000 * took[name].wall / len(directions) for name in WAYS},
        "stages": [asdict(stage) for stage in pruned.stages],
        **_by_counts(pruned.stages, len(directions), (took["literal"] / took["pruned"]).wall),
        "shortcuts_refused": list(pruned.notes),
        "model": model,
        "full": full,
        "prompts": n_validation,
    }


def _times(took: Mapping[str, Took]) -> dict[str, Any]:
    """Seconds of each way and how many times as fast as the literal one ours are, by the wall clock and by CPU time."""
    literals = {"exhaustive": "literal", "pruned": "literal", "extraction": "extraction_literal"}
    faster = {name: took[literal] / took[name] for name, literal in literals.items()}
    return {
        **{f"{name}_s": one.wall for name, one in took.items()},
        **{f"speedup_{name}": one.wall for name, one in faster.items()},
        "cpu": {
            **{f"{name}_s": one.cpu for name, one in took.items()},
            **{f"speedup_{name}": one.cpu for name, one in faster.items()},
        },
    }


def _by_counts(stages: Sequence[Stage], candidates: int, speedup: float) -> dict[str, float]:
    """What the filters leave to do: the share of candidates that reach a pass under ablation, how many times as fast
    that alone would be (the literal protocol asks for three scores of every candidate), and ours against it."""
    ablated = max(stage.asked for stage in stages if stage.name != "steering_score")
    bound = 3 * candidates / max(1, sum(stage.asked for stage in stages))
    return {"share_ablated": ablated / candidates, "bound_by_counts": bound, "speedup_against_bound": speedup / bound}


def _compared(live: LiveModel, cells: Sequence[Cell], exhaustive: Searched, pruned: Searched) -> dict[str, Any]:
    names = ARDITI_2024.scores
    places = [(cell.position, cell.layer) for cell in cells]
    tables = {
        "literal": [
            (place, {n: getattr(cell, n) for n in names}, None) for place, cell in zip(places, cells, strict=True)
        ],
        "exhaustive": [(place, dict(one.scores), None) for place, one in zip(places, exhaustive.scored, strict=True)],
        "pruned": [(place, dict(one.scores), one.failed) for place, one in zip(places, pruned.scored, strict=True)],
    }
    winners = {name: chosen(rows, live.layout.n_layers) for name, rows in tables.items()}
    differences = [
        abs(one.scores[name] - getattr(cell, name))
        for found in (exhaustive, pruned)
        for cell, one in zip(cells, found.scored, strict=True)
        for name in one.scores
    ]
    return {
        "same_winner": len(set(winners.values())) == 1,
        "winner": winners,
        "max_abs_score_difference": max(differences),
        "table": [asdict(cell) for cell in cells],
    }


def _ratio(found: dict[str, Any], name: str) -> str:
    ratio = f"speedup_{name}"
    return f"{found[ratio]:.1f} times as fast ({found['cpu'][ratio]:.1f} by CPU time)"


def main() -> None:
    """Measure, print, and keep a full run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-refusal")
    parser.add_argument("--full", action="store_true", help="every position and layer")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; one pinned thread if not given")
    parser.add_argument("--quick", action="store_true", help="a look: few candidates and prompts, nothing kept")
    asked = parser.parse_args()
    if asked.full and asked.quick:
        parser.error("--full and --quick exclude each other")
    if asked.threads is None:
        pin()
    else:
        torch.set_num_threads(asked.threads)
    found = study(asked.model, full=asked.full, quick=asked.quick)
    path = RESULTS / f"search-cpu{'-full' if asked.full else ''}.json"
    if not asked.quick:
        path.write_text(json.dumps({"machine": machine(), **found}, indent=1) + "\n", "utf-8")
    if asked.json:
        print(json.dumps({name: value for name, value in found.items() if name != "table"}))
        return
    print(f"{found['candidates']} candidates, {found['prompts']} + {found['prompts']} prompts")
    for name in WAYS:
        ratio = "" if name == "literal" else f", {_ratio(found, name)}"
        print(f"{name:<11}{found[f'{name}_s']:8.1f} s, {found['ms_per_cell'][name]:7.0f} ms a candidate{ratio}")
    for stage in found["stages"]:
        print(f"  pruned, {stage['name']}: {stage['asked']} asked, {stage['alive']} alive, {stage['seconds']:.1f} s")
    print(
        f"  {found['share_ablated']:.0%} of the candidates reached a pass under ablation; by these counts alone "
        f"{found['bound_by_counts']:.1f} times as fast, of which it is {found['speedup_against_bound']:.1f}"
    )
    print(f"same winner: {found['same_winner']} {found['winner']}")
    print(f"largest difference of a score: {found['max_abs_score_difference']:.1e}")
    print(f"extraction: {_ratio(found, 'extraction')}, means to {found['max_abs_mean_difference']:.1e}")
    if not asked.quick:
        print(path)


if __name__ == "__main__":
    main()
