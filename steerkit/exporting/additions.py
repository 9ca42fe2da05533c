"""What a program is, where all it does is to add vectors at outputs of blocks: most other engines know nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.errors import AttachError
from steerkit.types import RESID_POST, Positions

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.api.program import Program, ProgramUpdate

BAKE = "Bake the condition into a checkpoint (steerkit bake), or serve it as a program with steerkit-vllm."
SERVE = "Serve it as a program with steerkit-vllm."


def refusal(program: Program, form: str, why: str) -> AttachError:
    """The error for a program that has no place in a form."""
    return AttachError(f"Condition {program.name} can't be a request of {form}: {why}")


def require_plain(program: Program, form: str) -> None:
    """Raise ``AttachError`` for what no request of another plugin holds: monitors and system prompts."""
    if program.monitors:
        raise refusal(program, form, f"it has monitors, and nobody would read them. Leave --monitor out. {SERVE}")
    if program.system_prompt is not None:
        raise refusal(
            program,
            form,
            "it was measured behind a system prompt, which is text and no vector. Take system_prompt out of the recipe "
            "and run it again, so that what is measured is what is served.",
        )
    if not program.updates:
        raise refusal(program, form, "it changes nothing.")


def require_outputs(program: Program, form: str) -> None:
    """Raise ``AttachError`` where an update acts elsewhere than at the output of a block, or with a schedule."""
    require_plain(program, form)
    for update in program.updates:
        if update.site.stream != RESID_POST:
            raise refusal(program, form, f"it acts at {update.site}, and {form} acts at outputs of blocks. {BAKE}")
        if not update.schedule.is_constant:
            raise refusal(
                program,
                form,
                f"its coefficient changes along the answer ({update.schedule} at {update.site}), and that of {form} "
                f"doesn't. {SERVE}",
            )


def added(program: Program, form: str, update: ProgramUpdate) -> Tensor:
    """The vector that an update adds, ``[width]``. Raises ``AttachError`` where it reads anything."""
    if update.reads is not None or update.bias is None:
        raise refusal(
            program,
            form,
            f"at {update.site} it changes the stream by what it reads there, and {form} only adds. {BAKE}",
        )
    return update.bias


def summed(program: Program, form: str, served: tuple[Positions, ...]) -> tuple[Positions, dict[int, Tensor]]:
    """The vectors that a program adds at outputs of blocks, all at the same tokens.

    Args:
        program: the program.
        form: what the form is called.
        served: the positions that it knows.

    Returns:
        The positions, and ``{block: [width]}`` in float32.

    Raises:
        AttachError: where it does anything else.
    """
    require_outputs(program, form)
    positions = {update.positions: None for update in program.updates}
    for one in positions:
        if one not in served:
            known = " or ".join(map(str, served))
            raise refusal(program, form, f"it acts at {one}, and {form} can act at {known} only. {SERVE}")
    if len(positions) > 1:
        told = " and ".join(map(str, positions))
        raise refusal(program, form, f"it acts at {told}, and {form} acts at the same tokens in every block. {SERVE}")
    vectors: dict[int, Tensor] = {}
    for update in program.updates:
        vector, layer = added(program, form, update).double(), update.site.layer
        vectors[layer] = vectors[layer] + vector if layer in vectors else vector
    return next(iter(positions)), {layer: vector.float() for layer, vector in sorted(vectors.items())}
