"""Whether a program fits the model that is served, said before a worker is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerkit.api.program import Program
from steerkit.api.program_tokens import needs_turns, require_served
from steerkit.errors import PositionError
from steerkit.types import Positions
from steerkit_vllm.errors import Unfit


def positions_of(program: Program) -> tuple[Positions, ...]:
    """All kinds of positions that a program edits or reads at."""
    found = (*(one.positions for one in program.updates), *(one.positions for one in program.monitors))
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Served:
    """What is served.

    Args:
        model_type: of transformers.
        n_layers: number of blocks.
        d_model: width of the stream.
        places: the sites that the workers have prepared.
        has_turns: whether requests can tell where the turns of a conversation lie.
    """

    model_type: str
    n_layers: int
    d_model: int
    places: frozenset[str]
    has_turns: bool = True

    @classmethod
    def of(cls, states: Sequence[Mapping[str, Any]], *, has_turns: bool = True) -> Served:
        """Of what the workers answer to ``steerkit_state``."""
        first = states[0]
        places = frozenset.intersection(*(frozenset(one["places"]) for one in states))
        return cls(first["model_type"], first["n_layers"], first["d_model"], places, has_turns)

    def check(self, program: Program) -> None:
        """Raise ``Unfit`` for a program that this model has no place for, with the reason."""
        model = program.model
        here = (self.model_type, self.n_layers, self.d_model)
        if (model.model_type, model.n_layers, model.d_model) != here:
            raise Unfit(
                f"Program {program.name!r} was made for a {model.model_type} of {model.n_layers} blocks of width "
                f"{model.d_model}, and this server's is a {self.model_type} of {self.n_layers} blocks of width "
                f"{self.d_model}."
            )
        missing = [str(site) for site in (*program.sites, *program.read_at) if str(site) not in self.places]
        if missing:
            raise Unfit(
                f"Program {program.name!r} needs {', '.join(missing[:4])}{' and others' if len(missing) > 4 else ''}, "
                "which this server's workers have no hand on. Bake the condition into a checkpoint instead."
            )
        for positions in positions_of(program):
            try:
                require_served(positions)
            except PositionError as error:
                raise Unfit(f"Program {program.name!r}: {error}") from None
            if needs_turns(positions) and not self.has_turns:
                raise Unfit(
                    f"Program {program.name!r} acts at '{positions}', and this server's model has no chat template "
                    "that would say where turns lie. Start it with --chat-template, or choose positions such as prompt."
                )
