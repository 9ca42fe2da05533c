"""A lowered condition as data: what is done to the stream at which places and tokens, for whoever serves a model.

No name of a plugin, no function and no module's path is in it, so an engine that has never heard of an intervention
carries it out. At each place the updates act one after the other:

    x ← x + w(token) · ((x readsᵀ) writes + bias)

with ``w`` the schedule's factor at the update's positions, and 0 elsewhere. ``steerkit.api.program_bytes`` has the
file, ``steerkit.api.program_tokens`` the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from steerkit.types import Positions, Schedule, Site

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.types import Vectors

ALL = Positions("all")


@dataclass(frozen=True)
class ProgramModel:
    """The model that a program was made for.

    Args:
        model_type: of transformers, as in ``llama``.
        n_layers: number of blocks.
        d_model: width of the residual stream.
        source: as the recipe named it, for a reader.
        template_sha256: of the chat template that positions such as ``user[-1]`` were meant in; None where there is
            none, or nobody knows.
    """

    model_type: str
    n_layers: int
    d_model: int
    source: str = ""
    template_sha256: str | None = None


@dataclass(frozen=True, eq=False)
class ProgramUpdate:
    """One low-rank affine update at a place: ``x ← x + w · ((x readsᵀ) writes + bias)``.

    Args:
        site: where it is carried out: ``embed``, ``resid_mid``, ``resid_post``, a writer's contribution, or
            ``blocks.0.resid_pre`` where that isn't the embedding. A later block's input is its predecessor's output.
        reads: ``[rank, width]``, float32 on the CPU; None for rank 0.
        writes: ``[rank, width]``; None for rank 0.
        bias: ``[width]``, or None.
        positions: at which tokens.
        schedule: the factor along generated tokens.
    """

    site: Site
    reads: Vectors | None = None
    writes: Vectors | None = None
    bias: Tensor | None = None
    positions: Positions = ALL
    schedule: Schedule = Schedule()

    @property
    def rank(self) -> int:
        """How many directions it reads; 0: it adds a constant."""
        return 0 if self.reads is None else int(self.reads.shape[0])

    @property
    def is_everywhere(self) -> bool:
        """Whether every token gets all of it, whatever its place in a sequence."""
        return self.positions == ALL and self.schedule.is_constant


@dataclass(frozen=True, eq=False)
class ProgramMonitor:
    """What is read and never edited: ``x·v / ‖v‖`` at a place, after that place's updates.

    Args:
        name: as readings go by.
        vectors: ``{site: [width]}``, of norm 1, float32. With several, a token's reading is the one that goes furthest
            to the threshold's side.
        threshold: what readings are compared with.
        side: a reading crosses where it is ``above`` or ``below``.
        positions: the tokens that are read.
    """

    name: str
    vectors: Mapping[Site, Tensor]
    threshold: float
    side: Literal["above", "below"] = "above"
    positions: Positions = ALL


@dataclass(frozen=True, eq=False)
class Program:
    """A condition, lowered, as data. What it says is checked when it is made, so that a reader needs no second look.

    Args:
        name: as whoever asks for it calls it; no part of what it is.
        model: what it was made for.
        updates: in forward order of their places, and at a place in the order in which they act.
        monitors: what is read.
        system_prompt: what the condition was measured with before every prompt, as text; the updates don't hold it.

    Raises:
        ArtifactError: for tensors of another width than the model's, with NaN or infinite values, for reads without
            writes, a site that the model can't have, or two monitors of one name.
    """

    name: str
    model: ProgramModel
    updates: tuple[ProgramUpdate, ...] = ()
    monitors: tuple[ProgramMonitor, ...] = field(default=())
    system_prompt: str | None = None

    def __post_init__(self) -> None:
        from steerkit.api.program_checks import check_program

        check_program(self)

    @cached_property
    def digest(self) -> str:
        """Hash of what it is, 64 hex digits: the same under any name, and another one for another vector."""
        from hashlib import sha256

        from steerkit.api.program_bytes import program_to_bytes

        unnamed = replace(self, name="program", model=replace(self.model, source=""))
        return sha256(program_to_bytes(unnamed)).hexdigest()

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every place that is edited, in forward order."""
        return tuple(dict.fromkeys(one.site for one in self.updates))

    @property
    def read_at(self) -> tuple[Site, ...]:
        """Every place that a monitor reads."""
        return tuple(dict.fromkeys(site for one in self.monitors for site in one.vectors))

    @property
    def is_everywhere(self) -> bool:
        """Whether what it does to a token doesn't depend on the token's place, so that all requests with it may share
        what was computed of a beginning that they have in common."""
        return all(one.is_everywhere for one in self.updates)

    @property
    def is_constant(self) -> bool:
        """Whether it only adds vectors."""
        return all(one.reads is None for one in self.updates)

    def at(self, site: Site) -> tuple[ProgramUpdate, ...]:
        """What acts at a place, in order."""
        return tuple(one for one in self.updates if one.site == site)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with what it is, for messages; one that stands at several places comes several times."""
        for one in self.updates:
            for part in ("reads", "writes", "bias"):
                value = getattr(one, part)
                if value is not None:
                    yield f"{part} at {one.site}", value
        for monitor in self.monitors:
            for site, vector in monitor.vectors.items():
                yield f"monitor {monitor.name!r} at {site}", vector


__all__ = ["ALL", "Program", "ProgramModel", "ProgramMonitor", "ProgramUpdate"]
