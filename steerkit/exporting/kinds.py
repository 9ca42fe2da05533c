"""What a condition can be exported as: one row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

from steerkit.errors import UnknownNameError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from steerkit.api.program import Program


@dataclass(frozen=True)
class Written:
    """A program in the form of some kind.

    Args:
        content: the file.
        lost: sentences on what the program says and the file doesn't.
    """

    content: bytes
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """A form in which a program can be written.

    Args:
        name: as ``--to`` has it.
        summary: one line.
        writer: ``module:function``, from a ``Program`` to ``Written``. Raises ``AttachError`` for what has no place in
            the form, with the reason and what to do instead.
        suffix: of the file.
    """

    name: str
    summary: str
    writer: str
    suffix: str

    def write(self, program: Program) -> Written:
        """Write a program. Raises ``AttachError`` for what has no place in the form."""
        module, _, attribute = self.writer.partition(":")
        function = cast("Callable[[Program], Written]", getattr(import_module(module), attribute))
        return function(program)


_ROWS: Final = (
    Kind(
        "program",
        "A program of steerkit's own, which steerkit-vllm serves: everything that data can say.",
        "steerkit.exporting.own:write_program",
        ".program.safetensors",
    ),
    Kind(
        "gguf",
        "A control vector of llama.cpp: vectors added at outputs of blocks from block 1 on, at every token.",
        "steerkit.exporting.gguf:write_gguf",
        ".gguf",
    ),
    Kind(
        "vllm-lens",
        "Fields of a request of vllm-lens: vectors added at outputs of blocks, at all tokens.",
        "steerkit.exporting.vllm_plugins:write_vllm_lens",
        ".vllm-lens.json",
    ),
    Kind(
        "easysteer",
        "Fields of a request of EasySteer: vectors and low-rank updates at outputs of blocks, also at some tokens.",
        "steerkit.exporting.vllm_plugins:write_easysteer",
        ".easysteer.json",
    ),
    Kind(
        "hotwire-vllm",
        "A file of vectors for a server of hotwire-vllm, added at outputs of blocks, at all or generated tokens.",
        "steerkit.exporting.vllm_plugins:write_hotwire",
        ".hotwire.pt",
    ),
    Kind(
        "vllm-hook",
        "A file with one vector for vLLM-Hook, added at the output of one block, at all tokens of every request.",
        "steerkit.exporting.vllm_plugins:write_vllm_hook",
        ".vllm-hook.pt",
    ),
)

KINDS: Final[Mapping[str, Kind]] = {row.name: row for row in _ROWS}


def kind_named(name: str) -> Kind:
    """A row of the table. Raises ``UnknownNameError`` for a name that isn't there."""
    if name not in KINDS:
        raise UnknownNameError(f"Nothing can be exported as {name!r}. {nearest(name, KINDS, 'kind')}")
    return KINDS[name]
