"""Kind ``gguf``: a program that only adds vectors at outputs of blocks, as a control vector of llama.cpp.

llama.cpp adds one vector at the output of each block from block 1 on, at every token, always. What says that and no
more has a place in its file; the rest is refused, and told what holds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from steerkit.errors import ArtifactError
from steerkit.exporting.additions import Form, summed
from steerkit.exporting.kinds import Written
from steerkit.types import RESID_POST, Positions, Site

if TYPE_CHECKING:
    from steerkit.api.program import Program

_FORMAT: Final = "gguf"
_FORM: Final = Form(
    "llama.cpp",
    "is no control vector",
    bake="Bake it into a checkpoint instead (steerkit bake), which llama.cpp's convert script makes a GGUF of.",
    serve="A checkpoint can't hold that either: serve it with steerkit, or with steerkit-vllm as a program.",
)


def write_gguf(program: Program) -> Written:
    """The file, with coefficients in the vectors, and several that are added at one place as their sum.

    Raises:
        AttachError: for what llama.cpp can't do with a control vector, with the reason and what can.
    """
    from steerkit.api.direction import Direction
    from steerkit.api.format import Contents
    from steerkit.artifacts.formats import format_spec, reader_of

    _, added = summed(program, _FORM, (Positions("all"),))
    if 0 in added:
        why = f"it acts at {Site(RESID_POST, 0)}, and llama.cpp has no control vector at block 0. {_FORM.bake}"
        raise _FORM.refusal(program, why)
    vectors = {Site(RESID_POST, layer): vector[None] for layer, vector in added.items() if bool(vector.any())}
    if not vectors:
        raise _FORM.refusal(program, "it adds nothing, and llama.cpp would serve the model as it is.")
    provenance = {"model_type": program.model.model_type, "model": program.model.source}
    direction = Direction(vectors, None, Positions("all"), program.name, None, provenance)
    try:
        written = reader_of(format_spec(_FORMAT, None)).write(Contents({program.name: direction}))
    except ArtifactError as error:
        raise _FORM.refusal(program, str(error)) from None
    return Written(written.data, written.lost)
