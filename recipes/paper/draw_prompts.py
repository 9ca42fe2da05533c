"""Draw the prompts of the paper on the refusal direction (Arditi et al., 2024, arXiv 2406.11717) as its code does.

    python draw_prompts.py FOLDER [--out prompts]

FOLDER is ``dataset`` of the authors' repository (https://github.com/andyrdt/refusal_direction): it holds
``splits/harmful_train.json`` and the like, and ``processed/jailbreakbench.json`` and ``processed/harmbench_test.json``,
each a list of ``{"instruction": ..., "category": ...}``. What is drawn goes into three files beside this script, which
``--profile paper_prompts`` of the recipes here names: ``harmful.jsonl``, ``harmless.jsonl`` and ``harmbench.jsonl``.

One generator, seeded once with 42, draws 128 harmful and 128 harmless training prompts, then 32 and 32 for validation,
then 100 harmless ones for the test, in this order. Harmful prompts are tested on all of JailbreakBench. Nothing but
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


def read(folder: Path, name: str) -> list[str]:
    """The instructions of a file, in its order."""
    path = folder / f"{name}.json"
    try:
        rows = json.loads(path.read_text("utf-8"))
        return [str(row["instruction"]) for row in rows]
    except (OSError, ValueError, TypeError, KeyError) as error:
        sys.exit(f"{path} can't be read as a list of instructions: {type(error).__name__}: {error}")


def draw(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """``{file: [(part, prompt), ...]}``, as the reference draws them."""
    generator = random.Random(SEED)

    def drawn(name: str, size: int) -> list[str]:
        there = read(folder, f"splits/{name}")
        if len(there) < size:
            sys.exit(f"splits/{name}.json holds {len(there)} prompts, and {size} are drawn from it.")
        return generator.sample(there, size)

    harmful = [("train", one) for one in drawn("harmful_train", TRAIN)]
    harmless = [("train", one) for one in drawn("harmless_train", TRAIN)]
    harmful += [("validation", one) for one in drawn("harmful_val", VALIDATION)]
    harmless += [("validation", one) for one in drawn("harmless_val", VALIDATION)]
    harmless += [("test", one) for one in drawn("harmless_test", TEST)]
    harmful += [("test", one) for one in read(folder, "processed/jailbreakbench")]
    harmbench = [("test", one) for one in read(folder, "processed/harmbench_test")]
    return {"harmful": harmful, "harmless": harmless, "harmbench": harmbench}


def main() -> None:
    """Read the command line, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="dataset, of the authors' repository")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "prompts")
    given = parser.parse_args()
    found = draw(given.folder)
    given.out.mkdir(parents=True, exist_ok=True)
    for name, rows in found.items():
        lines = [json.dumps({"text": text, "part": part}, ensure_ascii=False) + "\n" for part, text in rows]
        (given.out / f"{name}.jsonl").write_text("".join(lines), "utf-8")
        sys.stdout.write(f"{given.out / name}.jsonl: {len(rows)} prompts\n")


if __name__ == "__main__":
    main()
