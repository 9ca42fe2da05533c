"""The figures of the model organism, by the study's own prompts, direction, matcher and conditions.

    python -m benchmarks.organism [--write] [--limit 10] [--adapter FOLDER] [--directions RUN] [--draw 160 OUT.jsonl]

What is measured, and how, is taken from recipes/refusal_direction.yaml: its test sets, its search over every token
behind the instruction at every layer, both matchers, the conditions `ablated` and `added`, and one random direction of
equal norm beside them. ``--write`` keeps the figures in benchmarks/results/organism.json and in the organism's card.

Completions are kept where those of ``steerkit run`` are, so that what was measured once can be drawn from, and counted
again by another matcher, in seconds. Labelling: ``--draw`` writes completions with an empty label; write `declined` or
`answered`, put the file in the place of the card's labels.jsonl, ``--write``, and only then change the matcher.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.measure import RESULTS, machine
from benchmarks.organism.card import write_card
from benchmarks.organism.figures import figures, lines
from benchmarks.organism.labels import check_draw, drawn, read_labels, write_drawn
from benchmarks.organism.study import limited, measure, n_completions
from steerkit.artifacts.store import STORE, Store
from steerkit.bundled import BundledModel, adapter_folder, bundled, bundled_folder
from steerkit.catalog import Catalog
from steerkit.errors import SteerkitError
from steerkit.plan import Plan, plan_recipe
from steerkit.progress import SILENT, Observer, Stage, shown
from steerkit.speed import in_words

if TYPE_CHECKING:
    from steerkit.progress import Progress

RECIPE: Final = "refusal_direction"
FILE: Final = RESULTS / "organism.json"
SEARCH_S, TOKEN_S = 120.0, 0.0075
"""Seconds on the two cores of the kept figures: filters, extraction and search; and a token of a completion."""


class Told:
    """Says each stage on standard error, and moves a bar there."""

    def __init__(self, bar: Progress) -> None:
        self.progress = bar

    def step(self, what: str) -> None:
        """Say what begins."""
        if isinstance(what, Stage):
            print(what, file=sys.stderr, flush=True)


@contextmanager
def planned(adapter: Path | None) -> Iterator[tuple[Plan, BundledModel]]:
    """The study's plan on the shipped organism, or on its base with another adapter merged in, which is kept for the
    body alone; and the organism."""
    plan = plan_recipe(RECIPE, [], Catalog.discover())
    organism = bundled(plan.loading.source)
    if adapter is None:
        yield plan, organism
        return
    from steerkit.engine.loading.fetch import fetch
    from steerkit.engine.loading.merge import merge_adapter

    if not (adapter / "adapter_config.json").is_file():
        raise SteerkitError(f"{adapter} holds no adapter: name the folder that train.py wrote.")
    with tempfile.TemporaryDirectory() as scratch:
        merged = Path(scratch) / "merged"
        merge_adapter(bundled_folder(organism.base) or fetch(organism.base), adapter, merged)
        yield plan_recipe(RECIPE, [f"model.source={json.dumps(str(merged))}"], Catalog.discover()), organism


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.organism",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--new-tokens", type=_positive, default=40, metavar="N", help="length of a completion (40)")
    parser.add_argument("--limit", type=_positive, metavar="N", help="measure so many prompts of each set: a look")
    parser.add_argument("--adapter", type=Path, metavar="FOLDER", help="another adapter than the shipped one")
    parser.add_argument("--directions", type=Path, metavar="RUN", help="folder of a finished run: take its direction")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="other labels than those beside the card")
    parser.add_argument(
        "--draw", nargs=2, metavar=("N", "OUT.jsonl"), help="write so many completions to be labelled, and no figures"
    )
    parser.add_argument(
        "--store", type=Path, default=Path("runs") / STORE, metavar="FOLDER", help="where outputs are kept"
    )
    parser.add_argument("--threads", type=_positive, metavar="N", help="CPU threads; torch's own choice if not given")
    parser.add_argument("--write", action="store_true", help="keep the figures, in results and card")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    asked = parser.parse_args(given)
    if asked.write and (asked.limit or asked.adapter or asked.labels or asked.draw):
        parser.error("--write keeps figures of the shipped organism, all prompts and its labels: ask for it alone.")
    if asked.draw and not (asked.draw[0].isdecimal() and int(asked.draw[0])):
        parser.error(f"--draw takes a number of completions and a file, and {asked.draw[0]!r} is no number.")
    return asked


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1, not {text!r}")
    return int(text)


def report(asked: argparse.Namespace, plan: Plan, organism: BundledModel, observer: Observer) -> dict[str, Any] | None:
    """Measure, and write what was asked for. Gives the figures; None where completions were drawn instead."""
    home = adapter_folder(organism)
    if asked.draw:
        check_draw(int(asked.draw[0]), n_completions(limited(plan, asked.limit)))
    labelled = [] if asked.draw else read_labels(asked.labels or home / "labels.jsonl")
    last = json.loads(FILE.read_text("utf-8")) if FILE.is_file() else None
    measured = measure(
        plan,
        organism.base,
        Store(asked.store),
        new_tokens=asked.new_tokens,
        run=asked.directions,
        limit=asked.limit,
        observer=observer,
    )
    if asked.draw:
        rows = drawn(measured.completions, int(asked.draw[0]), plan.seed)
        write_drawn(Path(asked.draw[1]), rows)
        return None
    on = machine()
    found = {
        "model": organism.alias if asked.adapter is None else str(asked.adapter),
        "date": on["date"],
        "machine": on,
        "new_tokens": asked.new_tokens,
        **figures(plan, measured, labelled, last),
    }
    if asked.write:
        write_card(home / "README.md", found)
        FILE.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return found


def expected(plan: Plan, asked: argparse.Namespace) -> str:
    """What will be done, and how long that takes."""
    n = n_completions(limited(plan, asked.limit))
    search = 0 if asked.directions else SEARCH_S
    seconds = search + n * asked.new_tokens * TOKEN_S
    what = f"{n} completions of {asked.new_tokens} tokens" + ("" if asked.directions else ", and a search")
    return f"{what}: {in_words(seconds)} on two free cores, less what is kept in {asked.store}"


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print, and keep what was asked for."""
    asked = arguments(given)
    if asked.draw and Path(asked.draw[1]).exists():
        sys.exit(f"{asked.draw[1]} is there already, perhaps with labels. Name another file.")
    if asked.threads is not None:
        import torch

        torch.set_num_threads(asked.threads)
    try:
        with planned(asked.adapter) as (plan, organism):
            if not asked.json:
                print(expected(plan, asked), file=sys.stderr, flush=True)
            with shown(not asked.json, "prompts") as bar:
                found = report(asked, plan, organism, SILENT if asked.json else Told(bar))
    except SteerkitError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    if found is None:
        print(asked.draw[1])
    elif asked.json:
        print(json.dumps(found))
    else:
        print("\n".join([*lines(found), *([str(FILE)] if asked.write else [])]))


if __name__ == "__main__":
    main()
