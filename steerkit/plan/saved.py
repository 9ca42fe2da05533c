"""Directions of section ``directions`` that files hold: in which format, and whether they can be this model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.errors import ArtifactError, SteerkitError, counted
from steerkit.plan.adapter import ModelResolver
from steerkit.plan.files import directions_fault
from steerkit.plan.names import KeyPart
from steerkit.plan.types import PlannedDirection
from steerkit.recipe.steering import DirectionRecipe
from steerkit.types import HEAD_OUT, Positions, Site, parse_sites

if TYPE_CHECKING:
    from pathlib import Path

    from steerkit.api.format import Given, Places
    from steerkit.api.hookspecs import FormatSpec, Options


class SavedResolver(ModelResolver):
    """Resolves directions that come from files."""

    def saved(self, name: str, written: DirectionRecipe, path: str) -> PlannedDirection | None:
        """A direction from a file, or None where the file can't be one, or says something else than the recipe."""
        from steerkit.api.format import Given

        before = len(self.problems)
        where, format = ("directions", name), written.format
        if format is not None and self.spec("format", format, *where, "format") is None:
            return None
        site = None if written.site is None else self.sites_of(written.site, *where, "site")
        given = Given(site, _positions_given(written))
        try:
            file = self.draft.path_of(path)
            fault = None if file.exists() else f"there is no file {file}"
        except SteerkitError as error:
            fault = str(error)
        if fault is not None:
            self.complain(fault, *where, "file")
            return None
        read = self.reader(written, file, where)
        if read is None:
            return None
        reader, options = read
        fault = directions_fault(file, reader, options, name, named=format is not None)
        fault = fault or self.misplaced(name, reader, options, file, given)
        if fault is not None:
            self.complain(fault, *where, "file")
        if len(self.problems) > before:
            return None
        return PlannedDirection(
            name,
            options=options,
            site=given.site,
            positions=given.positions,
            file=file,
            format=format,
            reader=reader,
        )

    def reader(
        self, written: DirectionRecipe, file: Path, where: tuple[KeyPart, ...]
    ) -> tuple[FormatSpec, Options] | None:
        """The format of a file and its options, or None and problems."""
        from steerkit.artifacts.formats import CONVENTION, OURS, format_of

        try:
            reader = format_of(file, self.catalog, written.format, say="format: ")
        except SteerkitError as error:
            self.complain(error, *where, "file" if written.format is None else "format")
            return None
        if reader.name != OURS:  # of which every run has some of its own
            self.used[(reader.kind, reader.name)] = None
        values, moved = dict(written.options), {}
        if written.convention is not None:
            if CONVENTION in values:
                self.complain("the convention is given twice; remove one", *where, CONVENTION)
                return None
            if CONVENTION not in reader.options.model_fields:
                message = f"format {reader.name} has one convention only; remove it, or name another format"
                self.complain(message, *where, CONVENTION)
                return None
            values[CONVENTION], moved = written.convention, {CONVENTION: (*where, CONVENTION)}
        options = self.options(reader, values, *where, "options", moved=moved)
        return None if options is None else (reader, options)

    def misplaced(self, name: str, reader: FormatSpec, options: Options, file: Path, given: Given) -> str | None:
        """That a direction of a file is of another place than the recipe says, or of another model; notes of others."""
        from steerkit.artifacts.formats import reader_of

        try:
            places = reader_of(reader, options).places(file, given)
        except ArtifactError as error:
            return str(error).removesuffix(".")
        own = name if name in places else next(iter(places), name)
        if own not in places:
            return None
        self.note_depth(own, places[own])
        return given.fault(own, places[own].sites, places[own].positions) or self.width_fault(own, places[own], given)

    def width_fault(self, name: str, places: Places, given: Given) -> str | None:
        """That the vectors of a file are another model's by their width; None where they may be this one's."""
        sites = places.sites or (() if not isinstance(given.site, Site) else (given.site,))
        for site, width in zip(sites, places.widths, strict=False):
            # How wide heads are is known where the model is loaded.
            if self.model.d_model is not None and site.stream != HEAD_OUT and width != self.model.d_model:
                return (
                    f"direction {name!r} has vectors of width {width} at {site}, and the model's width is "
                    f"{self.model.d_model}: name a file that was made on this model"
                )
        return None

    def note_depth(self, name: str, places: Places) -> None:
        """Say that a file's vectors are of a deeper model. At sites that the recipe names they can still be used."""
        layers = self.model.n_layers
        beyond = [] if layers is None else [str(site) for site in places.sites if site.layer >= layers]
        if layers is not None and beyond:
            has = f"the model has {counted(layers, 'layer')}, 0 to {layers - 1}"
            self.notes.append(f"Direction {name!r} has vectors at {', '.join(beyond)}, and {has}.")

    def saved_direction(self, name: str, written: DirectionRecipe) -> Places | None:
        """What a file says of a direction, by its name or as the only one in it; None where it says nothing."""
        from steerkit.api.format import Given
        from steerkit.artifacts.formats import format_of, format_options, reader_of

        assert written.file is not None
        try:
            file = self.draft.path_of(written.file)
            reader = format_of(file, self.catalog, written.format)
            given = Given(None if written.site is None else parse_sites(written.site), _positions_given(written))
            options = format_options(reader, written.options, written.convention)
            saved = reader_of(reader, options).places(file, given)
        except SteerkitError:
            return None  # told where the direction stands
        return saved.get(name) or (next(iter(saved.values())) if len(saved) == 1 else None)


def _positions_given(written: DirectionRecipe) -> Positions | None:
    """The positions that a recipe says of a file's direction, whose default is for one that is estimated."""
    return Positions.parse(written.positions) if "positions" in written.model_fields_set else None
