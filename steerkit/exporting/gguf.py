"""Kind ``gguf``: a program that only adds vectors at outputs of blocks, as a control vector of llama.cpp.

llama.cpp adds one vector at the output of each block from block 1 on, at every token, always. What says that and no
more has a place in its file; the rest is refused, and told what holds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from steerkit.errors import ArtifactError, AttachError
from steerkit.exporting.kinds import Written
from steerkit.types import RESID_POST, Positions, Site

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.api.program import Program, ProgramUpdate

_FORMAT: Final = "gguf"
_BAKE: Final = "Bake it into a checkpoint instead (steerkit bake), which llama.cpp's convert script makes a GGUF of."
_NEITHER: Final = "A checkpoint can't hold that either: serve it with steerkit, or with steerkit-vllm as a program."


def write_gguf(program: Program) -> Written:
    """The file, with coefficients in the vectors, and several that are added at one place as their sum.

    Raises:
        AttachError: for what llama.cpp can't do with a control vector, with the reason and what can.
    """
    from steerkit.api.direction import Direction
    from steerkit.api.format import Contents
    from steerkit.artifacts.formats import format_spec, reader_of

    for update in program.updates:
        if (why := _no_place(update)) is not None:
            raise _refusal(program, why)
    if program.monitors:
        raise _refusal(program, f"a control vector reads nothing, and it has monitors. Leave them out. {_NEITHER}")
    if program.system_prompt is not None:
        raise _refusal(
            program,
            "it was measured behind a system prompt, which is text and no vector. Take system_prompt out of the recipe "
            "and run it again, so that what is measured is what is served.",
        )
    summed: dict[Site, Tensor] = {}
    for update in program.updates:
        if update.bias is not None:
            before = summed.get(update.site)
            summed[update.site] = update.bias.double() if before is None else before + update.bias.double()
    vectors = {site: vector.float()[None] for site, vector in summed.items() if bool(vector.any())}
    if not vectors:
        raise _refusal(program, "it adds nothing, and llama.cpp would serve the model as it is.")
    provenance = {"model_type": program.model.model_type, "model": program.model.source}
    direction = Direction(vectors, None, Positions("all"), program.name, None, provenance)
    try:
        written = reader_of(format_spec(_FORMAT, None)).write(Contents({program.name: direction}))
    except ArtifactError as error:
        raise _refusal(program, str(error)) from None
    return Written(written.data, written.lost)


def _refusal(program: Program, why: str) -> AttachError:
    return AttachError(f"Condition {program.name} is no control vector: {why}")


def _no_place(update: ProgramUpdate) -> str | None:
    """Why llama.cpp can't carry an update out; None where it can."""
    site = update.site
    if update.positions != Positions("all"):
        return f"it acts at {update.positions} ({site}), and llama.cpp adds a control vector at every token. {_NEITHER}"
    if not update.schedule.is_constant:
        return f"its coefficient changes along the answer ({site}), and llama.cpp's doesn't. {_NEITHER}"
    if update.reads is not None:
        return f"at {site} it changes the stream by what it reads there, and llama.cpp only adds. {_BAKE}"
    if site.stream != RESID_POST:
        return f"it acts at {site}, and llama.cpp adds a control vector at outputs of blocks. {_BAKE}"
    if site.layer < 1:
        return f"it acts at {site}, and llama.cpp has no control vector at block 0. {_BAKE}"
    return None
