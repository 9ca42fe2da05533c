"""Whole conditions in files: what steers a model is written by its plugins' names, and built from them again."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic_core import to_jsonable_python

from steerkit.api.condition import SavedCondition, SavedGate, SavedIntervention
from steerkit.api.direction import Direction
from steerkit.api.format import Contents
from steerkit.api.intervention import Gate, Intervention, Placement
from steerkit.api.showing import a_kind, brief
from steerkit.artifacts.directions import read_file
from steerkit.artifacts.formats import OURS
from steerkit.artifacts.writing import write_file
from steerkit.catalog import Catalog, installed
from steerkit.engine.lowering.edits import Mode, require_mode
from steerkit.errors import ArtifactError, SteerkitError, UnknownNameError, known_keywords, nearest
from steerkit.session.words import intervention
from steerkit.types import Positions, Site


@dataclass(frozen=True, eq=False)
class LoadedCondition:
    """A condition that was read from a file, ready to steer with: ``model.steer(*loaded.interventions)``.

    Args:
        name: what it is called.
        interventions: in the order in which they act where they meet; none where it is a system prompt alone.
        directions: those that it takes, by name.
        system_prompt: what is to stand as system message before every prompt, or None.
        mode: how its interventions are lowered, for ``model.steer(..., mode=loaded.mode)``.
    """

    name: str
    interventions: tuple[Placement, ...] = ()
    directions: Mapping[str, Direction] = field(default_factory=dict)
    system_prompt: str | None = None
    mode: Mode = "auto"

    def __repr__(self) -> str:
        return brief(self)


@known_keywords
def save_condition(
    path: str | Path,
    interventions: Placement | Intervention | Sequence[Placement | Intervention] = (),
    *,
    name: str,
    system_prompt: str | None = None,
    mode: Mode | None = None,
    format: str = OURS,
    catalog: Catalog | None = None,
) -> tuple[str, ...]:
    """Write a whole condition to one file: interventions with their directions, a system prompt, or both.

    The file holds the directions as ``save_directions`` writes them, so that ``load_directions`` and recipes read it.
    The same condition gives the same bytes.

    Args:
        path: the file; an older one is replaced.
        interventions: one, or several in the order in which they act, as ``model.steer`` takes them.
        name: what the condition is called.
        system_prompt: the system message that belongs to it.
        mode: how its interventions are lowered; None for ``auto``.
        format: name of a format plugin.
        catalog: plugins; discovered if not given.

    Returns:
        sentences on what of the condition the format has no place for; in steerkit's own, what float32 rounds.

    Raises:
        ArtifactError: for a condition that is empty, two different directions of one name, an intervention of no
            plugin, a coefficient that is a tensor, options that aren't JSON, and as ``save_directions``.
    """
    listed = [interventions] if isinstance(interventions, (Placement, Intervention)) else interventions
    if not isinstance(listed, Sequence) or not all(isinstance(one, (Placement, Intervention)) for one in listed):
        raise ArtifactError(
            f"A condition's interventions are what steerkit.add, ablate and intervention give, not {a_kind(listed)}. "
            "The file comes first: save_condition(path, [intervention], name=...)."
        )
    if system_prompt is not None and not isinstance(system_prompt, str):
        raise ArtifactError(f"A condition's system_prompt is a text, not {a_kind(system_prompt)}.")
    if mode is not None:
        require_mode(mode)
    placed = [one if isinstance(one, Placement) else Placement(one) for one in listed]
    directions = _directions(placed)
    written = tuple(_written(one, catalog or installed()) for one in placed)
    condition = SavedCondition(name, written, system_prompt, mode or "auto")
    _require_kept(condition, _built(condition, directions, catalog), placed)
    return write_file(path, Contents(directions, condition=condition), format, catalog)


@known_keywords
def load_condition(path: str | Path, *, format: str | None = None, catalog: Catalog | None = None) -> LoadedCondition:
    """Read a condition from a file. A warning tells what is lost in reading.

    Its interventions go straight into ``model.steer(*loaded.interventions, mode=loaded.mode)``; a system prompt is for
    the prompts: ``[{"role": "system", "content": loaded.system_prompt}, ...]``, or ``load_model(system_prompt=...)``.

    Args:
        path: the file.
        format: name of a format plugin; None for the one that knows the file.
        catalog: plugins; discovered if not given.

    Raises:
        ArtifactError: as ``load_directions``; where the file holds no condition, or lacks a direction that it takes.
        UnknownNameError: for a plugin that isn't installed.
        SteerkitError: for an option that its plugin doesn't have.
    """
    contents = read_file(path, format=format, catalog=catalog)
    if contents.lost:
        warnings.warn(f"{path}: {' '.join(contents.lost)}", UserWarning, 3)  # past the check of keywords
    condition = contents.condition
    if condition is None:
        raise ArtifactError(
            f"{path} holds directions and no condition. Read them with steerkit.load_directions(path); "
            "steerkit.save_condition writes a condition."
        )
    try:
        interventions = _built(condition, contents.directions, catalog)
    except SteerkitError as error:
        raise type(error)(f"{path}: {error}") from None
    taken = {name: contents.directions[name] for name in condition.directions}
    return LoadedCondition(condition.name, interventions, taken, condition.system_prompt, condition.mode)


# To a file


def _written(placement: Placement, catalog: Catalog) -> SavedIntervention:
    """An intervention as a file holds it."""
    name = placement.called or _plugin_of(placement.intervention, catalog)
    if placement.factor is not None:
        raise ArtifactError(
            f"{placement} has a tensor as coefficient, which a file of conditions has no place for: build it again "
            "with a number, coefficient=float(tensor)."
        )
    options = placement.intervention.options
    try:
        # All of them, also those that nobody set: a file means the same when a default changes.
        # (pydantic's own JSON mode warns about a tuple in a union with a number.)
        values = json.loads(json.dumps(to_jsonable_python(options.model_dump()), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"Options of {placement} can't be written as JSON ({error}). Give plain values.") from None
    return SavedIntervention(
        name,
        tuple(one.name for one in placement.directions),
        values,
        None if placement.sites is None else tuple(str(site) for site in placement.sites),
        str(placement.positions),
        None if placement.schedule.is_constant else str(placement.schedule),
        None if placement.gate is None else _written_gate(placement.gate),
    )


def _require_kept(condition: SavedCondition, again: Sequence[Placement], placed: Sequence[Placement]) -> None:
    """Raise ``ArtifactError`` where a condition that is built again from what is written isn't what was given."""
    try:
        json.dumps(condition.to_json(), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ArtifactError(
            f"A text of condition {condition.name!r} holds half of a surrogate pair, which no file can hold."
        ) from None
    for before, after in zip(placed, again, strict=True):
        if vars(before.intervention.options) != vars(after.intervention.options):
            raise ArtifactError(
                f"Condition {condition.name!r}: options of {before} don't come back from JSON as they are. Give "
                "plain numbers, texts and lists."
            )


def _plugin_of(made: Intervention, catalog: Catalog) -> str:
    """The name of the plugin that an intervention is of, which was made without it."""
    where = f"{type(made).__module__}:{type(made).__qualname__}"
    for name in catalog.names("intervention"):
        if catalog.get("intervention", name).implementation == where:
            return name
    raise ArtifactError(
        f"{type(made).__name__} is of no installed plugin, so no file can say what it does. Make it a plugin, and "
        "build it with steerkit.intervention(name, direction)."
    )


def _written_gate(gate: Gate) -> SavedGate:
    sides = {gate.side: float(gate.threshold)}
    return SavedGate(
        gate.direction.name,
        sides.get("above"),
        sides.get("below"),
        str(gate.read_at),
        gate.at,
        str(gate.positions),
        gate.prepass,
    )


def _directions(placed: Sequence[Placement]) -> dict[str, Direction]:
    """Every direction that a condition takes, by name.

    Raises:
        ArtifactError: for two different ones of one name.
    """
    found: dict[str, Direction] = {}
    for one in (direction for placement in placed for direction in placement.directions):
        if not _equal(found.setdefault(one.name, one), one):
            raise _two_called(one.name)
    gates = [placement.gate for placement in placed if placement.gate is not None]
    # A gate has taken what it reads out of a direction at several sites, and will again.
    for name in dict.fromkeys(gate.direction.name for gate in gates):
        reading = [gate for gate in gates if gate.direction.name == name]
        held = found.setdefault(name, _read_by(reading))
        for gate in reading:
            again = held.at(gate.read_at) if not held.is_single and gate.read_at in held.sites else held
            if not _equal(again, gate.direction):
                raise _two_called(name)
    return found


def _read_by(gates: Sequence[Gate]) -> Direction:
    """The direction of some gates that read vectors of one name, which may each be at a site of its own."""
    first = gates[0].direction
    by_site = {gate.direction.site: gate.direction for gate in gates}
    if len(by_site) == 1 or any(gate.read_at != gate.direction.site for gate in gates):
        return first
    vectors = {site: one.vectors for site, one in by_site.items()}
    means = {site: one.reference_mean for site, one in by_site.items() if one.reference_mean is not None}
    return Direction(vectors, None, first.positions, first.name, means or None, first.provenance)


def _two_called(name: str) -> ArtifactError:
    return ArtifactError(
        f"Two different directions of the condition are called {name!r}. Give one another name: "
        "direction.replace(name=...)."
    )


def _equal(one: Direction, other: Direction) -> bool:
    """Whether two are the same to whatever uses them."""
    from torch import equal

    def parts(direction: Direction) -> Iterator[tuple[Site, str, Any]]:
        for site, vectors in direction.items():
            yield site, "vectors", vectors
            if site in direction.reference_means:
                yield site, "mean", direction.reference_means[site]

    if one is other:
        return True
    ours, theirs = ({(site, what): value for site, what, value in parts(each)} for each in (one, other))
    return ours.keys() == theirs.keys() and all(equal(value, theirs[key]) for key, value in ours.items())


# From a file


def _built(
    condition: SavedCondition, directions: Mapping[str, Direction], catalog: Catalog | None
) -> tuple[Placement, ...]:
    """The interventions of a condition, along its directions.

    Raises:
        SteerkitError: naming the condition, for a plugin, an option or a direction that isn't there.
    """
    try:
        for name in condition.directions:
            if name not in directions:
                raise ArtifactError(f"direction {name!r} isn't in the file. {nearest(name, directions, 'direction')}")
        return tuple(_placed(one, directions, catalog) for one in condition.interventions)
    except SteerkitError as error:
        raise type(error)(f"Condition {condition.name!r}: {error}") from None


def _placed(written: SavedIntervention, directions: Mapping[str, Direction], catalog: Catalog | None) -> Placement:
    try:
        (catalog or installed()).get("intervention", written.plugin)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error} Install the package that provides it, or give its catalog.") from None
    gate = None
    if (one := written.gate) is not None:
        side: Literal["above", "below"] = "below" if one.above is None else "above"
        threshold = one.below if one.above is None else one.above
        assert threshold is not None
        site = None if one.site is None else Site.parse(one.site)
        positions = Positions.parse(one.positions)
        gate = Gate(directions[one.direction], threshold, side, site, one.at, positions, one.prepass)
    return intervention(
        written.plugin,
        [directions[name] for name in written.directions],
        sites=written.sites,
        positions=written.positions,
        schedule=written.schedule,
        gate=gate,
        catalog=catalog,
        options=written.options,
    )
