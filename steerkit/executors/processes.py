"""Workers that are processes of this machine, each with a device of its own.

Each is a fresh interpreter, which doesn't run the program's main module again, and with which pickled messages are
exchanged over its standard input and output. It isn't in the terminal's group of processes, so that Ctrl-C reaches
this process alone, which ends them. Where this process dies of whatever, their input ends and so do they.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import IO, Final

from steerkit.errors import ExecutorError
from steerkit.executors.crossing import packed
from steerkit.executors.machine import Hello
from steerkit.executors.worker import Answered, Gone, Message, Sent, Worker

_BOOT: Final = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from steerkit.executors.processes import work
work()
"""
_LENGTH: Final = struct.Struct(">Q")
_PATIENCE: Final = 5.0
"""Seconds that a process has to end when it was told to, which it does at once."""


class Processes:
    """A line to processes of this machine.

    Args:
        environments: for each worker what it has in its environment beside this process's own.
    """

    def __init__(self, environments: list[Mapping[str, str]]) -> None:
        self.size = len(environments)
        self._environments = environments
        self._running: dict[int, _Process] = {}
        self._heard: queue.SimpleQueue[tuple[_Process, Message]] = queue.SimpleQueue()

    def where(self, place: int) -> str:
        """What a worker is called in messages."""
        return f"Worker {place + 1}"

    def start(self, place: int, hello: Hello) -> None:
        """Start a process."""
        if place in self._running:
            self._running[place].end()
        self._running[place] = _Process(place, self._environments[place], self._heard)
        self._running[place].say(pickle.dumps(hello))

    def send(self, place: int, sent: Sent) -> None:
        """Send a job."""
        try:
            content = pickle.dumps(sent)
        except Exception as error:  # pickle raises whatever it likes
            raise ExecutorError(
                f"A task can't be sent to another process ({error}): what a plugin makes has to be something of its "
                "module. Run it without --executor."
            ) from error
        self._running[place].say(content)

    def receive(self) -> tuple[int, Message]:
        """Wait for what any process says next."""
        while True:
            process, message = self._heard.get()
            if self._running.get(process.place) is process:
                if isinstance(message, Gone):
                    del self._running[process.place]
                    message = Gone(process.why())
                return process.place, message

    def close(self) -> None:
        """End all of them."""
        for process in self._running.values():
            process.end()
        self._running.clear()


class _Process:
    """One process, and the thread that listens to it."""

    def __init__(
        self, place: int, environment: Mapping[str, str], heard: queue.SimpleQueue[tuple[_Process, Message]]
    ) -> None:
        self.place, self._heard = place, heard
        # What libraries print, of which the last is told if it dies. Shut when that is known.
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps([str(path) for path in sys.path])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        except OSError as error:
            self._complaints.close()
            raise ExecutorError(f"A worker can't be started: {error.strerror}. Take fewer workers.") from error
        self._listener = threading.Thread(target=self._listen, name=f"steerkit-worker-{place + 1}", daemon=True)
        self._listener.start()

    def say(self, content: bytes) -> None:
        """Send bytes. To one that has died nothing goes: the listener tells of that."""
        assert self._process.stdin is not None
        with suppress(OSError):
            _write(self._process.stdin, content)

    def why(self) -> str:
        """Why it ended, in words."""
        code = self._process.wait()
        self._complaints.seek(0, os.SEEK_END)
        self._complaints.seek(max(0, self._complaints.tell() - 2000))
        lines = self._complaints.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        self._shut()
        if code < 0:
            with suppress(ValueError):
                return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}{f': {last}' if last else ''}"

    def end(self) -> None:
        """End it, whatever it is doing."""
        with suppress(OSError):
            self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        self._listener.join(_PATIENCE)
        self._shut()

    def _shut(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._complaints):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                content = _read(self._process.stdout)
            except (OSError, ValueError):  # shut while we listened
                content = None
            if content is None:
                self._heard.put((self, Gone("")))
                return
            try:
                message = pickle.loads(content)
            except Exception as error:  # of a class that only the worker has
                message = Answered(None, packed(error), 0.0)
            self._heard.put((self, message))


def _write(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(_LENGTH.pack(len(content)))
    pipe.write(content)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes | None:
    """The next message; None at the end, also in the middle of one."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    content = pipe.read(length)
    return content if len(content) == length else None


def work() -> None:
    """What a worker's process runs, until its input ends."""
    # What libraries print goes where errors go, and what they ask is not answered: both ends carry messages alone.
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    asked: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_wait, args=(questions, asked), daemon=True).start()
    lock = threading.Lock()

    def tell(message: Message) -> None:
        content = pickle.dumps(message)
        with lock:
            _write(answers, content)

    worker = Worker(tell)
    tell(worker.begin(pickle.loads(asked.get())))
    while True:
        content = asked.get()
        tell(worker.carry(partial(pickle.loads, content)))


def _wait(questions: IO[bytes], asked: queue.SimpleQueue[bytes]) -> None:
    """Take messages in while a job runs, and end the process with its input: nobody waits for it any more."""
    while (content := _read(questions)) is not None:
        asked.put(content)
    os._exit(0)
