"""What pages show, as tests run it: their code, recipes and commands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from steerkit.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
IDS = [path.relative_to(ROOT).as_posix() for path in PAGES]
_TINY = (("smollm2-135m-instruct", "tiny-random:llama"), ("smollm2-135m-refusal", "tiny-random:llama"))


def blocks(page: Path) -> list[tuple[str, str]]:
    """Each fenced block of a page, as its kind and its text."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def of_kind(page: Path, kind: str) -> list[str]:
    """The blocks of one kind."""
    return [text for found, text in blocks(page) if found == kind]


def commands(page: Path) -> list[str]:
    """The command lines that a page shows."""
    lines = [line for text in of_kind(page, "") for line in text.splitlines()]
    return [line for line in lines if line.startswith(("make ", "steerkit "))]


def tiny(text: str) -> str:
    """The same with a tiny model in place of the bundled one, whose blocks are few."""
    for said, other in _TINY:
        text = text.replace(said, other)
    return re.sub(r"(?<=blocks\.)(\d+)", lambda found: str(min(int(found[0]), 1)), text).replace(
        "head_out[5]", "head_out[1]"
    )


def data_files(folder: Path) -> None:
    """Data files as the texts around the recipes describe them."""
    shutil.copytree(ROOT / "recipes" / "data", folder / "data")
    caa = [{"question": f"Is {n} odd?", "matching": f"Yes, {n} is.", "other": f"No, {n} isn't."} for n in range(80)]
    turns = [[{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"{n}"}] for n in range(8)]
    talks = [{"turns": one, "tone": "polite" if n % 2 else "rude"} for n, one in enumerate(turns)]
    for name, rows in (("caa", caa), ("talks", talks)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def require_commands(lines: Iterable[str]) -> set[str]:
    """Fail for a command or an option that doesn't exist; return the commands."""
    seen = set()
    for line in lines:
        words = line.partition("#")[0].split()
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE), line
            continue
        assert words[1] in COMMANDS, line
        seen.add(words[1])
        assert all(word in _help(words[1]) for word in words if word.startswith("--")), line
    return seen


@cache
def _help(command: str) -> str:
    asked = [sys.executable, "-m", "steerkit", command, "--help"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
