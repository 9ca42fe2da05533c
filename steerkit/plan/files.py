"""Files that a recipe names, looked into without what will read them in the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steerkit.errors import SteerkitError
from steerkit.types import Positions, Site

if TYPE_CHECKING:
    from jinja2 import nodes
    from jinja2.parser import Parser

_LENGTH_BYTES: Final = 8
_LONGEST_HEADER: Final = 100_000_000
"""Bytes, as the safetensors format has it."""


def _header(path: Path) -> Any:
    """The header of a safetensors file, or what stands in its place. Raises ``OSError``."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            return json.loads(file.read(length)) if 0 < length <= _LONGEST_HEADER else None
    except (ValueError, RecursionError):
        return None


def saved_places(path: Path) -> dict[str, tuple[tuple[Site, ...], Positions | None]]:
    """Sites and positions of each direction in a file, as far as its header can be read."""
    from steerkit.artifacts.directions import HEADER, places_of

    try:
        entries = json.loads(_header(path)["__metadata__"][HEADER])["directions"]
        return {name: (sites, positions) for name, sites, positions in map(places_of, entries)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SteerkitError):
        return {}  # said where the file is named


def directions_fault(path: Path) -> str | None:
    """What keeps a file from being one of saved directions, as far as its header tells; None where nothing does."""
    from steerkit.artifacts.directions import HEADER

    try:
        header = _header(path)
    except OSError as error:
        return f"{path} can't be read: {error.strerror or error}"
    if not isinstance(header, dict):
        return f"{path} is not a safetensors file, or is damaged; name one that save_directions or a run wrote"
    if HEADER not in (header.get("__metadata__") or {}):
        return f"{path} holds no directions of steerkit's; name a file that save_directions or a run wrote"
    return None


def template_fault(text: str) -> str | None:
    """What is wrong with the syntax of a chat template; None where nothing is."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols

    class Generation(Extension):
        """``{% generation %}`` of transformers, which marks the assistant's text in training data."""

        tags = {"generation"}  # noqa: RUF012  (jinja's way)

        def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
            """Its content, as if the tag weren't there."""
            next(parser.stream)
            inside: Any = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return inside  # type: ignore[no-any-return]

    try:
        jinja2.Environment(extensions=[loopcontrols, Generation], autoescape=False).parse(text)
    except jinja2.TemplateSyntaxError as error:
        return f"not a Jinja template: {error.message} (line {error.lineno} of the file)"
    except RecursionError:
        return "not a Jinja template: nested too deeply"
    return None
