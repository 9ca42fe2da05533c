"""The one schema of ``sweep.json``: the runs of a sweep, their settings, and what became of each."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from pydantic import ValidationError

from steerkit.artifacts.entry import Entry
from steerkit.artifacts.files import shown_path
from steerkit.artifacts.rundir import write_json
from steerkit.errors import ArtifactError
from steerkit.types.json_text import RepeatedKeyError, read_json

SWEEP: Final = "sweep.json"
SWEEP_VERSION: Final = 1

State = Literal["waiting", "running", "finished", "failed"]


class SweepMember(Entry):
    """One run of a sweep.

    ``settings`` are its values of what is swept, by dotted key, and ``recipe_hash`` is that of its plan: a member whose
    recipe or data have changed since is another one. ``run`` is its run directory beside ``sweep.json`` once it is
    finished. ``error`` says why it failed, and ``traceback`` where, for what isn't a user's mistake.
    """

    _rare: ClassVar[tuple[str, ...]] = ("traceback",)
    settings: Mapping[str, Any]
    model: str
    recipe_hash: str
    state: State = "waiting"
    run: str | None = None
    error: str | None = None
    traceback: str | None = None

    @property
    def label(self) -> str:
        """Its settings in a line: ``model.source=gpt2, seed=1``."""
        return settings_label(self.settings)


class Sweep(Entry):
    """The whole of ``sweep.json``.

    ``over`` are the values of each setting, in the order in which they were given, and ``members`` their product.
    ``others`` are members of an earlier call that this one doesn't ask for; should they be asked for again, they
    are there.
    """

    _rare: ClassVar[tuple[str, ...]] = ("others",)
    schema_version: int = SWEEP_VERSION
    recipe: str
    name: str
    title: str
    over: Mapping[str, tuple[Any, ...]]
    overrides: tuple[str, ...] = ()
    profile: str | None = None
    store: str | None = None
    members: tuple[SweepMember, ...] = ()
    others: tuple[SweepMember, ...] = ()

    def counted_by(self, state: State) -> int:
        """How many members are in a state."""
        return sum(one.state == state for one in self.members)


def value_text(value: Any) -> str:
    """A value as a command line has it: a text without quotes, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def settings_label(settings: Mapping[str, Any]) -> str:
    """Settings in a line, as they were given."""
    return ", ".join(f"{key}={value_text(value)}" for key, value in settings.items())


def is_sweep(folder: Path) -> bool:
    """Whether a folder is the directory of a sweep."""
    return os.path.isfile(folder / SWEEP)  # False of what no path can be


def write_sweep(folder: Path, sweep: Sweep) -> None:
    """Write ``sweep.json``, whole or not at all."""
    write_json(folder / SWEEP, sweep.model_dump())


def load_sweep(folder: Path) -> Sweep:
    """Read ``sweep.json`` from a sweep's directory.

    Raises:
        ArtifactError: where there is none, it is damaged, or another version wrote it.
    """
    path = folder / SWEEP
    if not is_sweep(folder):
        raise ArtifactError(
            f"{shown_path(folder)} has no {SWEEP}: it is not the directory of a sweep. Give the one that "
            "`steerkit sweep` printed."
        )
    try:
        raw = read_json(path.read_text("utf-8"))
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version == SWEEP_VERSION:
            return Sweep.model_validate(raw)
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error.strerror}. Check its permissions.") from None
    except (ValidationError, RepeatedKeyError, ValueError, RecursionError):
        raise ArtifactError(f"{path} is damaged. Remove it and run the sweep again: kept outputs are used.") from None
    raise ArtifactError(
        f"{path}: schema_version is {version!r}, and this steerkit reads {SWEEP_VERSION}. Use the version that wrote "
        "it, or choose another --out."
    )
