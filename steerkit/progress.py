"""How far long work has come: told to an observer, or shown as a bar to the person at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol, TypeAlias

Progress: TypeAlias = Callable[[int, int], None]
"""Called with how many prompts are done, and of how many."""


StageKind: TypeAlias = Literal[
    "loading",
    "directory",
    "run",
    "tokens",
    "filter",
    "completions",
    "direction",
    "search",
    "separation",
    "monitor",
    "suffixes",
    "condition",
    "kept",
    "report",
]
"""Which part of a run begins; ``directory`` is where its files are from then on."""


class Stage(str):
    """The words for a part of a run that begins, with what it is in ``kind``: whoever acts on it needn't read them."""

    kind: StageKind

    def __new__(cls, kind: StageKind, what: str) -> Stage:
        """Args: which part, and what is said of it."""
        made = super().__new__(cls, what)
        made.kind = kind
        return made


class Observer(Protocol):
    """Is told what a run does."""

    def step(self, what: str) -> None:
        """Something begins; ``what`` says it in a few words. A ``Stage`` is a part of the run."""
        ...

    def progress(self, done: int, of: int) -> None:
        """So many prompts of the present step are done."""
        ...


class Silent:
    """An observer that does nothing."""

    def step(self, what: str) -> None:
        """Nothing."""

    def progress(self, done: int, of: int) -> None:
        """Nothing."""


SILENT = Silent()


class Noted:
    """Passes everything on to an observer, and each step's words to a function as well."""

    def __init__(self, observer: Observer, note: Callable[[str], None]) -> None:
        self._observer, self._note = observer, note

    def step(self, what: str) -> None:
        """Note and pass on."""
        self._note(what)
        self._observer.step(what)

    def progress(self, done: int, of: int) -> None:
        """Pass on."""
        self._observer.progress(done, of)


@contextmanager
def shown(progress: Progress | bool, what: str) -> Iterator[Progress]:
    """Yield what to call: the caller's own function, or a bar on standard error where that is a terminal.

    Args:
        progress: a function; True for a bar; False for neither.
        what: stands before the bar.
    """
    if callable(progress):
        yield progress
    elif not progress or not sys.stderr.isatty():
        yield SILENT.progress
    else:
        from rich.console import Console
        from rich.progress import Progress as Bar

        with Bar(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, of: bar.update(task, completed=done, total=of)
