"""A GGUF file of a control vector: what is in it, and its bytes. It knows of numbers, and of no site.

llama.cpp's loader (``common_control_vector_load`` in ``common/common.cpp``) takes tensors ``direction.<k>`` of one
dimension, of F32 and of one width, with k from 1 on. It drops a whole file for anything else, and a server goes on
without. So none is written, and one that is read is refused in words.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from steerkit.errors import ArtifactError
from steerkit.types.json_text import read_json

if TYPE_CHECKING:
    from gguf import GGUFReader
    from numpy import ndarray

ARCHITECTURE: Final = "controlvector"
OWN: Final = "steerkit.direction"
"""Under which a file that steerkit wrote holds, as JSON, what else is known of the direction."""
EASYSTEER: Final = f"{ARCHITECTURE}.easysteer"
"""Under which EasySteer's hold, as JSON, what was captured."""
_MAGIC: Final = b"GGUF"
_HEAD: Final = 2**16
_FIRST: Final = re.compile(rb"general\.architecture.{4}.{8}controlvector(?![a-z])", re.DOTALL)
"""The key, its type and its length, which a writer may put in either order of bytes."""
_TEXT, _ARRAY = 8, 9
_WIDTHS: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Types of metadata, as GGUF numbers them, and the bytes of one number of each."""
_NUMBERED: Final = re.compile(r"direction\.(0|[1-9]\d{0,5})")


@dataclass(frozen=True)
class Held:
    """A file, looked through.

    Args:
        rows: vectors by their number, of one width, which are read when they are asked for.
        width: of each.
        texts: metadata that are texts, by name.
    """

    rows: Mapping[int, Any]
    width: int
    texts: Mapping[str, str]

    def row(self, number: int) -> ndarray[Any, Any]:
        """A vector, float32, apart from the file."""
        import numpy as np

        return np.array(self.rows[number].data, dtype=np.float32)


def is_control_vector(path: Path) -> bool:
    """Whether a file is a GGUF that says, at its beginning, that it is a control vector."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return False
    return head.startswith(_MAGIC) and _FIRST.search(head) is not None


def look(path: Path, *, half: bool = False, from_zero: bool = False) -> Held:
    """Look a file through.

    Args:
        path: the file.
        half: whether F16 will do.
        from_zero: whether ``direction.0`` will do.

    Raises:
        ArtifactError: for what is no control vector, is damaged, or holds what llama.cpp doesn't load.
    """
    reader = _opened(path)
    texts = {name: text for name in reader.fields if (text := _text(reader, name)) is not None}
    said = texts.get("general.architecture")
    if said != ARCHITECTURE:
        raise ArtifactError(
            f"{path} is a GGUF of {said or 'nothing that it names'}, and a control vector says {ARCHITECTURE}. Name "
            "the file of the vector; a model is named as model.source."
        )
    rows = {_number(path, tensor, half=half, from_zero=from_zero): tensor for tensor in reader.tensors}
    if not rows:
        raise ArtifactError(f"{path} is a control vector without a vector. Name another file.")
    widths = {number: int(tensor.shape[0]) for number, tensor in rows.items()}
    width = next(iter(widths.values()))
    for number, other in widths.items():
        if other != width:
            raise ArtifactError(
                f"{path} holds vectors of widths {width} and {other} (direction.{number}), and those of one model have "
                "one width. Export it again."
            )
    return Held({number: rows[number] for number in sorted(rows)}, width, texts)


def _opened(path: Path) -> GGUFReader:
    from gguf import GGUFReader

    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise ArtifactError(f"{path} is no GGUF file. Name the file that the vector was exported to.")
            _require_lengths(file, path.stat().st_size)
        return GGUFReader(path)
    except OSError as error:
        raise ArtifactError(f"{path} can't be read ({error.strerror}). Check the path.") from None
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, ArithmeticError, MemoryError, struct.error):
        raise ArtifactError(f"{path} is damaged or cut off, and no whole GGUF file. Get a whole copy.") from None


def _require_lengths(file: BinaryIO, size: int) -> None:
    """Raise ``ValueError`` where a text or an array of the metadata is longer than the file: the reader would go on
    for as many entries as it says. Behind the magic bytes."""

    def number(form: str) -> int:
        return int(struct.unpack(order + form, file.read(struct.calcsize(form)))[0])

    def skip(length: int) -> None:
        if length > size - file.tell():
            raise ValueError("longer than the file")
        file.seek(length, 1)

    def value(kind: int) -> None:
        skip(number("Q") if kind == _TEXT else _WIDTHS[kind])

    # A version fits into two bytes, so where they come last the file is of the other order.
    order = "<"
    version = number("I")
    order = "<" if version & 0xFFFF else ">"
    _, entries = number("Q"), number("Q")
    for _ in range(entries):
        skip(number("Q"))
        kind = number("I")
        if kind != _ARRAY:
            value(kind)
            continue
        of, count = number("I"), number("Q")
        if of == _TEXT:
            for _ in range(count):
                value(of)
        else:
            skip(count * _WIDTHS[of])


def _text(reader: GGUFReader, name: str) -> str | None:
    field = reader.fields[name]
    try:
        value = field.contents()
    except (ValueError, IndexError, UnicodeDecodeError):
        return None
    return value if isinstance(value, str) else None


def _number(path: Path, tensor: Any, *, half: bool, from_zero: bool) -> int:
    """The number of a tensor that a loader takes."""
    name, kind = str(tensor.name), str(getattr(tensor.tensor_type, "name", tensor.tensor_type))
    match = _NUMBERED.fullmatch(name)
    if match is None:
        raise ArtifactError(
            f"{path} holds a tensor {name!r}, and a control vector has none but direction.1, direction.2 and so on: "
            "llama.cpp drops the whole file for it. Export it again."
        )
    number = int(match[1])
    if number == 0 and not from_zero:
        raise ArtifactError(
            f"{path} holds direction.0, and there is no control vector at block 0: llama.cpp drops the whole file for "
            "it and goes on without. Leave block 0 out where it is exported."
        )
    if kind != "F32" and not (half and kind == "F16"):
        raise ArtifactError(
            f"{path} holds {name} as {kind}, and a control vector is F32: llama.cpp drops the whole file for it and "
            "goes on without. Export it in float32."
        )
    if len(tensor.shape) != 1:
        raise ArtifactError(f"{path} holds {name} with {len(tensor.shape)} dimensions, and a control vector has one.")
    return number


def own_facts(held: Held, path: Path) -> Mapping[str, Any] | None:
    """What a file that steerkit wrote says of its direction; None for another's file."""
    return _facts(held, OWN, path)


def easysteer_facts(held: Held, path: Path) -> Mapping[str, Any] | None:
    """What a file that EasySteer wrote says of its direction; None where it doesn't say that it did."""
    return _facts(held, EASYSTEER, path)


def _facts(held: Held, key: str, path: Path) -> Mapping[str, Any] | None:
    if key not in held.texts:
        return None
    try:
        facts = read_json(held.texts[key])
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: what it says under {key} isn't JSON ({error}).") from None
    if not isinstance(facts, dict) or facts.get("version") != 1:
        raise ArtifactError(
            f"{path} says under {key} what this version doesn't know. Read it with a newer steerkit, or export it "
            "again."
        )
    return facts


def to_bytes(rows: Mapping[int, ndarray[Any, Any]], model_type: str, facts: Mapping[str, Any]) -> bytes:
    """A file of vectors; the same ones give the same bytes.

    Args:
        rows: ``[width]`` by number, from 1 on, float32, of one width.
        model_type: as ``controlvector.model_hint``, which repeng asks for and llama.cpp doesn't look at.
        facts: what else is to be read again, as JSON values.

    Raises:
        ArtifactError: for facts that are no JSON.
    """
    from gguf import GGUFWriter

    try:
        text = json.dumps({"version": 1, **facts}, sort_keys=True, allow_nan=False, ensure_ascii=True)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"provenance may hold JSON values only ({error}).") from None
    with TemporaryDirectory(prefix="steerkit-") as folder:
        path = Path(folder) / "vector.gguf"
        writer = GGUFWriter(path, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model_type)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(rows))
        writer.add_string(OWN, text)
        for number in sorted(rows):
            writer.add_tensor(f"direction.{number}", rows[number])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()
