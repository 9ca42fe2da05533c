"""Files of texts that are no prompts, each of which stands for itself: suffixes."""

from __future__ import annotations

from steerkit.errors import SteerkitError
from steerkit.recipe.draft import Draft
from steerkit.recipe.rows import Faults, read_rows
from steerkit.recipe.schema import DatasetRecipe
from steerkit.recipe.studies import TextsFile
from steerkit.recipe.tables import read_table


def read_texts(draft: Draft, written: TextsFile, *, doubtful: bool = False) -> tuple[str, ...]:
    """The texts of a file, as they stand in it: spaces at their ends, and upper and lower case, are part of them.

    Args:
        draft: the recipe that names the file.
        written: which file, and which field of which rows.
        doubtful: whether something of that is lost; then the file is read, and what it holds isn't judged.

    Raises:
        Faults: with everything that is wrong with the file or its rows.
    """
    try:
        rows = read_table(draft.path_of(written.file))
        if doubtful:
            return ()
        named = DatasetRecipe(
            file=written.file, field=written.field, where=written.where, duplicates=written.duplicates
        )
        found = read_rows(written.file, rows, named, alike=lambda example: example.text)
    except SteerkitError as error:
        raise Faults((str(error), None)) from error
    return tuple(example.text for (example,) in found)
