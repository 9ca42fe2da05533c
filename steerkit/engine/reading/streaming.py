"""Completions token by token, while they are written.

``generate`` of transformers runs to its end once it is called, so it runs in a thread of its own and what it writes is
taken from a queue. Nothing that is waited for in the loop over it can wait for the loop: whoever wants the model
meanwhile waits for the batch that is being written, which goes on whether its tokens are taken or not. Closing has it
end behind the token that it is at.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Self

import torch

from steerkit.api.monitor import Completion, FinishReason, Monitor, Readings, TokenEvent
from steerkit.engine.lowering.edits import Steer
from steerkit.engine.reading.monitors import (
    Watch,
    completion_to_read,
    completion_with_readings,
    require_monitors_fit,
    require_own_rows,
)
from steerkit.engine.runtime.beginning import complete_batch
from steerkit.engine.runtime.ending import Written
from steerkit.engine.runtime.generation import has_beams
from steerkit.errors import AttachError, ModelError

if TYPE_CHECKING:
    from steerkit.engine.prompts.batches import Batch
    from steerkit.engine.prompts.chat import Rendered
    from steerkit.engine.prompts.inputs import Prompts
    from steerkit.engine.runtime.runtime import Runtime

LEFT: Final = (
    "The `with steer` block in which this stream was made has been left, so that what comes next would not be steered. "
    "Take all its events inside of the block."
)
ENDED: Final = (
    "The program's main thread has ended, and a stream keeps no program from ending: this one is cut off. "
    "Take its events while the main thread runs, or use completions."
)
INSIDE: Final = (
    "A stream is written in a thread of its own, which waits for the pass that this hook belongs to. Take its events "
    "outside of passes, or use completions here."
)
UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer gives for the first bytes of a character."""


@dataclass(eq=False)
class Wish:
    """Whether anybody still wants what is being written. Blocks know of the wishes that were made inside of them.

    Args:
        closed: whether nobody does.
        left: whether a block was left in which it was made.
    """

    closed: bool = False
    left: bool = False

    @property
    def over(self) -> bool:
        """Whether to stop. Also where only threads like this one keep the interpreter from ending."""
        return self.closed or self.left or not threading.main_thread().is_alive()

    def leave(self) -> None:
        """A block in which it was made is being left."""
        self.left = True


@dataclass(frozen=True)
class _Token:
    """A token, on its way from who writes to who reads."""

    index: int
    sequence: int
    token: int
    reason: FinishReason | None
    readings: Mapping[str, Readings]
    completion: Completion | None


@dataclass(frozen=True)
class _Over:
    """Behind the last token."""

    error: BaseException | None = None


@dataclass(frozen=True)
class _Job:
    """What is to be written."""

    live: Runtime
    rendered: Sequence[Rendered]
    batches: Sequence[Batch]
    monitors: Sequence[Monitor]
    max_new_tokens: int
    steer: Sequence[Steer] | None
    settings: Mapping[str, Any]


class Stream(Iterator[TokenEvent]):
    """The events of ``generate(..., stream=True)``: an iterator, and a context manager that closes it.

    Prompts are written batch by batch, as ``generate`` does it, and with the same tokens. What steers is what was
    active where the stream was made. It may be dropped at any time; ``close``, or the end of a ``with`` block around
    it, waits until the model is free and as it was.
    """

    def __init__(
        self,
        live: Runtime,
        prompts: Prompts,
        monitors: Sequence[Monitor] = (),
        *,
        max_new_tokens: int,
        steer: Sequence[Steer] | None = None,
        **settings: Any,
    ) -> None:
        rendered = live.to_complete(prompts, max_new_tokens, steer)
        require_monitors_fit(monitors, live.layout)
        if monitors:
            require_own_rows(settings)
        if has_beams(live.model, settings):
            raise ModelError(
                "Beams are chosen among when all are written, so there is nothing to stream. Leave num_beams out, or "
                "stream."
            )
        if steer is None:
            live.steering.shared.require_condition()
        self._live, self._wish = live, Wish()
        self._blocks = live.steering.shared.here()
        for block in self._blocks:
            block.wishes.add(self._wish)
        batches = live.batched(rendered, "left", extra_tokens=max_new_tokens)
        job = _Job(live, rendered, batches, tuple(monitors), max_new_tokens, steer, settings)
        self._queue: SimpleQueue[_Token | _Over] = SimpleQueue()
        # Bound to no method: a thread that holds this object would keep it, and itself, alive.
        arguments = (_write, job, self._wish, self._queue, _autocast(live.device.type))
        self._thread = threading.Thread(target=copy_context().run, args=arguments, name="steerkit-stream")
        self._beginning = threading.Lock()
        self._texts: dict[tuple[int, int], _Text] = {}
        self._done = False

    def __next__(self) -> TokenEvent:
        """The next token of any row, as soon as it is written.

        Raises:
            AttachError: where the ``with steer`` block in which it was made has been left, or inside of a hook.
        """
        if self._done:
            raise StopIteration
        try:
            if self._thread.ident is None:
                self._begin()
            got = self._queue.get()
        except BaseException:
            self.close()
            raise
        if isinstance(got, _Over):
            self._queue.put(got)  # for whoever else waits
            self.close()
            if got.error is not None:
                raise got.error
            raise StopIteration
        text = self._texts.setdefault((got.index, got.sequence), _Text(self._live))
        before = text.shown
        text.take(got)
        return TokenEvent(
            got.index,
            got.sequence,
            got.token,
            text.shown,
            text.shown[len(before) :],
            got.readings,
            got.reason,
            got.completion,
        )

    def _begin(self) -> None:
        if self._wish.left:
            raise AttachError(LEFT)
        if self._live.steering.shared.turns.mine:
            raise AttachError(INSIDE)
        with self._beginning:
            if self._thread.ident is None:
                self._thread.start()

    def close(self) -> None:
        """Write no further token, and wait until the model is as it was and free for others. May be repeated."""
        self._done = self._wish.closed = True
        for block in self._blocks:
            block.wishes.discard(self._wish)
        # Who holds the turn would wait for a thread that waits for the turn; it ends by itself.
        if self._thread.ident is not None and not self._live.steering.shared.turns.mine:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Wherever a collection happens to be: nobody waits there. Absent where the constructor refused.
        wish: Wish | None = getattr(self, "_wish", None)
        if wish is not None:
            wish.closed = True


# Who writes


def _write(job: _Job, wish: Wish, queue: SimpleQueue[_Token | _Over], autocast: AbstractContextManager[Any]) -> None:
    """Write everything, and then say so or what went wrong."""
    error: BaseException | None = None
    try:
        with autocast:
            for batch in job.batches:
                if not wish.over:
                    _write_batch(job, batch, wish, queue)
                if wish.left:
                    raise AttachError(LEFT)
                if wish.over and not wish.closed:
                    raise AttachError(ENDED)
    except BaseException as failed:
        error = failed
    finally:
        queue.put(_Over(error))


def _write_batch(job: _Job, batch: Batch, wish: Wish, queue: SimpleQueue[_Token | _Over]) -> None:
    watch = Watch(job.monitors, batch.input_ids.shape[1])
    complete_batch(
        job.live,
        batch,
        max_new_tokens=job.max_new_tokens,
        settings=job.settings,
        steer=job.steer,
        readers=watch.readers if job.monitors else None,
        listener=_Teller(job, batch, watch, wish, queue),
    )


@dataclass(eq=False)
class _Teller:
    """Puts what is written of a batch into the queue, with what was read of it by then."""

    job: _Job
    batch: Batch
    watch: Watch
    wish: Wish
    queue: SimpleQueue[_Token | _Over]
    written: dict[int, list[int]] = field(default_factory=dict)

    @property
    def closed(self) -> bool:
        """Whether nobody wants to hear more."""
        return self.wish.over

    def tell(self, row: int, rows: int, token: int, reason: FinishReason | None) -> None:
        """Into the queue."""
        job, copies = self.job, rows // len(self.batch.order)
        place = row // copies
        index, first = self.batch.order[place], int(self.batch.frame.first[place])
        ids, prompt = self.written.setdefault(row, []), job.rendered[self.batch.order[place]]
        if reason != "end_token":
            ids.append(token)
        completion = None
        if reason is not None:
            one = Written(ids, reason)
            completion = completion_with_readings(
                job.live, self.watch, job.monitors, row, first, prompt, one, number=index + 1
            )
            readings = completion.readings
        else:
            text = completion_to_read(prompt, ids)
            readings = {one.name: self.watch.readings(one, row, first, text, number=index + 1) for one in job.monitors}
        self.queue.put(_Token(index, row % copies, token, reason, readings, completion))


def _autocast(device: str) -> AbstractContextManager[Any]:
    """The autocast of the calling thread, for another one, which doesn't inherit it."""
    if not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, dtype=torch.get_autocast_dtype(device))


# Who reads


class _Text:
    """The text of a row as far as it is complete: what was shown once is never taken back."""

    def __init__(self, live: Runtime) -> None:
        self._live, self._ids = live, list[int]()
        self.shown = ""

    def take(self, token: _Token) -> None:
        """Another token."""
        if token.completion is not None:
            self.shown = _complete(token.completion.text)
            return
        self._ids.append(token.token)
        text = _complete(self._live.decode(self._ids))
        if getattr(self._live.chat.tokenizer, "clean_up_tokenization_spaces", False):
            # A sign that follows may take away the blank before it, or join with the last word.
            text = text[: max(text.rfind(" "), 0)]
        if text.startswith(self.shown):
            self.shown = text


def _complete(text: str) -> str:
    """The text without what may be half a character, and the blanks before it."""
    shorter = text.rstrip(UNFINISHED).rstrip()
    return text if shorter == text else _complete(shorter)
