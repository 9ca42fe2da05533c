"""Programs as bytes: safetensors with a JSON header. Nothing in it can execute.

A tensor that stands at many places, as an ablation's does at every writer, is there once. The same program gives the
same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from steerkit.api.program import Program, ProgramModel, ProgramMonitor, ProgramUpdate
from steerkit.errors import ArtifactError, SteerkitError, counted
from steerkit.types import Positions, Schedule, Site
from steerkit.types.json_text import RepeatedKeyError, read_json

if TYPE_CHECKING:
    from torch import Tensor

VERSION: Final = 1
HEADER: Final = "steerkit.program"
SUFFIX: Final = ".program.safetensors"
_AGAIN: Final = "Export it again."


class _Strict(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, frozen=True, protected_namespaces=()
    )


class _Model(_Strict):
    model_type: str
    n_layers: int
    d_model: int
    source: str
    template_sha256: str | None


class _Update(_Strict):
    site: str
    reads: str | None = None
    writes: str | None = None
    bias: str | None = None
    positions: str
    schedule: str


class _Monitor(_Strict):
    name: str
    vectors: dict[str, str]
    threshold: float
    side: Literal["above", "below"]
    positions: str


class _Header(_Strict):
    version: int
    name: str
    model: _Model
    updates: list[_Update]
    monitors: list[_Monitor]
    system_prompt: str | None


def program_to_bytes(program: Program) -> bytes:
    """A program as bytes; the same one gives the same bytes, in any process."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    known: dict[str, str] = {}
    by_identity: dict[int, str] = {}

    def named(value: Tensor | None) -> str | None:
        if value is None:
            return None
        if id(value) not in by_identity:
            plain = value.detach().contiguous()
            content = sha256(f"{list(plain.shape)}".encode() + plain.numpy().tobytes()).hexdigest()
            if content not in known:
                known[content] = f"t{len(known):04d}"
                tensors[known[content]] = plain.clone()
            by_identity[id(value)] = known[content]
        return by_identity[id(value)]

    header = {
        "version": VERSION,
        "name": program.name,
        "model": _Model(**vars(program.model)).model_dump(),
        "updates": [
            {
                "site": str(one.site),
                **{part: named(getattr(one, part)) for part in ("reads", "writes", "bias")},
                "positions": str(one.positions),
                "schedule": str(one.schedule),
            }
            for one in program.updates
        ],
        "monitors": [
            {
                "name": one.name,
                "vectors": {str(site): named(vector) for site, vector in one.vectors.items()},
                "threshold": float(one.threshold),
                "side": one.side,
                "positions": str(one.positions),
            }
            for one in program.monitors
        ],
        "system_prompt": program.system_prompt,
    }
    text = json.dumps(header, sort_keys=True, allow_nan=False, ensure_ascii=True)
    content: bytes = save(tensors, metadata={HEADER: text})
    return content


def program_from_bytes(data: bytes, where: str = "the program") -> Program:
    """Read what ``program_to_bytes`` gave.

    Args:
        data: the bytes.
        where: what they are called in errors, such as a path.

    Raises:
        ArtifactError: for anything else: no program, another version, a header with a key that is missing, unknown or
            of another type, tensors of another width or dtype, with NaN, missing, or that nothing uses.
    """
    tensors, header = _opened(data, where)
    used: set[str] = set()

    def tensor(name: str | None) -> Tensor | None:
        if name is None:
            return None
        if name not in tensors:
            raise ArtifactError(f"its tensor {name!r} is missing")
        used.add(name)
        return tensors[name]

    try:
        updates = tuple(
            ProgramUpdate(
                Site.parse(one.site),
                tensor(one.reads),
                tensor(one.writes),
                tensor(one.bias),
                Positions.parse(one.positions),
                Schedule.parse(one.schedule),
            )
            for one in header.updates
        )
        monitors = tuple(
            ProgramMonitor(
                one.name,
                {
                    Site.parse(site): vector
                    for site, name in one.vectors.items()
                    if (vector := tensor(name)) is not None
                },
                one.threshold,
                one.side,
                Positions.parse(one.positions),
            )
            for one in header.monitors
        )
        if unused := sorted(tensors.keys() - used):
            raise ArtifactError(f"nothing in it uses its {counted(len(unused), 'tensor')} {', '.join(unused[:3])}")
        model = ProgramModel(**header.model.model_dump())
        return Program(header.name, model, updates, monitors, header.system_prompt)
    except SteerkitError as error:
        raise ArtifactError(f"{where} can't be read: {str(error).rstrip('.')}. {_AGAIN}") from None


def read_program(path: str | Path) -> Program:
    """The program in a file.

    Raises:
        ArtifactError: where there is no file, or it is no program.
    """
    try:
        return program_from_bytes(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}. Name a file that steerkit export wrote.") from None


def _opened(data: bytes, where: str) -> tuple[Mapping[str, Tensor], _Header]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        metadata: Any = read_json(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
        if HEADER not in metadata:
            raise ArtifactError(
                f"{where} is a safetensors file, but no program (its header lacks {HEADER!r}). Write one with "
                "steerkit export RUN --condition NAME --to program."
            )
        told = read_json(metadata[HEADER])
    except RepeatedKeyError as error:
        raise ArtifactError(f"{where} is damaged: in its header {error}. {_AGAIN}") from None
    except (SafetensorError, ValueError, RuntimeError, RecursionError):
        raise ArtifactError(f"{where} is no whole safetensors file. {_AGAIN}") from None
    version = told.get("version") if isinstance(told, dict) else None
    if version != VERSION or isinstance(version, bool):
        raise ArtifactError(
            f"{where} is a program of version {version!r}, and this steerkit reads {VERSION}. Read it with the "
            "steerkit that wrote it, or export it again."
        )
    try:
        return tensors, _Header.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{where} is damaged: {place}: {first['msg']}. {_AGAIN}") from None
