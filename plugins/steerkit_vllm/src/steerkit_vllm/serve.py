"""``python -m steerkit_vllm.serve MODEL --program NAME=FILE ...``: vLLM's OpenAI-compatible server, steered.

Every other argument is vLLM's own, and so are the endpoints.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steerkit.errors import SteerkitError
from steerkit_vllm.starting import folder_of

_HELP: Final = """vLLM's OpenAI-compatible server with steering: requests name a program in the field "steer", and are
served in one batch with plain ones. All other arguments are vLLM's (--vllm-help lists them)."""


@dataclass(frozen=True)
class Own:
    """What is asked of this server and not of vLLM.

    Args:
        programs: names and files, loaded before the first request.
        most: how many programs there is room for.
        folder: from which further ones may be loaded.
        uploads: whether a client may send one.
    """

    programs: tuple[tuple[str, Path], ...] = ()
    most: int = 16
    folder: Path | None = None
    uploads: bool = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until somebody stops it."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        own, rest = own_arguments(given)
        from steerkit_vllm.server import run

        run(own, rest)
    except SteerkitError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None


def own_arguments(given: Sequence[str]) -> tuple[Own, list[str]]:
    """Ours, and what is left for vLLM.

    Raises:
        SteerkitError: for ours that are wrong.
    """
    parser = argparse.ArgumentParser(prog="python -m steerkit_vllm.serve", description=_HELP, allow_abbrev=False)
    parser.add_argument(
        "model", metavar="MODEL", help="as vllm serve MODEL, or a model in steerkit's cache, as in recipes"
    )
    parser.add_argument("--program", action="append", default=[], metavar="NAME=FILE", help="load a program at start")
    parser.add_argument("--max-programs", type=int, default=16, metavar="K", help="room for so many programs (16)")
    parser.add_argument("--program-folder", type=Path, metavar="FOLDER", help="clients may load files from here")
    parser.add_argument("--program-uploads", action="store_true", help="clients may send programs")
    parser.add_argument("--vllm-help", action="store_true", help="vLLM's own arguments")
    if "--vllm-help" in given:
        return Own(), ["--help"]
    told, rest = parser.parse_known_args(list(given))
    if told.max_programs < 1:
        raise SteerkitError(f"--max-programs is a number from 1 up, not {told.max_programs}.")
    if told.program_folder is not None and not told.program_folder.is_dir():
        raise SteerkitError(f"--program-folder {told.program_folder} is no folder.")
    programs = tuple(_named(text) for text in told.program)
    if len(programs) > told.max_programs:
        raise SteerkitError(f"{len(programs)} programs are named, and --max-programs has room for {told.max_programs}.")
    return Own(programs, told.max_programs, told.program_folder, told.program_uploads), [
        *_model(told.model, rest),
        *rest,
    ]


def _model(source: str, rest: Sequence[str]) -> list[str]:
    """vLLM's arguments for a model; one of steerkit's cache is served under its name in recipes."""
    where = folder_of(source)
    named = any(one.startswith(("--served-model-name", "--served_model_name")) for one in rest)
    return ["--model", where, *([] if where == source or named else ["--served-model-name", source])]


def _named(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not equals or not name or not file:
        raise SteerkitError(f"--program {text!r}: write NAME=FILE, as in --program warm=warm.program.safetensors.")
    return name, Path(file).expanduser()


if __name__ == "__main__":
    main()
