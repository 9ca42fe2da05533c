"""A run's condition as a program: lowered to the layout of its model, which is found without weights.

``program_of`` is the lowering itself, of any placements to any layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from steerkit import stages
from steerkit.api.architecture import ArchitectureAdapter, Layout
from steerkit.api.intervention import Affine, Placement
from steerkit.api.program import Program, ProgramModel, ProgramMonitor, ProgramUpdate
from steerkit.artifacts.directions import load_directions
from steerkit.baking.asked import Asked, read_asked
from steerkit.catalog import Catalog, implementation
from steerkit.errors import AttachError, SteerkitError, UnknownNameError, nearest
from steerkit.progress import SILENT, Observer
from steerkit.stages.condition import build_monitors
from steerkit.types import Site

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.api.monitor import Monitor
    from steerkit.engine.lowering.edits import Edit
    from steerkit.engine.lowering.places import Places


def program_of_run(
    run: str | Path,
    condition: str,
    monitors: Sequence[str] = (),
    *,
    observer: Observer = SILENT,
    catalog: Catalog | None = None,
) -> Program:
    """A condition of a run as a program. See ``steerkit.export``."""
    asked = read_asked(run, condition, catalog, folds=False)
    if not asked.condition.placements and not monitors:
        raise AttachError(_nothing(asked))
    layout, model_type = _layout(asked, observer)
    known = asked.run.origin.model
    model = ProgramModel(
        model_type,
        layout.n_layers,
        layout.d_model,
        asked.plan.loading.source,
        known.get("chat_template_sha256"),
    )
    own = asked.condition.system_prompt
    try:
        found = program_of(
            asked.condition.placements,
            layout,
            model,
            condition,
            _monitors(asked, monitors, layout),
            asked.plan.loading.system_prompt if own is None else own,
        )
        if not found.updates and not found.monitors:
            raise AttachError("it changes nothing. Name one that does.")
        return found
    except SteerkitError as error:
        raise type(error)(f"Condition {condition} can't be exported: {error}") from None


def program_of(
    placements: Iterable[Placement],
    layout: Layout,
    model: ProgramModel,
    name: str,
    monitors: Iterable[Monitor] = (),
    system_prompt: str | None = None,
) -> Program:
    """Interventions that act together, lowered to a layout, as data.

    Args:
        placements: the interventions.
        layout: the model's.
        model: what the program says of it.
        name: of the program.
        monitors: what is read.
        system_prompt: what stood before every prompt where it was measured.

    Raises:
        AttachError: for an update that is a function, and for gates, which data can't say.
        SiteError: for a site that the model doesn't have.
    """
    from steerkit.engine.lowering.edits import edits_of
    from steerkit.engine.lowering.lower import places_of_edits
    from steerkit.engine.lowering.places import Record

    edits = edits_of(tuple(placements), layout)
    for edit in edits:
        _require_data(edit)
    places = places_of_edits(edits, layout, Record(edits, wanted=False))
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    updates = [_update(site, edit, kept) for site, items in places.items() for edit in cast("list[Edit]", items)]
    return Program(name, model, tuple(updates), tuple(_reads(one, layout, places) for one in monitors), system_prompt)


def _require_data(edit: Edit) -> None:
    if edit.when.gate is not None:
        raise AttachError(
            f"{edit.name} at {edit.site} acts only where {edit.when.gate}, and a program has no gates. Steer with "
            "steerkit itself, or put the condition without its gate into the recipe and measure that."
        )
    if not isinstance(edit.update, Affine):
        raise AttachError(
            f"{edit.name} at {edit.site} is a function of the stream, and a program holds vectors: what an update "
            "reads, what it writes and a constant. Steer with steerkit itself."
        )


def _update(site: Site, edit: Edit, kept: dict[int, tuple[Tensor, Tensor]]) -> ProgramUpdate:
    update = cast(Affine, edit.update)
    reads, writes, bias = (
        None if part is None else _plain(part, kept) for part in (update.reads, update.writes, update.bias)
    )
    return ProgramUpdate(site, reads, writes, bias, edit.when.positions, edit.when.schedule)


def _plain(value: Tensor, kept: dict[int, tuple[Tensor, Tensor]]) -> Tensor:
    """As programs hold tensors; one that stands at many places stays one."""
    import torch

    if id(value) not in kept:
        # The original is kept beside it, since another one could get its identity.
        kept[id(value)] = value, value.detach().to("cpu", torch.float32).contiguous()
    return kept[id(value)][1]


def _reads(monitor: Monitor, layout: Layout, places: Places) -> ProgramMonitor:
    import torch

    from steerkit.engine.lowering.lower import place_of

    vectors = {}
    for site in monitor.read_at:
        layout.require(site)
        place = place_of(site.whole, layout)
        if site.head >= 0:
            raise AttachError(f"Monitor {monitor.name!r} reads one head, {site}, and programs read whole streams.")
        later = [item for item in places.get(place, ()) if layout.order[_site(item)] > layout.order[site]]
        if later:
            raise AttachError(
                f"Monitor {monitor.name!r} reads {site} before {_site(later[0])} is edited, and in a program both are "
                f"one place. Let it read at {_site(later[0])}."
            )
        if place in vectors:
            raise AttachError(
                f"Monitor {monitor.name!r} reads at {site}, which is {place}, where it reads already: a program holds "
                "one vector there. Let it read at one of them."
            )
        direction = monitor.direction if monitor.direction.is_single else monitor.direction.at(site)
        vector = direction.vectors[0].detach().double()
        vectors[place] = (vector / vector.norm()).to(torch.float32).cpu().contiguous()
    return ProgramMonitor(monitor.name, vectors, float(monitor.threshold), monitor.side, monitor.positions)


def _site(item: object) -> Site:
    return cast("Edit", item).site


def _monitors(asked: Asked, names: Sequence[str], layout: Layout) -> list[Monitor]:
    """Monitors of the run's recipe, with the thresholds that the run set."""
    known = {one.name: one for one in asked.plan.monitors}
    measured = {one.name: one for one in asked.run.results.monitors}
    for name in names:
        if name not in known:
            raise UnknownNameError(f"The run's recipe has no monitor {name!r}. {nearest(name, known, 'monitor')}")
    chosen = []
    for name in dict.fromkeys(names):
        planned, entry = known[name], measured.get(name)
        if planned.calibration is not None:
            threshold = None if entry is None else (entry.above if planned.side == "above" else entry.below)
            if threshold is None:
                raise AttachError(f"The run says no threshold of monitor {name!r}, which its recipe calibrates.")
            planned = replace(planned, threshold=threshold)
        chosen.append(planned)
    directions = load_directions(asked.run.path / "directions.safetensors") if chosen else {}
    return build_monitors(chosen, directions, layout.n_layers)


def _layout(asked: Asked, observer: Observer) -> tuple[Layout, str]:
    """The model's layout and its type: without weights where the adapter needs none, else from the loaded model."""
    plan = asked.plan
    adapter = plan.architecture
    if adapter is not None and not adapter.fallback and plan.model.model_type is not None:
        from steerkit.engine.sites.weightless import layout_without_weights

        observer.step(f"looking at the modules of {plan.loading.source}, without weights")
        made = cast(ArchitectureAdapter, implementation(adapter)())
        try:
            trusted = plan.loading.trust_remote_code
            layout = layout_without_weights(plan.loading.source, plan.model.folder, made, trust_remote_code=trusted)
            return layout, plan.model.model_type
        except SteerkitError:
            pass  # its modules can't be looked at so
    # Which of a block's writers mixes tokens, and so its name, an adapter that follows a pass sees in numbers alone.
    observer.step(f"loading {plan.loading.source}")
    live = stages.load(plan)
    return live.layout, live.facts.model_type


def _nothing(asked: Asked) -> str:
    name = asked.condition.name
    if asked.condition.system_prompt is not None:
        return (
            f"Condition {name} is a system prompt, which is text: send it as the first message of a conversation. "
            "There is nothing to export."
        )
    return f"Condition {name} is the model as it is, so there is nothing to export. Name a condition that steers it."
