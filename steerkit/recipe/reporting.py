"""Section ``report``: what is shown beside the numbers."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from steerkit.recipe.section import Section
from steerkit.recipe.values import Count, Names


class SamplesRecipe(Section):
    """Completions that the report shows side by side."""

    data: str = Field(description="data reference of the prompts")
    n: Count = Field(default=6, description="how many prompts, from the start")
    max_new_tokens: Count = Field(default=48, description="length of the completions")


class PublishedRecipe(Section):
    """What a paper chose and measured on a model, to stand beside a run's own."""

    model: str = Field(description="the model's source, as section model names it")
    position: int = Field(description="of the candidate that was chosen")
    layer: int = Field(ge=0, description="of the candidate that was chosen")
    layers: Count = Field(description="how many layers the model has")
    scores: Mapping[str, float] = Field(default_factory=dict, description="its scores, by the names that a search has")


class TradeoffRecipe(Section):
    """Two rates of one evaluator, plotted against each other for every condition."""

    evaluator: str = Field(description="name of an evaluator, or of one of its values")
    should: Names = Field(description="data on which it should be high, one data reference or a list")
    should_not: Names = Field(description="data on which it should be low, one data reference or a list")

    @property
    def sides(self) -> Mapping[str, tuple[str, ...]]:
        """Both keys with their data references."""
        sides = {"should": self.should, "should_not": self.should_not}
        return {key: (one,) if isinstance(one, str) else tuple(one) for key, one in sides.items()}


class ReportRecipe(Section):
    """Section ``report``."""

    samples: SamplesRecipe | None = Field(default=None, description="completions to show")
    separation: bool = Field(default=True, description="whether to measure how each layer separates the classes")
    title: str | None = Field(default=None, description="heading; the name where None")
    published: tuple[PublishedRecipe, ...] = Field(
        default=(), description="what others chose and measured; shown where it is of the model that is run"
    )
    tradeoff: TradeoffRecipe | None = Field(
        default=None, description="one evaluator on data where it should be high, against data where it shouldn't"
    )
    compared_with: str | None = Field(
        default=None,
        description="direction whose cosine with every other one is told; each with each where None",
    )
