"""Gates that an extra pass over the prompts decides, with nothing attached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from steerkit.api.architecture import Layout
from steerkit.api.intervention import Gate
from steerkit.engine.lowering.program import Program
from steerkit.engine.runtime.blocks import State
from steerkit.engine.sequence.gates import decide_gate, gate_projection, gate_unit
from steerkit.engine.sequence.positions import Frame
from steerkit.engine.sites.evaluating import evaluating, uncompiled
from steerkit.engine.sites.taps import Handler, register_tap, submodule
from steerkit.errors import PositionError


def decided_before(
    model: nn.Module, layout: Layout, state: State, frame: Frame | None, prompt: Mapping[str, Any] | None
) -> dict[Gate, Tensor]:
    """Whether each gate with a prepass is open, ``[rows]``, by a pass over the prompts with nothing attached."""
    gates = [gate for gate in state.program.gates if gate.prepass]
    if not gates or frame is None or prompt is None or frame.prompt_end is None:
        return {}
    columns = prompt["input_ids"].shape[1]
    if int(frame.prompt_end.max()) > columns:
        raise PositionError(
            f"The gate '{gates[0]}' is decided by an extra pass over whole prompts, and this pass has only their "
            "beginning. Give whole prompts, or use model.generate."
        )
    values: dict[Gate, Tensor] = {}
    attachment = state.attachment
    assert attachment is not None  # a program with gates is attached

    def reader(gate: Gate) -> Handler:
        def read(x: Tensor) -> None:
            seen = gate_projection(x, gate_unit(gate, x))
            # A layer that sees only the last columns leaves the others unknown.
            values[gate] = pad(seen, (columns - seen.shape[1], 0), value=torch.nan)

        return read

    handles = []
    try:
        attachment.detach()
        for gate in gates:
            assert gate.site is not None
            handles.append(register_tap(model, layout.tap(gate.site), reader(gate)))
        with uncompiled(), evaluating(model):
            submodule(model, layout.base)(**{**prompt, "use_cache": False})
    finally:
        for handle in handles:
            handle.remove()
        attachment.attach()
    decided = {}
    for gate, seen in values.items():
        rows = _rows_with_gate(gate, state.program, frame.rows)
        asked = torch.zeros(frame.rows, dtype=torch.bool)
        asked[list(rows)] = True
        decided[gate] = decide_gate(gate, seen, frame, rows, asked)
    return decided


def _rows_with_gate(gate: Gate, program: Program, rows: int) -> tuple[int, ...]:
    """The rows that a gate is for."""
    if program.n_rows is None:
        return tuple(range(rows))
    steps = [item for slot in program.slots for item in (*slot.items, *slot.carried)]
    parts = [getattr(step, "parts", ()) for step in steps]
    concerned = {row for one in parts for row, part in enumerate(one) if part is not None and part.when.gate is gate}
    times = rows // program.n_rows
    return tuple(row * times + copy for row in sorted(concerned) for copy in range(times))
