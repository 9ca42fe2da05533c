"""Evaluator ``activation_cosine``: how like other examples' activations those of the data have become."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict, field_validator

from steerkit.api.hookspecs import EvaluatorSpec, Needs, Options, hookimpl
from steerkit.errors import SteerkitError
from steerkit.types import Positions, SitePattern, parse_sites

STEERKIT_CONTRACT = 2

DataName = Annotated[str, Strict(), Field(min_length=1)]


class ActivationCosineOptions(Options):
    """Options of ``activation_cosine``."""

    like: DataName = Field(
        description="Data reference of the examples with whose unsteered activations those of the data are compared, "
        "as in harmless.validation."
    )
    classes: tuple[DataName, DataName] = Field(
        description="Two data references: layers count on which the unsteered means of these are least alike."
    )
    share: float = Field(default=0.1, gt=0, le=1, description="Share of the layers that count, at least one of them.")
    stream: Literal["resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"] = Field(
        default="resid_post", description="Stream that is read at every layer."
    )
    positions: str = Field(default="-1", description="Tokens of the prompt that are read; of several their mean.")
    combine: Literal["mean", "concatenate"] = Field(
        default="mean",
        description="How the layers that count make one vector: their mean, as in the authors' code, or one behind the "
        "other.",
    )

    @field_validator("positions", mode="before")
    @classmethod
    def _readable(cls, value: object) -> str:
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise ValueError("expected positions such as -1 or post_instruction")
        try:
            positions = Positions.parse(value)
        except SteerkitError as error:
            raise ValueError(str(error)) from error
        if positions.each:
            raise ValueError("these tokens are read together; leave out [*]")
        return str(positions)

    @property
    def sites(self) -> SitePattern:
        """The stream at every layer."""
        found = parse_sites(f"blocks.*.{self.stream}")
        assert isinstance(found, SitePattern)
        return found


def _needs(options: ActivationCosineOptions) -> Needs:
    references = tuple(dict.fromkeys((options.like, *options.classes)))
    return Needs(activations=((str(options.sites), options.positions),), references=references)


@hookimpl
def steerkit_evaluators() -> list[EvaluatorSpec]:
    """Provide ``activation_cosine``."""
    return [
        EvaluatorSpec(
            name="activation_cosine",
            summary="Cosine of mean activations with other examples' unsteered ones, where classes are least alike.",
            implementation="steerkit_evaluators._activation_cosine:ActivationCosine",
            options=ActivationCosineOptions,
            needs=_needs,
        )
    ]
