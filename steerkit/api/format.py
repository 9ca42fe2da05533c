"""Files of directions and of conditions. A format sniffs, reads and writes them, and says what is lost. It sees no
model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from steerkit.api.condition import SavedCondition
from steerkit.api.hookspecs import Options
from steerkit.api.showing import brief
from steerkit.errors import ArtifactError, counted
from steerkit.types import Positions, Site, SitePattern

if TYPE_CHECKING:
    from steerkit.api.direction import Direction

OptionsT = TypeVar("OptionsT", bound=Options, default=Any)


@dataclass(frozen=True, eq=False)
class Contents:
    """What a file holds, or is to hold.

    Args:
        directions: by name, in the file's order.
        lost: sentences on what the file says and steerkit has no place for, or what steerkit wants and the file doesn't
            say.
        condition: how a model is steered along these directions; None where the file says nothing of it. One that is a
            system prompt alone takes no direction, and there may be none then.
    """

    directions: Mapping[str, Direction] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    condition: SavedCondition | None = None


@dataclass(frozen=True)
class Given:
    """What a reader says of a file's directions, for a file that doesn't say it. Where the file does, both must agree.

    Args:
        site: where they were estimated, or a pattern that their sites fit.
        positions: at which tokens.
    """

    site: Site | SitePattern | None = None
    positions: Positions | None = None

    def fault(self, name: str, sites: Sequence[Site], positions: Positions | None) -> str | None:
        """What keeps it from going together with what a file says of a direction; None where nothing does."""
        if not sites and not isinstance(self.site, Site):
            return (
                f"the file doesn't say at which site direction {name!r} was estimated. Give it as site "
                "(on the command line --site)."
            )
        if sites and self.site is not None and not _fits(self.site, sites):
            more = f" to {sites[-1]}" if len(sites) > 1 else ""
            return f"direction {name!r} was estimated at {sites[0]}{more}, not at {self.site}. Leave out site."
        if positions is not None and self.positions is not None and _in_prompt(positions) != _in_prompt(self.positions):
            return (
                f"direction {name!r} was estimated at positions '{positions}', not '{self.positions}'. Leave them out."
            )
        return None

    def sites_of_rows(self, rows: int) -> tuple[Site, ...] | None:
        """The sites of a matrix that has a row for each: those of a pattern; None where no such pattern is given.

        Raises:
            ArtifactError: for a pattern of another number of sites, or one that depends on a model's depth.
        """
        if not isinstance(self.site, SitePattern):
            return None
        if self.site.share is not None:
            raise ArtifactError(
                f"{self.site} depends on the number of layers. Name them, as in blocks.0-{rows - 1}.{self.site.stream}."
            )
        first, last = self.site.layers or (0, rows - 1)
        if last - first + 1 != rows:
            raise ArtifactError(
                f"{self.site} are {counted(last - first + 1, 'site')}, and the file has {counted(rows, 'row')}. Name "
                f"as many, as in blocks.{first}-{first + rows - 1}.{self.site.stream}."
            )
        return tuple(Site(self.site.stream, layer, self.site.head) for layer in range(first, last + 1))


def _in_prompt(positions: Positions) -> Positions:
    """Positions of prompts: there an index without a role counts in the prompt."""
    return replace(positions, role="prompt") if positions.role == "" else positions


def _fits(given: Site | SitePattern, sites: Sequence[Site]) -> bool:
    if isinstance(given, Site):
        return list(sites) == [given]
    first, last = given.layers or (0, max(site.layer for site in sites))
    return all(
        site.stream == given.stream and site.head == given.head and first <= site.layer <= last for site in sites
    )


@dataclass(frozen=True)
class Places:
    """Where a file says that a direction was estimated.

    Args:
        sites: none where it doesn't say.
        positions: None where it doesn't say.
        widths: of the vectors at each site; none where only reading the file tells.
        ranks: how many vectors there are at each site; none where only reading the file tells.
    """

    sites: tuple[Site, ...] = ()
    positions: Positions | None = None
    widths: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Written:
    """A file's bytes, before they are put in their place.

    Args:
        data: the whole file.
        lost: sentences on what of the directions the format has no place for, and that it has none for a condition.
        files: in the place of ``data``, the files of a folder by name, for a format whose spec says ``folder``.
    """

    data: bytes = b""
    lost: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)

    def __repr__(self) -> str:
        return brief(self)


class Format(ABC, Generic[OptionsT]):
    """A file format of directions, or of whole conditions. Nothing that it reads may execute: no pickle.

    Its module imports no torch at its top, because ``steerkit check`` sniffs at files without torch. Its options say
    how its files are meant, in reading and in writing; a file is sniffed at under their defaults.

    Prove a new one with ``steerkit.testing.FormatSuite``.
    """

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @abstractmethod
    def sniff(self, path: Path) -> bool:
        """Whether a file or a folder is of this format, from as little of it as will do. Never raises for one that
        isn't. False where the format only writes."""

    def accepts(self, path: Path) -> bool:
        """Whether a file that somebody says is of this format can be. As ``sniff``, unless files don't tell by
        themselves: a matrix of numbers may be anybody's. Never raises."""
        return self.sniff(path)

    def files(self, path: Path) -> Sequence[Path]:
        """The files that reading one takes, of a file or folder that is of this format: a run's key is of all of them.

        More than the file itself where some lie beside it; of a folder, those in it that are read.
        """
        return sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else (path,)

    def places(self, path: Path, given: Given = Given()) -> Mapping[str, Places]:
        """Sites, positions and widths of each direction, from as little of the file as will do; nothing where only
        reading it tells. With it ``steerkit check`` finds sites that a model doesn't have, and vectors of another one.
        What is wrong with a file is said where it is read.

        Raises:
            ArtifactError: where what is given doesn't go with what the file holds, as a pattern of other many sites.
        """
        return {}

    def fault(self, path: Path) -> str | None:
        """What keeps a file of this format from being read under these options, as far as can be told without torch, as
        a sentence; None where nothing does. ``steerkit check`` says it before anything runs."""
        return None

    def read(self, path: Path, given: Given = Given()) -> Contents:
        """Read a file, or a folder. Only a format whose spec has ``reads=False`` leaves this out.

        Raises:
            ArtifactError: where it is missing, damaged, of another format or version, or holds NaN or infinite values;
                where it says another site or other positions than are given, or no site and none is given.
        """
        raise ArtifactError(f"{path} is of a format that is only written. Name another one to read it.")

    def write(self, contents: Contents) -> Written:
        """The bytes of a file that holds directions, and the condition where there is one; equal contents give equal
        bytes. A format that has no place for a condition writes the directions, and says in ``lost`` that it has none.
        Only a format whose spec has ``writes=False`` leaves this out.

        Raises:
            ArtifactError: where the format has no way to hold them, or nothing would be left.
        """
        raise ArtifactError("files of this format are only read. Name another one to write, such as steerkit.")
