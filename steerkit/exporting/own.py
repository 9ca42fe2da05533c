"""Kind ``program``: a program as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.api.program_bytes import program_to_bytes
from steerkit.exporting.kinds import Written

if TYPE_CHECKING:
    from steerkit.api.program import Program


def write_program(program: Program) -> Written:
    """All of it: nothing is lost."""
    return Written(program_to_bytes(program))
