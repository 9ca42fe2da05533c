"""Put a program on a model, and take it off without a trace."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from torch import Tensor, nn

from steerkit.api.architecture import Layout, Tap
from steerkit.engine.hooking.compiled import Hook, Hooks
from steerkit.engine.hooking.folded import Folded
from steerkit.engine.hooking.steps import Applied, Like, build_literal_step, build_step, chain_steps
from steerkit.engine.loading.unwrap import runs_on
from steerkit.engine.lowering.places import Probe
from steerkit.engine.lowering.program import Program, Slot, Step
from steerkit.engine.sequence.cursor import Cursor, require_copies
from steerkit.engine.sequence.finding import Finder
from steerkit.engine.sequence.sequences import Memory
from steerkit.engine.sites.taps import Handler, hooks_of_tap, submodule
from steerkit.errors import AttachError
from steerkit.types import Site

Begins: TypeAlias = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]
"""What a program wants to know of a pass of the base model before it runs: its arguments. May be told twice."""


class Attachment:
    """A program on a model, or ready to be put there.

    Taking it off never relies on how far putting it on came: it removes whatever hook is one of its own and puts
    back every parameter that it may have swapped. So an exception, or an interrupt between two lines, leaves
    nothing behind, and taking it off twice does no harm.

    Args:
        model: the model.
        layout: its streams.
        program: what to put on it.
        memory: what is known of unfinished sequences, where attachments come and go while they run.
        find: looks for what ``from_token`` positions name.
        readers: handlers that read values at sites, after that site's updates and before any later one's.
        likes: dtype and device by module path, as far as they are known; what is found out is added.

    Raises:
        AttachError, SiteError: where the program doesn't fit; nothing is on the model then.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        program: Program,
        *,
        memory: Memory | None = None,
        find: Finder | None = None,
        readers: Mapping[Site, Handler] | None = None,
        likes: dict[str, Like] | None = None,
    ) -> None:
        self._likes = {} if likes is None else likes
        self.cursor = Cursor(memory, find, program.n_rows)
        self.begins: Begins | None = None
        self.is_on = False
        self._hooks: list[Hook] = []
        # New parameters first: they are worked out from the old ones, which nothing has touched yet.
        self._folded = Folded(model, program.folds)
        self._built: dict[Hashable, Applied] = {}
        pending = dict(readers or {})
        order = layout.order
        for slot in program.slots:
            for site in [site for site in pending if order[site] < order[slot.site]]:
                self._read(model, layout.tap(site), pending.pop(site))
            if slot.resid_pre is not None:
                self._carry(model, slot, slot.resid_pre)
            else:
                self._tap(model, slot.tap, self._run_of(slot.items, self._like(model, slot), slot.literal))
        for site in sorted(pending, key=order.__getitem__):
            self._read(model, layout.tap(site), pending[site])
        if any(isinstance(item, Probe) for slot in program.slots for item in (*slot.items, *slot.carried)) or any(
            not edit.when.always for edit in program.edits
        ):
            self.begins = self.cursor.before_forward
        elif program.n_rows is not None:
            self.begins = _hook_that_requires_copies(program.n_rows)
        if self.begins is not None:
            self._hooks.insert(0, (submodule(model, layout.base), "seen", self._begin(self.begins)))
        self._put = Hooks(self._hooks)

    def _begin(self, begins: Begins) -> Callable[..., None]:
        def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
            # A pass that waited for its turn holds a list of the hooks that were there before. One that came off
            # since is called without keyword arguments, whether or not it is there again.
            if self.is_on and kwargs is not None:
                begins(module, args, kwargs)

        return begin

    def _tap(self, model: nn.Module, tap: Tap, handler: Handler) -> None:
        self._hooks += hooks_of_tap(model, tap, handler)

    def _read(self, model: nn.Module, tap: Tap, handler: Handler) -> None:
        # What comes out of a block is read before the next one's updates, which stand there too.
        self._hooks += [
            (module, "output" if side == "output" else "seen", hook)
            for module, side, hook in hooks_of_tap(model, tap, handler)
        ]

    def _like(self, model: nn.Module, slot: Slot) -> Like:
        """Dtype and device of a slot's value: a guess from the weights, looked up once; a step that meets a value of
        another kind casts again."""
        path = slot.tap.module
        if path not in self._likes:
            self._likes[path] = like_of(submodule(model, path), model)
        return self._likes[path]

    def _carry(self, model: nn.Module, slot: Slot, resid_pre: Tap) -> None:
        """Edit the sum of what goes into a block and what its first writer adds, by way of what that one adds."""
        like = self._like(model, slot)
        own, carried = self._run_of(slot.items, like, slot.literal), self._run_of(slot.carried, like, slot.literal)
        # The tap shows the product already where its factor was left there, as where a gate compares it.
        cursor, kept, factor = self.cursor, slot.keep, slot.factor / slot.tap.factor

        def keep(x: Tensor) -> None:
            cursor.resid_pre = x

        def between(attn_out: Tensor) -> Tensor:
            attn_out = own(attn_out)
            # It was seen before the block asked for it, so perhaps on the device of the block before.
            resid_pre = cursor.take_resid_pre().to(attn_out.device)
            added = attn_out if factor == 1.0 else attn_out * factor
            resid_mid = (resid_pre if kept == 1.0 else resid_pre * kept) + added
            new = carried(resid_mid)
            if new is resid_mid:
                return attn_out
            # As a difference, so that tokens that nothing edited keep their attn_out to the bit.
            return attn_out + (new - resid_mid if factor == 1.0 else (new - resid_mid) / factor)

        self._read(model, resid_pre, keep)
        self._tap(model, slot.tap, between)

    def _run_of(self, items: Sequence[Step | Probe], like: Like, literal: bool) -> Applied:
        steps: list[Applied] = []
        for item in items:
            if isinstance(item, Probe):
                steps.append(_probe_hook(item, self.cursor))
            elif literal:
                steps.append(build_literal_step(item, self.cursor))
            else:
                # One update usually stands at many sites; it is cast and built once.
                parts = (None if part is None else (id(part.update), part.when) for part in item.parts)
                key = (like, tuple(parts))
                if key not in self._built:
                    self._built[key] = build_step(item, self.cursor, like)
                steps.append(self._built[key])
        return chain_steps(steps)

    def attach(self) -> None:
        """Put the program on the model."""
        try:
            self._folded.on()
            self._put.attach()
            self.is_on = True
        except BaseException:
            self.detach()
            raise

    @property
    def intact(self) -> bool:
        """Whether all the parameters that were put on the model are there."""
        return self._folded.intact

    def fits_still(self) -> bool:
        """Whether the parameters that it was worked out from are what they were. Asked while it is off."""
        return self._folded.fits

    def detach(self) -> None:
        """Take the program off the model."""
        self.is_on = False
        self._put.detach()
        self._folded.off()

    def close(self) -> None:
        """Let go of the sequences that it followed: it will not be put on again. Warns of parameters that somebody
        put in place of folded ones.

        Raises:
            AttachError: where somebody changed a parameter that was folded; the model's own is back, without that.
        """
        self.cursor.close()
        self._folded.note_lost()
        lost, self._folded.lost = self._folded.lost, []
        replaced, self._folded.replaced = self._folded.replaced, []
        if lost:
            raise AttachError(
                f"While something was folded into the model to steer it, {_few(lost)}. That change is "
                "lost: the model has its own parameters back. Change parameters outside of the block, or steer with "
                "mode='hook', which touches none."
            )
        if replaced:
            warnings.warn(
                f"While something was folded into the model to steer it, another parameter was put in place of "
                f"{_few(replaced)}. It stays. If it was made of the one that stood there, it holds the steering: make "
                "it outside of the block, or of state_dict(), which is plain.",
                UserWarning,
                stacklevel=2,
            )

    def follows(self, other: Attachment) -> None:
        """Stand in for another one, which will not be put on again: what there is to tell of it is told at the end."""
        self._folded.follows(other._folded)


@contextmanager
def attached(
    model: nn.Module, layout: Layout, program: Program, *, readers: Mapping[Site, Handler] | None = None
) -> Iterator[Cursor]:
    """Run the body with the program on the model.

    Yields:
        the cursor to which frames are given.

    Raises:
        AttachError: where the program can't be attached; the model is then as it was.
    """
    attachment = Attachment(model, layout, program, readers=readers)
    try:
        attachment.attach()
        yield attachment.cursor
    finally:
        # Twice, since an interrupt may fall into the first one; it does no harm.
        try:
            attachment.detach()
        finally:
            attachment.detach()
            attachment.close()


def _few(listed: Sequence[str]) -> str:
    more = f", and {len(listed) - 3} more" if len(listed) > 3 else ""
    return f"{'; '.join(listed[:3])}{more}"


def certainly(undo: Callable[[], None]) -> None:
    """Finish ``undo``, which may be called twice, even if an interrupt falls into it; the interrupt comes after."""
    try:
        undo()
    except BaseException:
        undo()
        raise


def _hook_that_requires_copies(n_rows: int) -> Begins:
    def check(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs_embeds"))
        if given is not None:
            require_copies(given.shape[0], n_rows)

    return check


def _probe_hook(probe: Probe, cursor: Cursor) -> Applied:
    def read(x: Tensor) -> Tensor:
        cursor.probe(probe.gate, probe.rows, x)
        return x

    return read


def like_of(module: nn.Module, model: nn.Module) -> Like:
    """Dtype and device of a floating-point parameter near a module: its own, else the model's first."""
    for owner in (module, *module.children(), model):
        for parameter in owner._parameters.values() if owner is not model else model.parameters():
            if parameter is not None and parameter.is_floating_point():
                # What is offloaded is nowhere between passes; values are where its module runs.
                return parameter.dtype, runs_on(owner) or parameter.device
    raise AttachError("The model has no floating-point parameter, so the dtype of its activations isn't known.")
