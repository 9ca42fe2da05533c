"""Draw the prompts of the paper on the refusal direction (Arditi et al., 2024, arXiv 2406.11717) as its code does.

    python draw_prompts.py FOLDER [--out prompts]

FOLDER is ``dataset`` of the authors' repository (https://github.com/andyrdt/refusal_direction): it holds
``splits/harmful_train.json`` and the like, and ``processed/jailbreakbench.json`` and ``processed/harmbench_test.json``,
each a list of ``{"instruction": ..., "category": ...}``. What is drawn goes into three files beside this script, which
``--profile paper_prompts`` of the recipes here names: ``harmful.jsonl``, ``harmless.jsonl`` and ``harmbench.jsonl``.

One generator, seeded once with 42, draws 128 harmful and 128 harmless training prompts, then 32 and 32 for validation,
then 100 harmless ones for the test, in this order. Harmful prompts are tested on JailbreakBench and HarmBench, on all
that aren't drawn for training or validation too: numbers of those would not be held out. (One prompt of JailbreakBench
is a training prompt of this draw but for a capital letter, and the reference measures it all the same.) Nothing but
Python is needed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

SEED = 42
TRAIN, VALIDATION, TEST = 128, 32, 100


Drawn = dict[str, list[tuple[str, str]]]
"""``{file: [(part, prompt), ...]}``."""


def read(folder: Path, name: str) -> list[str]:
    """The instructions of a file, in its order. Ends the script where there are none."""
    path = folder / f"{name}.json"
    try:
        rows = json.loads(path.read_text("utf-8"))
    except OSError as error:
        sys.exit(f"{path} can't be read ({error.strerror}): name the folder `dataset` of the authors' repository.")
    except ValueError as error:
        sys.exit(f"{path} is not JSON ({error}): get the authors' repository again.")
    found = (
        [row.get("instruction") if isinstance(row, dict) else None for row in rows] if isinstance(rows, list) else []
    )
    if not found or not all(isinstance(one, str) and one.strip() for one in found):
        sys.exit(f'{path} is no list of {{"instruction": a text}}: get the authors\' repository again.')
    return found


def draw(folder: Path) -> Drawn:
    """Prompts as the reference draws them."""
    generator = random.Random(SEED)

    def drawn(name: str, size: int) -> list[str]:
        there = read(folder, f"splits/{name}")
        if len(there) < size:
            held = "1 prompt" if len(there) == 1 else f"{len(there)} prompts"
            sys.exit(f"splits/{name}.json holds {held}, and {size} are drawn from it.")
        return generator.sample(there, size)

    harmful = [("train", one) for one in drawn("harmful_train", TRAIN)]
    harmless = [("train", one) for one in drawn("harmless_train", TRAIN)]
    harmful += [("validation", one) for one in drawn("harmful_val", VALIDATION)]
    harmless += [("validation", one) for one in drawn("harmless_val", VALIDATION)]
    harmless += [("test", one) for one in drawn("harmless_test", TEST)]
    harmful += [("test", one) for one in read(folder, "processed/jailbreakbench")]
    harmbench = [("test", one) for one in read(folder, "processed/harmbench_test")]
    return {"harmful": harmful, "harmless": harmless, "harmbench": harmbench}


def held_out(found: Drawn) -> tuple[Drawn, int]:
    """Without tests on what was drawn for training or validation, and how many these were. Prompts that differ in
    capitals and spaces alone are one, as they are where recipes are checked."""

    def alike(prompt: str) -> str:
        return " ".join(prompt.casefold().split())

    seen = {alike(prompt) for rows in found.values() for part, prompt in rows if part != "test"}
    kept = {
        name: [(part, prompt) for part, prompt in rows if part != "test" or alike(prompt) not in seen]
        for name, rows in found.items()
    }
    return kept, sum(map(len, found.values())) - sum(map(len, kept.values()))


def main() -> None:
    """Read the command line, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="dataset, of the authors' repository")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "prompts")
    given = parser.parse_args()
    found, left_out = held_out(draw(given.folder))
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        for name, rows in found.items():
            lines = [json.dumps({"text": text, "part": part}, ensure_ascii=False) + "\n" for part, text in rows]
            (given.out / f"{name}.jsonl").write_text("".join(lines), "utf-8")
            sys.stdout.write(f"{given.out / name}.jsonl: {len(rows)} prompts\n")
    except OSError as error:
        sys.exit(f"{given.out} can't be written ({error.strerror}): name another folder with --out.")
    if left_out:
        sys.stdout.write(f"Test prompts left out, since they are drawn for training or validation too: {left_out}\n")


if __name__ == "__main__":
    main()
