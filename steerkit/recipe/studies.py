"""Sections of a recipe that study one thing by itself, beside its conditions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from steerkit.recipe.problems import INTERNAL
from steerkit.recipe.section import Section, lacking
from steerkit.recipe.values import Count, Where

_SUFFIXES = (
    "texts that are put behind the last turn of the user, as they stand, each by itself, or {file: suffixes.txt}"
)


class TextsFile(Section):
    """A file of texts, one a row, each of which stands for itself."""

    file: str = Field(min_length=1, description="path, relative to the recipe")
    field: str | None = Field(default=None, min_length=1, description="field that holds the text")
    where: Where | None = Field(default=None, description="which rows, as in {method: GCG}")
    duplicates: Literal["error", "drop"] = Field(default="error", description="what to do about texts that come twice")


class SuffixesRecipe(Section):
    """One study of section ``suffixes``: what texts behind the user's turn do to a direction. Nothing is steered."""

    direction: str = Field(description="name of a direction at one site, or of a search")
    prompts: str = Field(description="data reference of the prompts that suffixes are put behind, as in harmful.test")
    reference: str | None = Field(
        default=None, description="data reference of prompts to compare with, as in harmless.test"
    )
    suffixes: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] | None = Field(
        default=None, description=_SUFFIXES
    )
    suffixes_file: TextsFile | None = Field(default=None, json_schema_extra=INTERNAL)
    random: int = Field(default=1, ge=0, le=20, description="random suffixes of as many tokens beside each")
    heads: int = Field(default=8, ge=0, le=64, description="how many heads are shown; 0: none are looked at")
    n: Count | None = Field(default=None, description="how many prompts of each, from the start; all where None")

    @model_validator(mode="after")
    def _some(self) -> SuffixesRecipe:
        if self.suffixes is None and self.suffixes_file is None:
            raise lacking(f"required: {_SUFFIXES}", ("suffixes",))
        return self
