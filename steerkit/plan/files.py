"""Files that a recipe names, looked into without what will read them in the end."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steerkit.api.files import pipe_fault
from steerkit.types.json_text import RepeatedKeyError

if TYPE_CHECKING:
    from steerkit.api.hookspecs import FormatSpec, Options
    from steerkit.plan.types import PlannedDirection

_VECTORS: Final = ".vectors"
"""Behind a direction's name, in the names of what our format holds; of several sites each is named behind an @."""
_SPECIAL: Final = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
_TYPES: Final = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "BOOL": "?",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
}
"""numpy's names of safetensors' types, of which it has no bfloat16: that is the upper half of a float32."""
_ZERO: Final = "is zero, which is no direction"


def directions_fault(path: Path, reader: FormatSpec, options: Options, direction: str, *, named: bool) -> str | None:
    """What keeps a file from being one of saved directions, as far as its format can tell; None where nothing does.

    Args:
        path: the file, or the folder.
        reader: the format that it is read in.
        options: of the format.
        direction: name of the direction that is taken from it; of a file of one the name doesn't matter.
        named: whether the recipe names the format; otherwise the file is of it, or of none.
    """
    from steerkit.artifacts.formats import OURS, knows, reader_of

    if (fault := pipe_fault(path)) is not None:
        return fault
    if not knows(path, reader, options, named=named):
        if named:
            return f"{path} is not of format {reader.name}; remove format, or name another file"
        if reader.name == OURS:
            return _no_directions(path)
        told = reader_of(reader, options).fault(path)
        return told.removesuffix(".") if told else f"{path} is of no format that is known; name another file"
    if reader.name == OURS:
        return _own_fault(path, reader, options, direction)
    fault = reader_of(reader, options).fault(path)
    return None if fault is None else fault.removesuffix(".")


def hash_of_files(planned: PlannedDirection) -> str:
    """sha256 of the file that a direction is read from, or of all files that reading it takes, with their names."""
    from steerkit.artifacts.formats import reader_of

    assert planned.file is not None and planned.reader is not None
    read = reader_of(planned.reader, planned.options).files(planned.file)
    contents = [hashlib.sha256(file.read_bytes()).hexdigest() for file in read]
    if list(read) == [planned.file]:
        return contents[0]
    named = [f"{file.name} {content}" for file, content in zip(read, contents, strict=True)]
    return hashlib.sha256("\n".join(named).encode()).hexdigest()


def _no_directions(path: Path) -> str:
    """Why a file that no format knows is none of ours."""
    from steerkit.api.direction_bytes import read_header

    try:
        header, _ = read_header(path)
    except OSError as error:
        return f"{path} can't be read: {error.strerror or error}"
    except RepeatedKeyError as error:
        return f"{path} is damaged: in its header {error}"
    if header is None:
        return f"{path} is not a safetensors file, or is damaged; name one that save_directions or a run wrote"
    return f"{path} holds no directions of steerkit's; name a file that save_directions or a run wrote"


def _own_fault(path: Path, reader: FormatSpec, options: Options, direction: str) -> str | None:
    """What is wrong with a file of ours, of which more can be told than of others'."""
    from steerkit.api.direction_bytes import header_fault, read_header
    from steerkit.artifacts.formats import reader_of

    header, begin = read_header(path)
    assert header is not None  # by it the file is known
    fault = header_fault(header, str(path))
    if fault is not None:
        return fault.removesuffix(".")
    names = reader_of(reader, options).places(path)
    own = direction if direction in names else next(iter(names), direction)
    if own != direction and len(names) > 1:
        return f"{path} holds {', '.join(names)}, and none is called {direction!r}: name it as the file does"
    return _vectors_fault(path, begin, header, own) or _frame_fault(path)


def _frame_fault(path: Path) -> str | None:
    """That safetensors doesn't read a file, whose header and length it looks at and no number."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return None
    except (SafetensorError, OSError, ValueError) as error:
        return f"{path} is damaged or cut off, and no safetensors file ({error}): get a whole copy"


def _vectors_fault(path: Path, start: int, header: Mapping[str, Any], direction: str) -> str | None:
    """That a file of ours is shorter than it says, or holds what keeps a direction from being read.

    Reading refuses the whole file for a number in it that isn't finite; vectors that are zero matter to whom uses them.
    """
    vectors = f"{direction}{_VECTORS}"
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__" and isinstance(entry, dict)}
    try:
        ends = {name: tuple(map(int, entry["data_offsets"])) for name, entry in tensors.items()}
        if path.stat().st_size < start + max((end for _, end in ends.values()), default=0):
            return f"{path} is cut off: get a whole copy, or run the recipe that wrote it once more"
        for name, (first, end) in ends.items():
            with path.open("rb") as file:
                file.seek(start + first)
                fault = _numbers_fault(file.read(end - first), str(tensors[name].get("dtype")))
            used = name == vectors or name.startswith(f"{vectors}@")
            if fault is not None and (used or fault != _ZERO):
                return f"{name} in {path} {fault}: estimate it again"
    except (OSError, KeyError, TypeError, ValueError):
        return None  # the load will say what is wrong with it
    return None


def _numbers_fault(content: bytes, dtype: str) -> str | None:
    """That numbers aren't finite, or are all zero; None for types that this can't tell of."""
    import numpy as np

    if dtype not in _TYPES:
        return None
    held = np.frombuffer(content, _TYPES[dtype])
    if dtype == "BF16":
        held = (held.astype("<u4") << 16).view("<f4")
    with np.errstate(over="ignore"):  # directions are kept as float32, in which larger numbers are infinite
        finite = bool(np.isfinite(held.astype("<f4") if dtype == "F64" else held).all())
    if not finite:
        return "holds NaN or infinite values, which are no direction"
    return _ZERO if held.size and not bool(held.any()) else None


def template_fault(
    text: str, system_prompt: str | None, arguments: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> str | None:
    """What is wrong with a chat template; None where nothing is, as far as one question tells.

    Args:
        text: the template.
        system_prompt: of the recipe's model, or None.
        arguments: the template's own variables.
        names: the model's special tokens, where they are at hand; others are empty texts.
    """
    from steerkit.templates import TemplateFaultError, compiled, messages_of
    from steerkit.types import Example

    try:
        render = compiled(text, {**dict.fromkeys(_SPECIAL, ""), **(names or {})})
    except TemplateFaultError as fault:
        return f"not a Jinja template: {fault.said}"
    if "{" not in text:
        return "the template shows no message, since nothing in it is in braces, as in {{ messages[0].content }}"
    try:
        shown = render(messages_of(Example.of("Hello."), system_prompt), **{**arguments, "add_generation_prompt": True})
    except TemplateFaultError as fault:
        return f"the template can't render a question: {fault.said}"
    return None if shown else "the template makes an empty text of a question, which a model can't read"
