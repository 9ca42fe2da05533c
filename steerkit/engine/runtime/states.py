"""From the groups of open blocks and requests to what is put on a model for them: lowered, and ready to be attached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.engine.hooking.attach import Attachment
from steerkit.engine.lowering.edits import Edit, Mode, edits_of
from steerkit.engine.lowering.lower import lower, lower_rows
from steerkit.engine.lowering.program import Program
from steerkit.engine.runtime.blocks import Group, State
from steerkit.errors import AttachError

if TYPE_CHECKING:
    from steerkit.engine.runtime.steering import Steering


def state_of_groups(groups: Sequence[Group], steering: Steering) -> State:
    """A program for groups, ready to be attached. Looks at the model as it is: nothing of ours is on it."""
    shared = steering.shared
    readers = {site: handler for group in groups for site, handler in (group.readers or {}).items()}
    program = program_of_groups(groups, steering, by_site=bool(readers))
    if shared.prepared is not None and not readers and groups:
        return State(shared.prepared.filled(program, [group.mode for group in groups]), program, tuple(groups))
    if program.empty and not readers:
        return State(None, program, tuple(groups))
    attachment = Attachment(
        steering.model,
        steering.layout,
        program,
        memory=shared.memory,
        find=steering.find,
        readers=readers,
        likes=shared.likes,
    )
    return State(attachment, program, tuple(groups))


def program_of_groups(
    groups: Sequence[Group], steering: Steering, *, by_site: bool = False, fates: bool = False
) -> Program:
    """All of some groups' interventions, lowered; rows with the same ones share their lowering."""
    layout = steering.layout
    counts = {len(group.rows) for group in groups if group.rows is not None}
    if len(counts) > 1:
        raise AttachError(f"Rows are steered twice, as {' and '.join(map(str, sorted(counts)))} rows.")
    known: dict[tuple[tuple[int, Mode], ...], list[Edit]] = {}
    rows = []
    for row in range(max(counts, default=1)):
        listed = [
            (one, group.mode)
            for group in groups
            for one in (group.interventions if group.rows is None else group.rows[row])
        ]
        key = tuple((id(one), mode) for one, mode in listed)
        if key not in known:
            known[key] = edits_of([one for one, _ in listed], layout, [mode for _, mode in listed])
        rows.append(known[key])
    if len(known) > 1:
        return lower_rows(rows, layout, by_site=by_site)
    expected = max((group.expected_tokens for group in groups), default=0)
    # A compiled model's parameters stay where they are.
    model = None if steering.prepared is not None else steering.model
    return lower(rows[0], layout, model, expected_tokens=expected, by_site=by_site, fates=fates)
