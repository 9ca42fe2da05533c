"""``steerkit select``: choose a candidate from a table of scores, as a search does, without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from steerkit import columns
from steerkit.cli.paths import required
from steerkit.columns import print_table
from steerkit.errors import NoCandidateError, SelectionError, UnknownNameError, agreeing, counted, nearest

if TYPE_CHECKING:
    from steerkit.selection import Candidate, Rule, Selection


_USUAL: Final = "arditi2024"


def select_command(
    scores: Annotated[
        Path,
        typer.Argument(
            parser=required,
            metavar="SCORES.json",
            help="A list of {position, layer, <scores of the preset>}, as {position, layer, refusal_score, "
            "steering_score, kl_div_score}; refusal_score_se and coefficient may stand beside them. Or a run's "
            "candidates-<search>.json, which is chosen from by that search's own rule.",
        ),
    ],
    layers: Annotated[
        int | None,
        typer.Option("--layers", metavar="N", help="How many layers the model has; a run's own table knows it."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="The rule to choose by: the run's own for its table, else arditi2024."),
    ] = None,
    near_tie: Annotated[
        float,
        typer.Option(
            "--near-tie", metavar="X", help="What is this close to the winner is a near-tie, without refusal_score_se."
        ),
    ] = 0.1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Choose a candidate from a table of scores. Exit code 3 where no candidate meets the constraints."""
    from steerkit.selection import PRESETS, read_table, rule_of_table, select

    if preset is not None and preset not in PRESETS:
        raise UnknownNameError(f"Unknown preset {preset!r}. {nearest(preset, PRESETS, 'preset')}")
    own = None if preset is not None and layers is not None else rule_of_table(scores)
    if layers is None:
        layers = own.n_layers if own is not None else None
    if layers is None:
        raise SelectionError("How many layers does the model have? Say it with --layers N: bounds on layers need it.")
    if layers < 1:
        raise SelectionError(f"A model has at least one layer, not {layers}: give its number as --layers.")
    if not near_tie >= 0:
        raise SelectionError(f"--near-tie is a distance, a number from 0 up, not {near_tie}.")
    rule = own.rule if preset is None and own is not None else PRESETS[preset or _USUAL]
    chosen = select(read_table(scores, rule), rule, layers, near_tie=near_tie)
    if as_json:
        typer.echo(json.dumps(_as_json(chosen, rule), indent=2, allow_nan=False))
    else:
        _print(chosen, rule)
    if chosen.winner is None:
        raise NoCandidateError(chosen.why_none(rule))


def _as_json(chosen: Selection, rule: Rule) -> dict[str, Any]:
    winner = chosen.winner
    return {
        "position": None if winner is None else winner.position,
        "layer": None if winner is None else winner.layer,
        **({} if winner is None else _coefficient(winner)),
        "near_ties": [_row(one, rule) for one in chosen.near_ties],
        "feasible": chosen.feasible,
        "removed_by": dict(chosen.removed_by),
    }


def _row(one: Candidate, rule: Rule) -> dict[str, float]:
    return {
        "position": one.position,
        "layer": one.layer,
        **_coefficient(one),
        **{name: one.scores[name] for name in rule.aims},
    }


def _coefficient(one: Candidate) -> dict[str, float]:
    """The coefficient, where the table has any."""
    return {} if one.coefficient is None else {"coefficient": one.coefficient}


def _print(chosen: Selection, rule: Rule) -> None:
    console = columns.console()
    if chosen.winner is not None:
        listed = [("winner", chosen.winner), *(("near-tie", tie) for tie in chosen.near_ties)]
        times = ["coefficient"] if any(one.coefficient is not None for _, one in listed) else []
        rows = []
        for label, one in listed:
            shown = ["" if one.coefficient is None else f"{one.coefficient:g}" for _ in times]
            scores = [f"{one.scores[name]:.3f}" for name in rule.scores]
            rows.append((label, str(one.position), str(one.layer), *shown, *scores))
        head = ("", "position", "layer", *times, *rule.scores)
        print_table(console, "", head, rows, right=range(1, len(head)))
    console.print(
        f"{chosen.feasible} of {counted(chosen.candidates, 'candidate')} {agreeing(chosen.feasible)} feasible.",
        markup=False,
    )
    says = rule.says()
    for name, count in chosen.removed_by.items():
        if count:
            console.print(f"  {count} removed by {name}, which asks for {says[name]}", markup=False)
