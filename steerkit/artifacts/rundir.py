"""The run directory: each file is written whole or not at all, and a killed run goes on where it stopped."""

from __future__ import annotations

import json
import math
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from loguru import logger

from steerkit.artifacts.files import discard, remove_halves, write_whole
from steerkit.artifacts.results import Results, Timings
from steerkit.artifacts.samples import Sample
from steerkit.errors import ArtifactError

if TYPE_CHECKING:
    from loguru import Record

STAGES = "stages"
"""Folder of an unfinished run: whose it is, and its times so far. It goes when the run is finished."""

DIGEST = "digest"
"""The file of ``STAGES`` that marks the run as unfinished, and says whose it is."""

LOG = "run.log"
"""What began when, over all tries. Like ``timings.json``, it is no part of the results."""

LOG_FORMAT = "{time:YYYY-MM-DDTHH:mm:ss.SSSZ} {process} {message}"

RESULTS = "results.json"
"""Written last: where it is, everything is."""

TIMINGS = "timings.json"

_LONGEST = 1e9
"""Seconds: no part of a run takes longer."""

Reopened = Callable[[Path], bool]
"""Whether a finished run's directory is taken up again, such as one that only lacks its report."""


@dataclass
class RunDirectory:
    """One run's folder, ``<utc>-<name>-<hash8>``, held by one process at a time."""

    path: Path
    resumed: bool
    timings: dict[str, float] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def open(cls, out: Path, name: str, digest: str, reopened: Reopened = lambda path: False) -> Iterator[RunDirectory]:
        """Continue the newest unfinished directory of the same recipe and data, or begin one.

        Args:
            out: parent folder; made if need be.
            name: the recipe's name.
            digest: hash of everything that results depend on; another hash is another run.
            reopened: asked of finished directories that may be of the same run.

        Raises:
            ArtifactError: where the folder can't be written.
        """
        stem = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name).strip('-.') or 'run'}-{digest[:8]}"
        try:
            out.mkdir(parents=True, exist_ok=True)
            path, lock, resumed = _claim(out, stem, digest, reopened)
        except OSError as error:
            raise ArtifactError(
                f"Can't write run directories in {out}: {error.strerror}. Choose another --out."
            ) from error
        try:
            directory = cls(path, resumed)
            with _logging(path):
                remove_halves(path)
                if resumed:
                    directory._take_times()
                yield directory
        finally:
            lock.release()

    def note(self, what: str) -> None:
        """Add a line to ``run.log``."""
        # Below the level at which loguru prints of itself, so that a library user's terminal stays quiet.
        logger.trace("{}", what)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the body's wall time, in seconds, to ``timings.json``."""
        began = time.perf_counter()
        yield
        self.took(name, time.perf_counter() - began)

    def took(self, name: str, seconds: float) -> None:
        """Add wall time to ``timings.json``."""
        self.timings[name] = round(self.timings.get(name, 0.0) + seconds, 3)
        if (self.path / STAGES).exists():
            write_json(self.path / STAGES / TIMINGS, self.timings)

    def _take_times(self) -> None:
        """Add to the times of the tries before. Those that can't be read are gone: nothing else depends on them."""
        for file in (self.path / STAGES / TIMINGS, self.path / TIMINGS):
            try:
                seconds = json.loads(file.read_bytes())
                if file.parent == self.path:
                    seconds = seconds["seconds"]
                taken = {str(name): float(took) for name, took in dict(seconds).items()}
                if not all(0 <= took < _LONGEST for took in taken.values()):
                    raise ValueError("no times")
                self.timings.update(taken)
                return
            except FileNotFoundError:
                continue
            except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
                discard(file)
                self.note(f"{file} can't be read and is discarded: times begin anew")

    def finish(self, results: Results, samples: Sequence[Sample], estimate: Mapping[str, float] | None = None) -> None:
        """Write what readers read, then give up the stages: the run is whole from here on. See ``write``."""
        self.write(results, samples, estimate)
        self.close()

    def write(self, results: Results, samples: Sequence[Sample], estimate: Mapping[str, float] | None = None) -> None:
        """Write what readers read, the results last. The run stays unfinished, for what may come behind them.

        Args:
            results: the results.
            samples: prompts and completions.
            estimate: how long all was said to take, and how far off that was; None where nobody said.
        """
        write_lines(self.path / "samples.jsonl", [sample.model_dump() for sample in samples])
        self.write_times(estimate)
        write_json(self.path / RESULTS, results.model_dump())

    def write_times(self, estimate: Mapping[str, float] | None = None) -> None:
        """Write what ``timings.json`` holds."""
        timings = Timings(seconds=self.timings, estimate=estimate)
        write_json(self.path / TIMINGS, timings.model_dump(exclude_none=True))

    def close(self) -> None:
        """Give up the stages: the run is finished from here on."""
        # The digest goes first: without it nobody takes the run for an unfinished one, also where another process looks
        # in and makes the lock anew while the rest goes. What it makes may stay behind.
        (self.path / STAGES / DIGEST).unlink(missing_ok=True)
        shutil.rmtree(self.path / STAGES, ignore_errors=True)


@contextmanager
def _logging(path: Path) -> Iterator[None]:
    """Write what is logged in this context, and in no other run's, to the directory's log."""
    run = f"{path}#{secrets.token_hex(8)}"

    def ours(record: Record) -> bool:
        return record["extra"].get("run") == run and str(record["name"]).split(".")[0] == "steerkit"

    # What keeps the log from being written, such as a full disk, ends the run as it does elsewhere.
    sink = logger.add(path / LOG, level="TRACE", filter=ours, format=LOG_FORMAT, catch=False)
    try:
        with logger.contextualize(run=run):
            yield
    finally:
        logger.remove(sink)


def _claim(out: Path, stem: str, digest: str, reopened: Reopened) -> tuple[Path, FileLock, bool]:
    """The newest unfinished directory that no other process holds, else a new one; and whether something is in it."""
    for path in sorted(out.glob(f"*-{stem}"), reverse=True):
        if not _is_open(path, stem, digest, reopened):
            continue
        lock = FileLock(path / STAGES / ".lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        if _is_open(path, stem, digest, reopened):
            begun = (path / STAGES / DIGEST).exists() or (path / RESULTS).exists()
            write_text(path / STAGES / DIGEST, digest)
            return path, lock, begun
        # Another process finished it between our look and our lock; the lock made the folder anew.
        lock.release()
        shutil.rmtree(path / STAGES, ignore_errors=True)
    now = datetime.now(UTC)
    for attempt in range(100):
        suffix = f".{attempt}" if attempt else ""
        path = out / f"{now:%Y%m%dT%H%M%SZ}{suffix}-{stem}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        held = _begun(path, digest)
        if held is not None:
            return path, held, False
    raise ArtifactError(f"A hundred runs of {stem} began in one second in {out}.")


def _is_open(path: Path, stem: str, digest: str, reopened: Reopened) -> bool:
    """Whether a directory is this run's, and isn't finished, or is taken up again."""
    if not path.is_dir() or not re.fullmatch(rf"\d{{8}}T\d{{6}}Z(\.\d+)?-{re.escape(stem)}", path.name):
        return False
    try:
        marked = (path / STAGES / DIGEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if (path / RESULTS).exists():
            return reopened(path)
        # A process that was killed before it could mark what it began has left nothing else.
        return all(one.name == STAGES for one in path.iterdir())
    except OSError:
        return False
    # A mark that is none says whose it is no more. Its name does, and all of it is written again.
    return marked == digest.encode() or not re.fullmatch(rb"[0-9a-f]{64}", marked)


def _begun(path: Path, digest: str) -> FileLock | None:
    """Mark a new directory as an unfinished run, and hold it. Where that can't be written, nothing is left.

    None where another process took it for abandoned in the meantime, and has it.
    """
    lock = FileLock(path / STAGES / ".lock")
    try:
        (path / STAGES).mkdir(exist_ok=True)
        lock.acquire(blocking=False)
        if (path / RESULTS).exists():
            lock.release()
            shutil.rmtree(path / STAGES, ignore_errors=True)
            return None
        write_text(path / STAGES / DIGEST, digest)
    except Timeout:
        return None
    except BaseException:
        lock.release()
        shutil.rmtree(path, ignore_errors=True)
        raise
    return lock


# Writing, whole or not at all


def plain(value: Any) -> Any:
    """A value as JSON has it: what isn't finite was not measured and becomes null, never 0."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    return str(value)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with null for numbers that aren't finite."""
    write_text(path, json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON Lines."""
    write_text(path, "".join(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Write text, whole or not at all."""
    write_whole(path, text.encode())
