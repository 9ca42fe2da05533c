"""Sections of a recipe that study one thing by itself, beside its conditions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from steerkit.recipe.section import Section
from steerkit.recipe.values import Count


class SuffixesRecipe(Section):
    """One study of section ``suffixes``: what texts behind the user's turn do to a direction. Nothing is steered."""

    direction: str = Field(description="name of a direction at one site, or of a search")
    prompts: str = Field(description="data reference of the prompts that suffixes are put behind, as in harmful.test")
    reference: str | None = Field(
        default=None, description="data reference of prompts to compare with, as in harmless.test"
    )
    suffixes: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = Field(
        description="texts that are put behind the last turn of the user, as they stand, each by itself"
    )
    random: int = Field(default=1, ge=0, le=20, description="random suffixes of as many tokens beside each")
    heads: int = Field(default=8, ge=0, le=64, description="how many heads are shown; 0: none are looked at")
    n: Count | None = Field(default=None, description="how many prompts of each, from the start; all where None")
