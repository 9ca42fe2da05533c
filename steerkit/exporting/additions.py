"""What a program is, where all it does is to add vectors at outputs of blocks: most other engines know nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerkit.errors import AttachError
from steerkit.types import RESID_POST, Positions

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.api.program import Program, ProgramUpdate

BAKE = "Bake the condition into a checkpoint (steerkit bake), or serve it as a program with steerkit-vllm."
SERVE = "Serve it as a program with steerkit-vllm."


@dataclass(frozen=True)
class Form:
    """What other engines take, in the words that refuse a program which isn't it.

    Args:
        name: whose it is.
        refused: how a sentence goes on that begins with a condition which has no place in it.
        bake: what to do about an update that weights can hold.
        serve: what to do about one that they can't.
    """

    name: str
    refused: str
    bake: str = BAKE
    serve: str = SERVE

    def refusal(self, program: Program, why: str) -> AttachError:
        """The error for a program that has no place in it."""
        return AttachError(f"Condition {program.name} {self.refused}: {why}")


def request_of(name: str) -> Form:
    """A request of another plugin for vLLM."""
    return Form(name, f"can't be a request of {name}")


def require_plain(program: Program, form: Form) -> None:
    """Raise ``AttachError`` for what no request of another plugin holds: monitors and system prompts."""
    if program.monitors:
        raise form.refusal(program, f"it has monitors, and nobody would read them. Leave them out. {form.serve}")
    if program.system_prompt is not None:
        raise form.refusal(
            program,
            "it was measured behind a system prompt, which is text and no vector. Take system_prompt out of the recipe "
            "and run it again, so that what is measured is what is served.",
        )
    if not program.updates:
        raise form.refusal(program, "it changes nothing.")


def require_outputs(program: Program, form: Form) -> None:
    """Raise ``AttachError`` where an update acts elsewhere than at the output of a block, or with a schedule."""
    require_plain(program, form)
    for update in program.updates:
        if update.site.stream != RESID_POST:
            raise form.refusal(
                program, f"it acts at {update.site}, and {form.name} acts at outputs of blocks. {form.bake}"
            )
        if not update.schedule.is_constant:
            raise form.refusal(
                program,
                f"its coefficient changes along the answer ({update.schedule} at {update.site}), and that of "
                f"{form.name} doesn't. {form.serve}",
            )


def added(program: Program, form: Form, update: ProgramUpdate) -> Tensor:
    """The vector that an update adds, ``[width]``. Raises ``AttachError`` where it reads anything."""
    if update.reads is not None or update.bias is None:
        raise form.refusal(
            program,
            f"at {update.site} it changes the stream by what it reads there, and {form.name} only adds. {form.bake}",
        )
    return update.bias


def summed(program: Program, form: Form, served: tuple[Positions, ...]) -> tuple[Positions, dict[int, Tensor]]:
    """The vectors that a program adds at outputs of blocks, all at the same tokens.

    Args:
        program: the program.
        form: the form.
        served: the positions that it knows.

    Returns:
        The positions, and ``{block: [width]}`` in float32.

    Raises:
        AttachError: where it does anything else.
    """
    vectors: dict[int, Tensor] = {}
    for update in program.updates:
        vector, layer = added(program, form, update).double(), update.site.layer
        vectors[layer] = vectors[layer] + vector if layer in vectors else vector
    require_outputs(program, form)
    positions = {update.positions: None for update in program.updates}
    for one in positions:
        if one not in served:
            known = " or ".join(map(str, served))
            raise form.refusal(program, f"it acts at {one}, and {form.name} can act at {known} only. {form.serve}")
    if len(positions) > 1:
        told = " and ".join(map(str, positions))
        raise form.refusal(
            program, f"it acts at {told}, and {form.name} acts at the same tokens in every block. {form.serve}"
        )
    return next(iter(positions)), {layer: vector.float() for layer, vector in sorted(vectors.items())}
