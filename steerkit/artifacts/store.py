"""Outputs of tasks by key: written whole or not at all, believed only where they are what was written.

An entry is a file ``<first two digits>/<key>`` that holds the sha256 of its content, a newline and the content. Two
processes may write one key at the same time: what a key names is the same bytes, whoever computed them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from steerkit.artifacts.files import write_whole
from steerkit.errors import ArtifactError

STORE: Final = ".store"
"""The store's folder beside run directories."""

_KEY: Final = re.compile(r"[0-9a-f]{64}")
_DIGEST: Final = 64


@dataclass(frozen=True)
class Store:
    """A folder of outputs. It may be removed at any time, and is then computed again."""

    folder: Path

    def get(self, key: str) -> bytes | None:
        """The output of a task; None where there is none, or none that is whole."""
        try:
            entry = self._file(key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ArtifactError(f"Can't read {self._file(key)}: {error.strerror}. Choose another --store.") from error
        content = entry[_DIGEST + 1 :]
        return content if entry[: _DIGEST + 1] == _head(content) else None

    def put(self, key: str, content: bytes) -> None:
        """Keep an output.

        Raises:
            ArtifactError: where the folder can't be written.
        """
        try:
            write_whole(self._file(key), _head(content) + content)
        except OSError as error:
            raise ArtifactError(f"Can't write in {self.folder}: {error.strerror}. Choose another --store.") from error

    def _file(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key.")
        return self.folder / key[:2] / key


def _head(content: bytes) -> bytes:
    return sha256(content).hexdigest().encode() + b"\n"
