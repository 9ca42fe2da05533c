"""Files of ``torch.save``: what they hold, seen without torch and without running anything, and their tensors.

Such a file is a zip archive whose ``data.pkl`` is a pickle. ``outline`` walks that pickle's instructions and calls
nothing that they name, so a file can be looked at before anybody trusts it. Tensors are loaded by torch itself with
``weights_only=True``, which knows tensors and plain containers, and only of files whose outline names nothing else.
"""

from __future__ import annotations

import io
import pickletools
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, Final

from steerkit.errors import ArtifactError, listed

_LONGEST: Final = 16_000_000
"""Bytes of a pickle that are looked at; that of a file of vectors is far shorter."""
_NEWEST: Final = 3
"""Protocol of pickles that torch reads as weights; it writes 2."""
_MOST_ROWS: Final = 65_536
"""Vectors in one tensor; there are no models of so many layers, and no directions of such rank."""
_DTYPES: Final = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_REBUILD: Final = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v3")
_PARAMETER: Final = "torch._utils._rebuild_parameter"
_PLAIN: Final = frozenset(
    {*_REBUILD, _PARAMETER, "collections.OrderedDict", "torch.Size", "torch.Tensor", "torch.nn.parameter.Parameter"}
)


class NoTorchFileError(ValueError):
    """A file isn't one of ``torch.save``, or can't be looked into."""


@dataclass(frozen=True)
class TensorOutline:
    """A tensor in a file: its shape, and its dtype by torch's name."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Named:
    """What a pickle names of some module, as ``os.system``."""

    name: str


@dataclass
class Made:
    """What a pickle would have a named thing make: with which arguments, and what state it would then be given."""

    name: str
    arguments: Any = ()
    state: Any = None


@dataclass(frozen=True)
class Outline:
    """What a file of ``torch.save`` holds.

    Args:
        value: containers, numbers and texts as they are, with ``TensorOutline``, ``Made`` and ``Named`` in them.
        names: all that the pickle names, but for what tensors and plain containers are made of.
    """

    value: Any
    names: tuple[str, ...]


def outline(path: Path) -> Outline:
    """What a file holds.

    Raises:
        NoTorchFileError: where it isn't one of ``torch.save``, or can't be looked into.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise NoTorchFileError(f"can't be read ({error.strerror}). Check the path") from None
    return _outline(str(path), status.st_mtime_ns, status.st_size)


def sniffed(path: Path) -> Any:
    """The value of an outline, for formats to look at; None for any other file."""
    try:
        return outline(path).value
    except NoTorchFileError:
        return None


@lru_cache(maxsize=32)  # every format that reads such files looks at one, one after the other
def _outline(path: str, changed: int, size: int) -> Outline:
    try:
        return _walked(_pickle_of(Path(path), size))
    except NoTorchFileError:
        raise
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise NoTorchFileError(f"is damaged or no file of torch.save ({error})") from None
    except Exception as error:  # instructions that fit nothing: whatever they lead to, it is no file of torch's
        raise NoTorchFileError(f"is damaged: its pickle can't be read ({type(error).__name__})") from None


def _pickle_of(path: Path, size: int) -> bytes:
    """The pickle in a file, which torch writes without packing it."""
    with path.open("rb") as file:
        begin = file.read(4)
        if begin[:1] == b"\x80":
            raise NoTorchFileError(
                "is a bare pickle, which can run code when it is read. Where you trust it, open it and write it again "
                "with torch.save"
            )
        if begin != b"PK\x03\x04":
            raise NoTorchFileError("is damaged or no file of torch.save")
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise NoTorchFileError("is no file of torch.save, whose parts are not packed")
            if sum(entry.file_size for entry in entries) > size:
                raise NoTorchFileError("is damaged: its parts are longer than the file")
            found = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
            if len(found) != 1 or any(entry.filename.endswith("/constants.pkl") for entry in entries):
                raise NoTorchFileError("is a zip archive, but none of torch.save")
            if found[0].file_size > _LONGEST:
                raise NoTorchFileError("holds far more than vectors")
            return archive.read(found[0])


def _walked(data: bytes) -> Outline:
    """Follow a pickle's instructions on a stack of our own, where what would be called is only written down."""
    walk = _Walk()
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "STOP":
            names = tuple(dict.fromkeys(name for name in walk.names if not _plain(name)))
            return Outline(walk.pop(), names)
        if opcode.name == "PROTO" and int(argument or 0) > _NEWEST:
            raise NoTorchFileError(
                f"was written with pickle protocol {argument}, which torch's loader of weights doesn't read. Write it "
                "again with torch.save and its own protocol"
            )
        step = _STEPS.get(opcode.name)
        if step is None:
            raise NoTorchFileError(f"is damaged, or holds more than vectors ({opcode.name})")
        step(walk, argument)
    raise NoTorchFileError("is damaged: its pickle has no end")


class _Walk:
    """The stack and the memo of a pickle that is followed."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.names: list[str] = []

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if self.marks and len(self.stack) == self.marks[-1]:
            raise NoTorchFileError("is damaged: its pickle ends early")
        return self.stack.pop()

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def marked(self) -> list[Any]:
        """What lies above the last mark, which goes with it."""
        at = self.marks.pop()
        values = self.stack[at:]
        del self.stack[at:]
        return values

    def name(self, module: str, name: str) -> None:
        self.names.append(f"{module}.{name}")
        self.push(Named(f"{module}.{name}"))

    def keep(self, at: int | None) -> None:
        self.memo[len(self.memo) if at is None else at] = self.stack[-1]

    def make(self) -> None:
        """What a call would give: a tensor's outline, a container, or a note of what would be called."""
        arguments, called = self.pop(), self.pop()
        self.push(_made(called.name if isinstance(called, Named) else "", arguments))

    def state(self) -> None:
        state = self.pop()
        if isinstance(self.stack[-1], Made):
            self.stack[-1].state = state

    def items(self, values: Sequence[Any]) -> None:
        self.stack[-1].update(zip(values[::2], values[1::2], strict=True))

    def tuple(self, size: int) -> None:
        values = [self.pop() for _ in range(size)]
        self.push(tuple(reversed(values)))


def _made(name: str, arguments: Any) -> Any:
    if name in _REBUILD:
        (_, storage, *_), shape = arguments[0], arguments[2]
        return TensorOutline(tuple(map(int, shape)), _DTYPES.get(storage.name.rpartition(".")[2], ""))
    if name == _PARAMETER:
        return arguments[0]
    if name == "collections.OrderedDict":
        return {}
    return tuple(arguments[0]) if name == "torch.Size" else Made(name, arguments)


def _plain(name: str) -> bool:
    module, _, last = name.rpartition(".")
    return name in _PLAIN or (module in ("torch", "torch.storage") and last.endswith("Storage"))


def _pushed(walk: _Walk, argument: Any) -> None:
    walk.push(argument)


def _global(walk: _Walk, argument: Any) -> None:
    walk.name(*str(argument).split(" ", 1))


def _stack_global(walk: _Walk, argument: Any) -> None:
    name, module = walk.pop(), walk.pop()
    walk.name(str(module), str(name))


def _build_pair(walk: _Walk, argument: Any) -> None:
    value, key = walk.pop(), walk.pop()
    walk.items([key, value])


def _extend(walk: _Walk, argument: Any) -> None:
    values = walk.marked()
    walk.stack[-1].extend(values)


_Step = Callable[[_Walk, Any], None]
_STEPS: Final[Mapping[str, _Step]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda walk, argument: None),
    **dict.fromkeys(
        (
            "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE",
            "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING", "STRING", "BINBYTES",
            "SHORT_BINBYTES", "BINBYTES8",
        ),
        _pushed,
    ),
    "NONE": lambda walk, argument: walk.push(None),
    "NEWTRUE": lambda walk, argument: walk.push(True),
    "NEWFALSE": lambda walk, argument: walk.push(False),
    "MARK": lambda walk, argument: walk.mark(),
    "EMPTY_DICT": lambda walk, argument: walk.push({}),
    "EMPTY_LIST": lambda walk, argument: walk.push([]),
    "EMPTY_TUPLE": lambda walk, argument: walk.push(()),
    "TUPLE": lambda walk, argument: walk.push(tuple(walk.marked())),
    "TUPLE1": lambda walk, argument: walk.tuple(1),
    "TUPLE2": lambda walk, argument: walk.tuple(2),
    "TUPLE3": lambda walk, argument: walk.tuple(3),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"), lambda walk, argument: walk.keep(argument)),
    **dict.fromkeys(("BINGET", "LONG_BINGET", "GET"), lambda walk, argument: walk.push(walk.memo[argument])),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda walk, argument: walk.make()),
    "BUILD": lambda walk, argument: walk.state(),
    "BINPERSID": lambda walk, argument: None,  # the storage that it names stays as it is written
    "SETITEM": _build_pair,
    "SETITEMS": lambda walk, argument: walk.items(walk.marked()),
    "APPEND": lambda walk, argument: walk.stack[-2].append(walk.pop()),
    "APPENDS": _extend,
}  # fmt: skip


def torch_fault(path: Path, classes: Collection[str] = ()) -> str | None:
    """Why ``load`` would refuse a file before torch sees it, as a sentence; None where it wouldn't. Needs no torch."""
    try:
        strange = [name for name in outline(path).names if name not in classes]
    except NoTorchFileError as error:
        return f"{path} {error}."
    if not strange:
        return None
    return (
        f"{path} is a pickle that names {listed(strange)}, and steerkit reads tensors and plain containers only, since "
        "anything else can run code. Where you trust the file, open it and write its tensors again with torch.save."
    )


def load(path: Path, classes: Mapping[str, type] | None = None) -> Any:
    """What a file of ``torch.save`` holds, its tensors on the CPU. Nothing else in it is made, let alone run.

    Args:
        path: the file.
        classes: by the full name that the file has for it, a stand-in of ours for a class of plain fields.

    Raises:
        ArtifactError: where the file is missing, damaged, none of ``torch.save``, or names anything but tensors, plain
            containers and such classes.
    """
    import torch

    known = dict(classes or {})
    fault = torch_fault(path, known)
    if fault is not None:
        raise ArtifactError(fault)
    try:
        with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in known.items()]), _quiet():
            return torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except Exception as error:  # of damaged bytes torch says so in many ways
        raise ArtifactError(
            f"{path} is damaged: torch can't load it ({type(error).__name__}). Get a whole copy."
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what torch warns of in a file that it reads all the same: an odd protocol."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def saved(value: Any) -> bytes:
    """The bytes of ``torch.save``; equal values give equal ones. Tensors are stored by themselves, not as parts."""
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def is_matrix(value: Any, *dimensions: int) -> bool:
    """Whether the outline of something is that of a tensor of real numbers with so many dimensions, none empty."""
    return (
        isinstance(value, TensorOutline)
        and len(value.shape) in dimensions
        and prod(value.shape) > 0
        and all(0 < size <= _MOST_ROWS for size in value.shape[:-1])
        and value.dtype not in ("", "bool")
    )


def has_keys(value: Any, keys: Collection[str]) -> bool:
    """Whether the outline of something is that of a mapping with these keys at least."""
    return isinstance(value, dict) and set(keys) <= value.keys()
