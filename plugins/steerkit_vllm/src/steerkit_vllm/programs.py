"""The programs that a server has loaded: by name for those who ask, by content for the workers; bounded in number."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

from steerkit.api.program import Program
from steerkit.errors import counted, nearest
from steerkit_vllm.errors import Full, InUse, Refused, UnknownProgram

DIGEST: Final = "sha256:"
"""Before a program's digest, where a request names content and no name."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


@dataclass(frozen=True, eq=False)
class Loaded:
    """A program under the name that requests call it by.

    Args:
        name: that name; the file's own may be another one.
        program: what is done.
    """

    name: str
    program: Program

    @property
    def digest(self) -> str:
        """Hash of its content."""
        return self.program.digest

    def to_json(self) -> dict[str, Any]:
        """What a client may know of it."""
        program = self.program
        return {
            "id": self.name,
            "object": "steer.program",
            "digest": self.digest,
            "places": [str(site) for site in program.sites],
            "monitors": [one.name for one in program.monitors],
            "system_prompt": program.system_prompt,
            "shares_cache": program.is_everywhere,
        }


def check_name(name: object) -> str:
    """The name, where it is one. Raises ``Refused`` otherwise."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Refused(
            f"A program goes by up to 128 letters, digits and ., _, / and -, beginning with a letter or digit; not by "
            f"{name!r}."
        )
    return name


class Programs:
    """Names, contents and who is using them. Safe to ask from several threads.

    Args:
        most: how many programs of different content may be loaded at once.
        fits: raises ``Unfit`` for a program that the served model has no place for.
    """

    def __init__(self, most: int, fits: Callable[[Program], None]) -> None:
        self.most = most
        self._fits = fits
        self._named: dict[str, Loaded] = {}
        self._coming: dict[str, Loaded] = {}
        self._running: Counter[str] = Counter()
        self._lock = Lock()

    def __iter__(self) -> Iterator[Loaded]:
        with self._lock:
            return iter(sorted(self._named.values(), key=lambda one: one.name))

    @property
    def room(self) -> int:
        """How many further contents there is room for."""
        with self._lock:
            return self.most - len(self._contents())

    def admit(self, name: object, program: Program) -> tuple[Loaded, bool]:
        """Reserve a name and room for a program. Requests find it when it is ``ready``.

        Args:
            name: what requests call it by.
            program: of a content that may be loaded already, under another name.

        Returns:
            It, and whether the workers have to load its content and somebody to say ``ready`` or ``abandon`` then.

        Raises:
            Refused: for a text that is no name.
            Unfit: where the served model has no place for it.
            InUse: where another content goes by that name, or is being loaded.
            Full: where there is no room.
        """
        called = check_name(name)
        self._fits(program)
        with self._lock:
            present = self._named.get(called)
            if present is not None and present.digest == program.digest:
                return present, False
            if present is not None:
                raise InUse(f"Another program is loaded as {called!r}. Free it first, or choose another name.")
            if called in self._coming or program.digest in {one.digest for one in self._coming.values()}:
                raise InUse(f"{called!r} is being loaded already. Wait until it is listed.")
            contents = self._contents()
            if program.digest not in contents and len(contents) >= self.most:
                raise Full(
                    f"{counted(self.most, 'program')} {'are' if self.most > 1 else 'is'} loaded, and there is room for "
                    "no more. Free one, or start the server with a larger --max-programs."
                )
            loaded = Loaded(called, program)
            if program.digest in contents:
                self._named[called] = loaded
                return loaded, False
            self._coming[called] = loaded
            return loaded, True

    def ready(self, loaded: Loaded) -> None:
        """The workers have loaded it: requests may name it."""
        with self._lock:
            self._named[loaded.name] = self._coming.pop(loaded.name)

    def abandon(self, loaded: Loaded) -> None:
        """The workers have no place for it."""
        with self._lock:
            self._coming.pop(loaded.name, None)

    def named(self, text: object) -> Loaded:
        """The program of a name, or of ``sha256:`` and a digest. Raises ``UnknownProgram``."""
        with self._lock:
            return self._find(text)

    def discard(self, name: object) -> tuple[Loaded, bool]:
        """Forget a name.

        Returns:
            What it was, and whether the workers have to free its content: no other name has it.

        Raises:
            UnknownProgram: where there is no such name.
            InUse: while requests are running with it.
        """
        with self._lock:
            loaded = self._find(name)
            alone = [one for one in self._named.values() if one.digest == loaded.digest] == [loaded]
            if alone and (running := self._running[loaded.digest]):
                raise InUse(
                    f"{counted(running, 'request')} {'are' if running > 1 else 'is'} running with {loaded.name!r}. "
                    "Free it afterwards."
                )
            del self._named[loaded.name]
            return loaded, alone

    def put_back(self, loaded: Loaded) -> None:
        """Undo ``discard``, where the workers wouldn't free it."""
        with self._lock:
            self._named[loaded.name] = loaded

    @contextmanager
    def use(self, text: object) -> Iterator[Loaded]:
        """The program of a name, which can't be freed meanwhile. Raises ``UnknownProgram``."""
        with self._lock:
            loaded = self._find(text)
            self._running[loaded.digest] += 1
        try:
            yield loaded
        finally:
            with self._lock:
                self._running[loaded.digest] -= 1
                if not self._running[loaded.digest]:
                    del self._running[loaded.digest]

    def _contents(self) -> set[str]:
        return {one.digest for one in (*self._named.values(), *self._coming.values())}

    def _find(self, text: object) -> Loaded:
        if isinstance(text, str):
            if text in self._named:
                return self._named[text]
            for one in self._named.values():
                if text == f"{DIGEST}{one.digest}":
                    return one
        hint = nearest(text, sorted(self._named), "program") if self._named and isinstance(text, str) else ""
        raise UnknownProgram(f"No program {text!r} is loaded. {hint or 'None is loaded at all.'}".rstrip())
