"""``steerkit bench``: what steering costs on a model of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench_command(
    model: Annotated[
        str, typer.Argument(help="tiny, or a hub id, folder, .gguf file, bundled alias or tiny-random:<type>.")
    ],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    cases: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="idle, add_one, add_all, ablate_all, rank8_ablate_all, rows, gated."),
    ] = None,
    modes: Annotated[
        str | None, typer.Option(metavar="A,B", help="fold, hook; by_hand: three hooks a block, for contrast.")
    ] = None,
    phases: Annotated[str | None, typer.Option(metavar="A,B", help="decode, prefill.")] = None,
    batches: Annotated[str | None, typer.Option(metavar="1,8", help="Rows when decoding.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Pairs of each case; 25 unless --quick.")] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write the results there, with a page and figures beside them.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A look in little time; its ratios mean little.")] = False,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Measure calls under torch.compile with a static cache.")
    ] = False,
    memory: Annotated[bool, typer.Option(help="Measure peak memory, a process for each case.")] = True,
    cold_start: Annotated[bool, typer.Option("--cold-start", help="Time the first steered token too.")] = False,
) -> None:
    """Measure what steering costs: each case beside the plain model in pairs, after a check of its logits."""
    from steerkit.artifacts.files import require_folder
    from steerkit.bench.front import Asked, measure
    from steerkit.bench.models import SHAPES
    from steerkit.errors import ArtifactError

    if json is not None:  # before minutes of measuring
        if json.is_dir():
            raise ArtifactError(
                f"{json} is a folder. Name the file that results are written to: --json {json / 'OUT.json'}."
            )
        require_folder(json.parent, "results", "Choose another --json.")
    asked = Asked(device, dtype, cases, modes, phases, batches, repeats, quick, compiled, memory, cold_start)
    if model not in SHAPES and not compiled:
        _keep_speed(model, device, dtype)
    measure([model], asked, lambda study: json)


def _keep_speed(model: str, device: str, dtype: str) -> None:
    """Measure how fast the model is, and keep it for estimates of time."""
    from steerkit.bench.speed import measure_speed
    from steerkit.bundled import settle_terms
    from steerkit.speed import keep

    settle_terms(model, False)
    typer.echo("measuring how fast the model reads and writes", err=True)
    speed = measure_speed(model, device, dtype)
    typer.echo(f"Plain: {speed.told}.")
    try:
        keep(speed)
    except OSError as error:
        typer.echo(f"It can't be kept for estimates of `steerkit check`: {error}", err=True)
    else:
        typer.echo("Kept: `steerkit check` and runs say by it how long a recipe takes.")
