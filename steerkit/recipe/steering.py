"""Sections on what is steered and what is watched: directions, conditions with all that is in them, monitors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from steerkit.recipe.section import Section, excess, lacking, require_one_side
from steerkit.recipe.values import (
    Names,
    PositionsText,
    ScheduleValue,
    SitesList,
    SitesText,
    SiteText,
    Sweep,
    SystemPrompt,
)


class DirectionRecipe(Section):
    """One direction: estimated from classes of prompts, or read from a file.

    An estimator of labelled classes takes any number of them, as ``classes``, in the place of ``positive`` and
    ``negative``. Beside ``file`` stand ``site`` and ``positions`` where the file itself doesn't say them, the
    ``convention`` where its format has several, and ``options`` of the format.
    """

    estimator: str | None = Field(default=None, description="name of an estimator plugin")
    positive: str | None = Field(default=None, description="prompts that show the behaviour, as in warm.train")
    negative: str | None = Field(default=None, description="prompts that don't: the reference")
    classes: Mapping[str, str] | None = Field(
        default=None, description="for an estimator of labelled classes, prompts by label, as in {verse: verse.train}"
    )
    site: SitesText | None = Field(
        default=None,
        description="where it is read: blocks.14.resid_pre, or several sites, as in blocks.*.resid_pre; not needed "
        "where the estimator chooses its own",
    )
    positions: PositionsText = Field("-1", description="at which tokens it is read")
    options: Mapping[str, Any] = Field(
        default_factory=dict, description="options of the estimator, or of the file's format"
    )
    file: str | None = Field(default=None, min_length=1, description="a saved direction, relative to the recipe")
    format: str | None = Field(default=None, description="format of the file, where more than one could be meant")
    convention: str | None = Field(
        default=None, description="whose numbering of layers the file follows, where its format has several"
    )

    @model_validator(mode="after")
    def _whole(self) -> DirectionRecipe:
        sides = ("positive", "negative")
        needed = ("estimator", *(sides if self.classes is None else ()), "site")
        if self.file is not None:
            own = ("estimator", *sides, "classes")
            extra = [name for name in own if getattr(self, name) not in (None, {})]
            if extra:
                raise excess(f"a direction from a file has its own {' and '.join(extra)}; remove them", extra)
            return self
        for name in ("format", "convention"):
            if getattr(self, name) is not None:
                raise excess(f"{name} is for a direction from a file; remove it", (name,))
        if self.classes is not None:
            given = [name for name in sides if getattr(self, name) is not None]
            if given:
                raise excess(f"classes take the place of positive and negative; remove {' and '.join(given)}", given)
            if len(self.classes) < 2:
                raise lacking("expected two classes or more", ("classes",))
        missing = [name for name in needed if getattr(self, name) is None]
        # Whether it is the estimator that chooses sites is known where its plugin is.
        if missing and missing != ["site"]:
            # What was meant as classes would take the place of both sides.
            instead = ["classes"] if set(sides) <= set(missing) else []
            raise lacking(
                f"expected {', '.join(missing)} as well (or file: for a saved direction)", [*missing, *instead]
            )
        return self


class GateRecipe(Section):
    """A condition on the stream under which an intervention acts. See ``steerkit.api.intervention.Gate``."""

    direction: str = Field(description="name of the direction that the stream is projected on")
    above: float | None = Field(default=None, description="it acts where the projection is above this number")
    below: float | None = Field(default=None, description="it acts where the projection is below this number")
    site: SiteText | None = Field(default=None, description="where it is read; the direction's own site where None")
    at: Literal["token", "prompt"] = Field(default="token", description="whether tokens decide, or the prompt")
    positions: PositionsText | None = Field(default=None, description="with at: prompt, the tokens that are read: last")
    prepass: bool = Field(default=False, description="with at: prompt, whether an unsteered pass decides in advance")

    @model_validator(mode="after")
    def _one_side(self) -> GateRecipe:
        require_one_side(self)
        return self

    @model_validator(mode="after")
    def _for_prompts(self) -> GateRecipe:
        given = [name for name in ("positions", "prepass") if getattr(self, name) not in (None, False)]
        if given and self.at == "token":
            raise lacking(f"{' and '.join(given)} can be given only with at: prompt", ("at",))
        return self


class CalibrationRecipe(Section):
    """How a monitor's threshold is set: by the false alarms that it may give on examples that should not be flagged."""

    data: str = Field(description="data reference of examples that are not to be flagged, as in harmless.validation")
    false_alarms: float = Field(ge=0, lt=1000, description="how many of 1,000 of them may be flagged")
    side: Literal["above", "below"] = Field(default="above", description="on which side of the threshold is flagged")


class MonitorRecipe(Section):
    """One monitor of section ``monitors``: what reads the stream and never edits it."""

    direction: str = Field(description="name of the direction that the stream is projected on")
    above: float | None = Field(default=None, description="a reading crosses where it is above this number")
    below: float | None = Field(default=None, description="a reading crosses where it is below this number")
    calibrate: CalibrationRecipe | None = Field(
        default=None, description="in the place of a number: by its false alarms on some prompts without any condition"
    )
    sites: SitesList | None = Field(
        default=None, description="where it is read, sites or patterns; the direction's own site where None"
    )
    positions: PositionsText = Field(default="all", description="at which tokens it is read")

    @model_validator(mode="after")
    def _one_side(self) -> MonitorRecipe:
        sides = ("above", "below")
        if self.calibrate is None:
            require_one_side(self)
        elif given := [name for name in sides if getattr(self, name) is not None]:
            raise excess(f"calibrate sets the threshold; remove {given[0]}", given)
        return self


class InterventionRecipe(Section):
    """One intervention of a condition."""

    plugin: str = Field(description="name of an intervention; written as the key that the others stand below")
    direction: Names | None = Field(
        default=None, description="name of a direction, or a list of as many as the plugin takes"
    )
    sites: SitesList | None = Field(default=None, description="where it acts; the plugin's choice where None")
    positions: PositionsText = Field(default="all", description="at which tokens it acts")
    schedule: ScheduleValue | None = Field(default=None, description="factor on the change at each generated token")
    gate: GateRecipe | None = Field(default=None, description="condition on the stream under which it acts")
    options: Mapping[str, Any] = Field(
        default_factory=dict, description="the intervention's own, written among these keys"
    )

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions that it names."""
        if self.direction is None:
            return ()
        return (self.direction,) if isinstance(self.direction, str) else self.direction


class ConditionRecipe(Section):
    """One condition, or a family of them where there is a sweep: interventions, a system prompt, or both."""

    interventions: tuple[InterventionRecipe, ...] = Field(default=(), description="list of interventions")
    system_prompt: SystemPrompt | None = Field(
        default=None, description="system message of every prompt, in the place of the model's and of an example's own"
    )
    mode: Literal["auto", "fold", "hook", "interpret"] = Field(
        default="auto", description="how it is lowered; fold: into weights and biases where that is exact"
    )
    sweep: Sweep | None = Field(default=None, description="one option and its values")
    control: bool = Field(default=True, description="whether random directions are run beside it")

    @model_validator(mode="after")
    def _not_empty(self) -> ConditionRecipe:
        if not self.interventions and self.system_prompt is None:
            raise lacking(
                "expected a list of interventions, a system_prompt, or both", ("interventions", "system_prompt")
            )
        if not self.interventions and self.mode != "auto":
            raise excess("mode says how interventions are lowered, and there are none; remove it", ("mode",))
        return self
