"""Outputs of tasks by key: written whole or not at all, believed only where they are what was written.

An entry is a file ``<first two digits>/<key>`` that holds the sha256 of its key and content, a newline and the content.
Two processes may write one key at the same time: what a key names is the same bytes, whoever computed them. When an
entry was last used, its time of modification says.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from loguru import logger

from steerkit.artifacts.files import discard, remove_halves, write_whole
from steerkit.errors import ArtifactError

STORE: Final = ".store"
"""The store's folder beside run directories."""

_KEY: Final = re.compile(r"[0-9a-f]{64}")
_DIGEST: Final = 64


@dataclass(frozen=True)
class Store:
    """A folder of outputs. It may be removed at any time, and is then computed again.

    Args:
        folder: which one.
        discarded: what was said of entries that could not be read.
    """

    folder: Path
    discarded: list[str] = field(default_factory=list, compare=False)

    def get(self, key: str) -> bytes | None:
        """The output of a task; None where there is none, or none that is whole, which is told in the log."""
        file = self._file(key)
        try:
            entry = file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._discard(file.parent if isinstance(error, NotADirectoryError) else file, error.strerror)
            return None
        content = entry[_DIGEST + 1 :]
        if entry[: _DIGEST + 1] != _head(key, content):
            self._discard(file, "it isn't what was written")
            return None
        with suppress(OSError):  # a store that others share may be one to read only
            os.utime(file)
        return content

    def put(self, key: str, content: bytes) -> None:
        """Keep an output.

        Raises:
            ArtifactError: where the folder can't be written.
        """
        try:
            write_whole(self._file(key), _head(key, content) + content)
        except OSError as error:
            raise ArtifactError(f"Can't write in {self.folder}: {error.strerror}. Choose another --store.") from error

    def remove_halves(self) -> int:
        """Remove what processes that were killed were writing here, and nothing else; says how many files."""
        folders = [path for path in self.folder.glob("[0-9a-f][0-9a-f]") if not path.is_symlink()]
        return sum(remove_halves(path, f".{path.name}{'[0-9a-f]' * 62}.*.tmp", deep=False) for path in folders)

    def _discard(self, file: Path, why: str | None) -> None:
        """Say that an entry can't be used. The next one takes a file's place, and a folder's once that is gone."""
        if file.is_dir() or file.parent == self.folder:  # a file where a folder of entries belongs
            discard(file)
        said = f"{file} can't be read ({why}): it is discarded and computed again"
        if said not in self.discarded:
            self.discarded.append(said)
            logger.trace("{}", said)  # into the log of the run that it is read for

    def _file(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key.")
        return self.folder / key[:2] / key


def _head(key: str, content: bytes) -> bytes:
    """What stands before a content: that of another key, in this one's place, isn't believed."""
    return sha256(key.encode() + b"\n" + content).hexdigest().encode() + b"\n"
