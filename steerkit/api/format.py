"""Files of directions. A format sniffs, reads and writes them, and says what is lost. It sees no model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from steerkit.api.hookspecs import Options
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
    """

    directions: Mapping[str, Direction] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Given:
    """What a reader says of a file's directions, for a file that doesn't say it. Where the file does, both must agree.

    Args:
        site: where they were estimated, or a pattern that their sites fit.
        positions: at which tokens.
    """

    site: Site | SitePattern | None = None
    positions: Positions | None = None


@dataclass(frozen=True)
class Written:
    """A file's bytes, before they are put in their place.

    Args:
        data: the whole file.
        lost: sentences on what of the directions the format has no place for.
    """

    data: bytes
    lost: tuple[str, ...] = ()


class Format(ABC, Generic[OptionsT]):
    """A file format of directions. Nothing that it reads may execute: no pickle.

    Its module imports no torch at its top, because ``steerkit check`` sniffs at files without torch.

    Prove a new one with ``steerkit.testing.FormatSuite``.
    """

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @abstractmethod
    def sniff(self, path: Path) -> bool:
        """Whether a file is of this format, from as little of it as will do. Never raises for a file that isn't."""

    @abstractmethod
    def read(self, path: Path, given: Given = Given()) -> Contents:
        """Read a file.

        Raises:
            ArtifactError: where it is missing, damaged, of another format or version, or holds NaN or infinite values;
                where it says another site or other positions than are given, or no site and none is given.
        """

    @abstractmethod
    def write(self, contents: Contents) -> Written:
        """The bytes of a file that holds directions; equal directions give equal bytes.

        Raises:
            ArtifactError: where the format has no way to hold them.
        """
