"""Put a program on a model, and take it off without a trace."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.api.architecture import Layout, Tap
from steerkit.engine.hooking.compiled import Hook, Hooks
from steerkit.engine.hooking.steps import Applied, Like, build, build_literal, chain
from steerkit.engine.lowering.fold import Swap
from steerkit.engine.lowering.places import Probe
from steerkit.engine.lowering.program import Program, Slot, Step
from steerkit.engine.sequence.cursor import Cursor, require_copies
from steerkit.engine.sequence.finding import Finder
from steerkit.engine.sequence.sequences import Memory
from steerkit.engine.sites.taps import Handler, input_hook, output_hook, submodule
from steerkit.errors import AttachError
from steerkit.types import Site


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
        self._hooks: list[Hook] = []
        # New parameters first: they are worked out from the old ones, which nothing has touched yet.
        with torch.inference_mode(False), torch.no_grad():
            self._swaps: list[Swap] = [swap for fold in program.folds for swap in fold.swaps(model)]
        self._kept = [(module, name, module._parameters[name]) for module, name, _ in self._swaps]
        self._versions = [0 if value is None else value._version for _, _, value in self._kept]
        self._built: dict[Hashable, Applied] = {}
        pending = dict(readers or {})
        order = layout.order
        for slot in program.slots:
            for site in [site for site in pending if order[site] < order[slot.site]]:
                self._tap(model, layout.tap(site), pending.pop(site))
            for tap, handler in self._handlers(model, slot):
                self._tap(model, tap, handler)
        for site in sorted(pending, key=order.__getitem__):
            self._tap(model, layout.tap(site), pending[site])
        if any(isinstance(item, Probe) for slot in program.slots for item in (*slot.items, *slot.carried)) or any(
            not edit.when.always for edit in program.edits
        ):
            base = submodule(model, layout.base)
            self._hooks.insert(0, (base, "input", self.cursor.before_forward))
        elif program.n_rows is not None:
            self._hooks.insert(0, (submodule(model, layout.base), "input", _row_check(program.n_rows)))
        self._put = Hooks(self._hooks)

    def _tap(self, model: nn.Module, tap: Tap, handler: Handler) -> None:
        hook = input_hook(handler, tap.keyword) if tap.side == "input" else output_hook(handler)
        self._hooks.append((submodule(model, tap.module), tap.side, hook))

    def _handlers(self, model: nn.Module, slot: Slot) -> list[tuple[Tap, Handler]]:
        """What to register for a slot. The model's weights tell device and dtype once, here."""
        path = slot.tap.module
        if path not in self._likes:
            # A guess from the weights; a step casts again where its value turns out to be something else.
            self._likes[path] = like_of(submodule(model, path), model)
        like = self._likes[path]
        own = self._run_of(slot.items, like, slot.literal)
        if slot.resid_pre is None:
            return [(slot.tap, own)]
        carried = self._run_of(slot.carried, like, slot.literal)
        held: list[Tensor] = []

        def keep(x: Tensor) -> None:
            held[:] = [x]

        def between(attn_out: Tensor) -> Tensor:
            attn_out = own(attn_out)
            resid_mid = held.pop() + attn_out
            new = carried(resid_mid)
            # As a difference, so that tokens that nothing edited keep their attn_out to the bit.
            return attn_out if new is resid_mid else attn_out + (new - resid_mid)

        return [(slot.resid_pre, keep), (slot.tap, between)]

    def _run_of(self, items: Sequence[Step | Probe], like: Like, literal: bool) -> Applied:
        steps: list[Applied] = []
        for item in items:
            if isinstance(item, Probe):
                steps.append(_probe(item, self.cursor))
            elif literal:
                steps.append(build_literal(item, self.cursor))
            else:
                # One update usually stands at many sites; it is cast and built once.
                parts = (None if part is None else (id(part.update), part.when) for part in item.parts)
                key = (like, tuple(parts))
                if key not in self._built:
                    self._built[key] = build(item, self.cursor, like)
                steps.append(self._built[key])
        return chain(steps)

    def attach(self) -> None:
        """Put it on."""
        try:
            for module, name, parameter in self._swaps:
                module._parameters[name] = parameter
            self._put.attach()
        except BaseException:
            self.detach()
            raise

    def fits_still(self) -> bool:
        """Whether the parameters that it was worked out from are what they were."""
        return all(
            module._parameters[name] is value and (value is None or value._version == version)
            for (module, name, value), version in zip(self._kept, self._versions, strict=True)
        )

    def detach(self) -> None:
        """Take it off."""
        self.cursor.close()
        self._put.detach()
        for module, name, parameter in self._kept:
            module._parameters[name] = parameter


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


def certainly(undo: Callable[[], None]) -> None:
    """Finish ``undo``, which may be called twice, even if an interrupt falls into it; the interrupt comes after."""
    try:
        undo()
    except BaseException:
        undo()
        raise


def _row_check(n_rows: int) -> Callable[..., None]:
    def check(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs_embeds"))
        if given is not None:
            require_copies(given.shape[0], n_rows)

    return check


def _probe(probe: Probe, cursor: Cursor) -> Applied:
    def read(x: Tensor) -> Tensor:
        cursor.probe(probe.gate, probe.rows, x)
        return x

    return read


def like_of(module: nn.Module, model: nn.Module) -> Like:
    """Dtype and device of a floating-point parameter near a module: its own, else the model's first."""
    for owner in (module, *module.children(), model):
        for parameter in owner._parameters.values() if owner is not model else model.parameters():
            if parameter is not None and parameter.is_floating_point():
                return parameter.dtype, parameter.device
    raise AttachError("The model has no floating-point parameter, so the dtype of its activations isn't known.")
