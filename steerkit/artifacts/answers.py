"""Answers of judges and the like, kept on disk: a file each, under the hash of who asked and what."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from steerkit.artifacts.files import remove_halves, write_whole
from steerkit.errors import ArtifactError


@dataclass(frozen=True)
class AnswersOnDisk:
    """A folder of answers. Safe for several processes at once: a file is written whole or not at all.

    Args:
        folder: where they lie.
    """

    folder: Path

    def path(self, asker: str, question: str) -> Path:
        """Where an answer lies, or will lie."""
        key = sha256(json.dumps([asker, question]).encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.json"

    def get(self, asker: str, question: str) -> str | None:
        """The answer, or None. A damaged file counts as none, and is written anew."""
        try:
            held = json.loads(self.path(asker, question).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        right = isinstance(held, dict) and held.get("question") == question and isinstance(held.get("answer"), str)
        return str(held["answer"]) if right else None

    def put(self, asker: str, question: str, answer: str) -> None:
        """Keep an answer.

        Raises:
            ArtifactError: where the folder can't be written.
        """
        data = json.dumps({"question": question, "answer": answer}, ensure_ascii=False)
        try:
            remove_halves(self.path(asker, question).parent, deep=False)
            write_whole(self.path(asker, question), data.encode("utf-8", "surrogatepass"))
        except OSError as error:
            raise ArtifactError(
                f"Answers can't be kept in {self.folder}: {error.strerror or error}. Set STEERKIT_CACHE to a folder "
                "that can be written."
            ) from error
