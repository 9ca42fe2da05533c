"""Files that a command makes for a user to go on with: all of them or none, and never in place of another one."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

from steerkit.errors import ArtifactError


def chosen_folder(out: str | None, otherwise: str) -> Path:
    """The folder that ``--out`` names. An empty text is a mistake, and not the folder that one is in."""
    if out is not None and not out.strip():
        raise ArtifactError(f"--out names no folder. Leave it out for {otherwise}, or name one.")
    return Path(otherwise if out is None else out)


def place(folder: Path, files: Mapping[str, str]) -> None:
    """Write new files into a folder, which is made where there is none.

    Args:
        folder: where to.
        files: texts by path relative to it.

    Raises:
        ArtifactError: where one of them is there already, or can't be written; nothing is then left behind.
    """
    there = [name for name in files if (folder / name).exists() or (folder / name).is_symlink()]
    if there:
        more = f" and {len(there) - 1} more of its files are" if len(there) > 1 else " is"
        raise ArtifactError(
            f"{folder / there[0]}{more} there already. Nothing was written: choose another folder with --out."
        )
    made: list[Path] = []
    try:
        for name, text in files.items():
            path = folder / name
            lacking = [one for one in (path.parent, *path.parent.parents) if not one.exists()]
            for one in reversed(lacking):
                one.mkdir(exist_ok=True)
                made.append(one)
            with path.open("x", encoding="utf-8", newline="\n") as file:
                made.append(path)
                file.write(text)
    except BaseException as error:
        for path in reversed(made):
            path.rmdir() if path.is_dir() else path.unlink()
        # A full disk is told by the command line, as of any command.
        if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ArtifactError(
                f"{error.filename} can't be written ({error.strerror}). Nothing was written: choose another folder "
                "with --out."
            ) from None
        raise
