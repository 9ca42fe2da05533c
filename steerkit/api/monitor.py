"""A monitor reads the stream and never edits it: a number per token, and whether it crosses a threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import Literal, TypeAlias

from steerkit.api.direction import Direction
from steerkit.api.showing import brief
from steerkit.errors import AttachError, PositionError, nearest
from steerkit.types import FROM_TOKEN, Positions, Site, as_sites


@dataclass(frozen=True, eq=False)
class Monitor:
    """Where the stream is read, along what, and from where on that is worth telling.

    A reading is the projection ``x·v / ‖v‖`` at a site, after that site's own updates, in units of the stream. With
    several sites a token's reading is that of the site which goes furthest to the threshold's side.

    Args:
        name: as recipes and results call it.
        direction: of rank 1. Of one at several sites each vector is read along at its own; ``sites`` says at which.
        threshold: what readings are compared with.
        side: a reading crosses where it is ``above`` or ``below`` the threshold.
        sites: where it is read; None for the direction's own.
        positions: the tokens that are read, of the prompt and of what follows it.
    """

    name: str
    direction: Direction
    threshold: float
    side: Literal["above", "below"] = "above"
    sites: tuple[Site, ...] | None = None
    positions: Positions = Positions("all")

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise AttachError(f"A monitor's name is a text that readings go by, not {self.name!r}.")
        if not isinstance(self.direction, Direction):
            raise AttachError(
                f"Monitor {self.name!r} reads along one steerkit.Direction, not a {type(self.direction).__name__}."
            )
        if self.side not in ("above", "below"):
            hint = nearest(self.side, ("above", "below"), "side")
            raise AttachError(f"Monitor {self.name!r} is 'above' or 'below' its threshold, not {self.side!r}. {hint}")
        number: object = self.threshold
        if not isinstance(number, (int, float)) or isinstance(number, bool) or not isfinite(number):
            raise AttachError(f"The threshold of monitor {self.name!r} is a finite number, not {self.threshold!r}.")
        object.__setattr__(self, "positions", Positions.parse(self.positions))
        if self.positions.role == FROM_TOKEN:
            raise PositionError(f"Monitor {self.name!r}: '{self.positions}' can be steered, not read; write 'all'.")
        if self.sites is not None:
            object.__setattr__(self, "sites", tuple(as_sites(self.sites)))
            if not self.sites:
                raise AttachError(f"Monitor {self.name!r} has no site; leave sites out for the direction's own.")
        elif not self.direction.is_single:
            raise AttachError(
                f"Monitor {self.name!r} takes a direction at one site, and {self.direction.name!r} has vectors at "
                f"{self.direction.describe()}. Name the sites to read: sites=[{str(self.direction.sites[0])!r}], or "
                f"sites=direction.sites for all of them."
            )
        for site in self.read_at:
            vectors = self.direction.vectors if self.direction.is_single else self.direction.at(site).vectors
            if vectors.shape[0] != 1 or not 0 < float(vectors.detach().norm()) < float("inf"):
                raise AttachError(
                    f"Monitor {self.name!r} needs one finite vector that isn't zero at each site; direction "
                    f"{self.direction.name!r} has none at {site}."
                )

    def __repr__(self) -> str:
        return brief(self)

    @property
    def read_at(self) -> tuple[Site, ...]:
        """The sites at which it is read."""
        return self.sites if self.sites is not None else (self.direction.site,)

    def crosses(self, value: float) -> bool:
        """Whether a reading lies on the threshold's far side. NaN, which wasn't read, doesn't."""
        return value > self.threshold if self.side == "above" else value < self.threshold

    def furthest(self, values: tuple[float, ...]) -> float:
        """Of several readings the one that goes furthest to its side; NaN where there is none."""
        read = [value for value in values if value == value]
        if not read:
            return nan
        return max(read) if self.side == "above" else min(read)

    def __str__(self) -> str:
        where = ", ".join(map(str, self.read_at))
        return (
            f"{self.name}: {self.direction.name} {self.side} {self.threshold:g} at {where}, positions {self.positions}"
        )


@dataclass(frozen=True)
class Readings:
    """What a monitor read of one row.

    Args:
        values: one per token that its positions name. NaN for a token that no pass has read yet: the last one of a
            completion that its length ended.
        places: which tokens these are, counted from the start of the prompt.
        prompt_tokens: how many tokens the prompt has, so that ``places`` from there on are the completion's.
        peak: the one that goes furthest to the threshold's side; NaN where nothing was read.
        crossed: whether any crosses the threshold.
    """

    values: tuple[float, ...]
    places: tuple[int, ...]
    prompt_tokens: int
    peak: float
    crossed: bool

    def __repr__(self) -> str:
        return brief(self)

    @classmethod
    def of(cls, monitor: Monitor, values: tuple[float, ...], places: tuple[int, ...], prompt_tokens: int) -> Readings:
        """The readings of a row, judged by their monitor."""
        peak = monitor.furthest(values)
        return cls(values, places, prompt_tokens, peak, monitor.crosses(peak))


FinishReason: TypeAlias = Literal["end_token", "stop_string", "length", "stopped"]
"""Why a completion ends where it ends."""


@dataclass(frozen=True)
class Completion:
    """What a model wrote behind a prompt, and what monitors read meanwhile.

    Args:
        text: without special tokens.
        token_ids: up to and without the end token.
        readings: by the monitors' names.
        finish_reason: why it ends there: ``end_token``, ``stop_string`` (which is the end of the text), ``length``, or
            ``stopped`` by another criterion, such as a limit of time. None where nobody noted it.
    """

    text: str
    token_ids: tuple[int, ...]
    readings: Mapping[str, Readings] = field(default_factory=dict)
    finish_reason: FinishReason | None = None

    def __repr__(self) -> str:
        return brief(self)

    @property
    def crossed(self) -> bool:
        """Whether any monitor's threshold was crossed."""
        return any(one.crossed for one in self.readings.values())


@dataclass(frozen=True)
class TokenEvent:
    """A token of a completion, told while it is being written.

    Args:
        prompt: which of the prompts it answers, counted from 0.
        sequence: which of that prompt's completions it belongs to, where ``num_return_sequences`` asks for several.
        token_id: the token. The end token is told too, and is no part of the completion.
        text: the completion so far, without special tokens, as far as its characters are complete: never half of one.
            With the last event, and no sooner, it is the whole, but for a character in the midst of which it ended.
        added: what came to ``text`` by this token; empty where a character or a blank is still waited for.
        readings: by the monitors' names, of all tokens before this one, which no pass has read yet.
        finish_reason: with the last token of a completion why it ends there, as of ``Completion``; None before.
        completion: with the last token the whole completion; None before.
    """

    prompt: int
    sequence: int
    token_id: int
    text: str
    added: str
    readings: Mapping[str, Readings] = field(default_factory=dict)
    finish_reason: FinishReason | None = None
    completion: Completion | None = None

    def __repr__(self) -> str:
        return brief(self)

    @property
    def crossed(self) -> bool:
        """Whether any monitor's threshold was crossed so far."""
        return any(one.crossed for one in self.readings.values())
