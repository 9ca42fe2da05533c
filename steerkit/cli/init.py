"""``steerkit init``: a commented recipe with its data files, to begin from."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Final

import typer

from steerkit.cli.placing import chosen_folder, place
from steerkit.errors import DataError, RecipeError

LONGEST: Final = 60
"""Characters of a behaviour."""
PLAIN: Final = "Answer as you always do."
_SAID_OTHERWISE: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""Words that YAML takes for something else."""


def init_command(
    behaviour: Annotated[
        str, typer.Argument(metavar="BEHAVIOUR", help='What you are after, in a noun: warmth, "verse".')
    ],
    model: Annotated[
        str, typer.Option(metavar="SOURCE", help="A hub id, folder, .gguf file, bundled alias or tiny-random:<type>.")
    ] = "smollm2-135m-instruct",
    ask: Annotated[
        str | None, typer.Option(metavar="TEXT", help='How one asks for it; "Answer with BEHAVIOUR." if not given.')
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where to; a folder of the behaviour's name if not given.")
    ] = None,
) -> None:
    """Write a commented recipe and its data files, valid as they are. Never overwrites."""
    files = starter_files(behaviour, model, ask)
    name = next(iter(files)).removesuffix(".yaml")
    _check(files, model)
    folder = chosen_folder(out, name)
    place(folder, files)
    recipe = folder / f"{name}.yaml"
    typer.echo(f"Wrote {recipe} and {len(files) - 1} data files. They are valid as they are; now make them yours:")
    typer.echo(f"  steerkit check {recipe}\n  steerkit run {recipe}")


def starter_files(behaviour: str, model: str, ask: str | None = None) -> dict[str, str]:
    """The files by path, the recipe first.

    Args:
        behaviour: a noun.
        model: ``model.source`` of the recipe. A path that is there is written whole, since those in a recipe are
            relative to it.
        ask: how one asks for the behaviour.

    Raises:
        DataError: for texts that are empty, too long or not of one line.
    """
    behaviour = _line(behaviour, "A behaviour")
    ask = f"Answer with {behaviour}." if ask is None else _line(ask, "What asks for a behaviour")
    name = _name(behaviour)
    folder = resources.files("steerkit.cli").joinpath("starter")
    subjects, questions = (
        folder.joinpath(f"{one}.txt").read_text("utf-8").splitlines() for one in ("subjects", "questions")
    )
    source = str(Path(model).resolve()) if model and Path(model).exists() else model
    told = {
        "description": f"Answers with more or less {behaviour}, by adding one direction to the residual stream.",
        "source": source,
        "prompt": ask,
        "title": f"More {behaviour}, or less",
    }
    quoted = {key: json.dumps(text, ensure_ascii=False) for key, text in told.items()}
    recipe = folder.joinpath("recipe.yaml").read_text("utf-8").format(name=name, behaviour=behaviour, **quoted)
    return {
        f"{name}.yaml": recipe,
        f"data/with_{name}.jsonl": _rows(f"{ask} {one}" for one in subjects),
        f"data/without_{name}.jsonl": _rows(f"{PLAIN} {one}" for one in subjects),
        "data/questions.jsonl": _rows(questions),
    }


def _line(text: str, what: str) -> str:
    line = " ".join(text.split())
    if not line or len(line) > LONGEST or not line.isprintable():
        raise DataError(f"{what} is said in one line of 1 to {LONGEST} characters, such as warmth.")
    return line


def _name(behaviour: str) -> str:
    """What the recipe and its direction are called: the behaviour in plain letters."""
    plain = unicodedata.normalize("NFKD", behaviour).encode("ascii", "ignore").decode()
    name = "_".join(re.findall(r"[a-z0-9]+", plain.lower()))
    if not name[:1].isalpha():
        raise DataError(f"{behaviour!r} gives a recipe no name: begin with one of the letters a to z, such as warmth.")
    return f"{name}_behaviour" if name in _SAID_OTHERWISE else name


def _rows(texts: Iterable[str]) -> str:
    return "".join(f"{json.dumps({'text': text}, ensure_ascii=False)}\n" for text in texts)


def _check(files: dict[str, str], model: str) -> None:
    """Plan the recipe somewhere else: a model that no recipe can have is told before anything is written."""
    from steerkit.catalog import Catalog
    from steerkit.plan import plan_recipe

    with TemporaryDirectory() as folder:
        place(Path(folder), files)
        try:
            plan_recipe(Path(folder) / next(iter(files)), (), Catalog.discover())
        except RecipeError as error:
            said = "; ".join(problem.message.rstrip(".") for problem in error.problems)
            raise DataError(
                f"With the model {model!r} the recipe wouldn't be valid: {said}. Nothing was written."
            ) from None
