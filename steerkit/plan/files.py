"""Files that a recipe names, looked into without what will read them in the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jinja2 import nodes
    from jinja2.parser import Parser

    from steerkit.catalog import Catalog

_LENGTH_BYTES: Final = 8
_LONGEST_HEADER: Final = 100_000_000
"""Bytes, as the safetensors format has it."""


def directions_fault(path: Path, catalog: Catalog, name: str | None = None) -> str | None:
    """What keeps a file from being one of saved directions, as far as its format can tell; None where nothing does.

    Args:
        path: the file.
        catalog: plugins, some of which are formats.
        name: of the format that the recipe names; None for any.
    """
    from steerkit.artifacts.directions import claims

    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = json.loads(file.read(length)) if 0 < length <= _LONGEST_HEADER else None
    except OSError as error:
        return f"{path} can't be read: {error.strerror or error}"
    except (ValueError, RecursionError):
        header = None
    claiming = claims(path, catalog)
    if name is not None:
        return None if name in claiming else f"{path} is not of format {name}; remove format, or name another file"
    if len(claiming) > 1:
        return f"{path} could be in format {' or '.join(claiming)}; say which, as in format: {claiming[0]}"
    if claiming:
        return None
    if not isinstance(header, dict):
        return f"{path} is not a safetensors file, or is damaged; name one that save_directions or a run wrote"
    return f"{path} holds no directions of steerkit's; name a file that save_directions or a run wrote"


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
