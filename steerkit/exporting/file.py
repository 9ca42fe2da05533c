"""From a run to a file for another engine, top to bottom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.api.files import write_whole
from steerkit.artifacts.files import require_file
from steerkit.catalog import Catalog
from steerkit.errors import ArtifactError, SteerkitError
from steerkit.exporting.kinds import kind_named
from steerkit.exporting.lowered import program_of_run
from steerkit.progress import SILENT, Observer

if TYPE_CHECKING:
    from steerkit.api.program import Program


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Args:
        path: where it is.
        kind: what it is, as ``program``.
        program: what it was made from.
        lost: sentences on what the condition says and the file doesn't.
    """

    path: Path
    kind: str
    program: Program
    lost: tuple[str, ...] = ()


def export(
    run: str | Path,
    condition: str,
    to: str = "program",
    out: str | Path | None = None,
    *,
    monitors: Sequence[str] = (),
    force: bool = False,
    observer: Observer = SILENT,
    catalog: Catalog | None = None,
) -> Exported:
    """Write a condition of a finished run as a file that another engine reads. Its weights aren't needed for it.

    Args:
        run: the run directory.
        condition: as the run's results name it; a control (``warmer/random-1``) is one too.
        to: the kind of file, as ``program``.
        out: the file; in the current folder, named after condition and kind, if not given.
        monitors: names of monitors of the run's recipe that go along; of a baseline with monitors nothing is steered.
        force: write over a file that is there.
        observer: told what is done; nobody by default.
        catalog: plugins; discovered if not given.

    Raises:
        AttachError: where the kind has no place for the condition, with the reason.
        ArtifactError: where the run can't be read, has changed since, or the file can't be written.
        UnknownNameError: where the run has no such condition or monitor, or nothing is exported as ``to``.
    """
    if not isinstance(condition, str) or not isinstance(run, (str, Path)) or not isinstance(to, str):
        raise SteerkitError("export takes a run directory, the name of one of its conditions, and a kind of file.")
    kind = kind_named(to)
    path = Path(f"{condition.replace('/', '-')}{kind.suffix}") if out is None else Path(out).expanduser()
    require_file(path, f"the {to}", "Name another file with --out.")
    if path.exists() and not force:
        raise ArtifactError(f"{path} is there already. Name another file with --out, or write over it with --force.")
    program = program_of_run(run, condition, monitors, observer=observer, catalog=catalog)
    written = kind.write(program)
    write_whole(path, written.content)
    return Exported(path, to, program, written.lost)
