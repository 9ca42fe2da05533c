"""The oracle: what a condition means for one row, token by token, with nothing clever in it.

Whatever steers a model must give these logits. One unpadded row passes through the model once, without a cache.
At every site, in forward order, every intervention in the order given changes every token ``t`` in turn:

    x[t] ← x[t] + w[t]·(f(x[t]) − x[t])

``f`` is the update as it is declared. ``w[t]`` is 1 at the intervention's positions and 0 elsewhere, times the
schedule's factor, times the gate (1 or 0), times ``factor``. Edits are computed in float64 on the values that the
model computed in its own dtype, and rounded to that dtype once per site; a function of a ``Pointwise`` sees the
model's own dtype. To hold a bfloat16 model to float32, give the oracle a float32 copy of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from steerkit.api.architecture import Tap
from steerkit.api.intervention import Affine, Intervention, Placement, Update
from steerkit.engine.sites.evaluating import evaluating
from steerkit.engine.sites.taps import Handler, register_tap
from steerkit.errors import AttachError, PositionError, counted
from steerkit.types import FROM_TOKEN, RESID_MID, Positions, Site

if TYPE_CHECKING:
    from steerkit.session.model import LiveModel

Steer: TypeAlias = Placement | Intervention[Any] | Sequence[Placement | Intervention[Any]] | None


def oracle_logits(
    live: LiveModel,
    ids: Sequence[int] | Tensor,
    condition: Steer,
    *,
    prompt_length: int | None = None,
    instruction: tuple[int, int] | None = None,
) -> Tensor:
    """Logits of one row under a condition, ``[len, vocab]``, by the definitions alone.

    Args:
        live: the model, with nothing attached to it (outside ``live.steer``).
        ids: the row's tokens, ``[len]``, without padding.
        condition: an intervention, several, or None.
        prompt_length: how many of the tokens are the prompt; the others count as generated. None: nobody knows.
        instruction: ``[start, stop)`` of the user's own text.

    Raises:
        PositionError: for positions, schedules and gates that depend on what isn't given or isn't there.
        AttachError: for a gate whose site comes after an edit that it decides on.
    """
    row = _Row(live, [int(token) for token in ids], prompt_length, instruction)
    given = [condition] if isinstance(condition, (Placement, Intervention)) else list(condition or ())
    steps = [_Step(row, one if isinstance(one, Placement) else Placement(one)) for one in given]
    with ExitStack() as stack:
        for site in live.layout.sites():
            if any(step.acts_within(site) or step.reads_at(site) for step in steps):
                for tap, handler in _handlers(row, steps, site):
                    stack.callback(register_tap(live.model, tap, handler).remove)
        return row.logits()


def oracle_weights(
    live: LiveModel,
    ids: Sequence[int] | Tensor,
    placement: Placement,
    *,
    prompt_length: int | None = None,
    instruction: tuple[int, int] | None = None,
) -> Tensor:
    """The weight of each token before any gate is asked, ``[len]``, float64. Arguments as of ``oracle_logits``."""
    row = _Row(live, [int(token) for token in ids], prompt_length, instruction)
    weights = torch.zeros(len(row.ids), dtype=torch.float64)
    for t in row.places(placement.positions):
        weights[t] = 1.0 if placement.factor is None else float(placement.factor.detach())
        if not placement.schedule.is_constant:
            weights[t] *= placement.schedule.factor(t - row.need_prompt("A schedule"))
    return weights


@dataclass
class _Row:
    """One row's tokens and what is known about them."""

    live: LiveModel
    ids: list[int]
    prompt_length: int | None
    instruction: tuple[int, int] | None

    def need_prompt(self, what: str) -> int:
        """The prompt's length. Raises ``PositionError`` where nobody knows it."""
        if self.prompt_length is None or not 1 <= self.prompt_length <= len(self.ids):
            raise PositionError(f"{what} depends on where the prompt ends. Pass prompt_length, from 1 to the row's.")
        return self.prompt_length

    def logits(self) -> Tensor:
        """One plain pass, ``[len, vocab]``."""
        with evaluating(self.live.model):
            tokens = torch.tensor([self.ids], device=self.live.device)
            logits: Tensor = self.live.model(input_ids=tokens, use_cache=False).logits[0]
        return logits

    def prompt(self) -> _Row:
        """The prompt alone."""
        return replace(self, ids=self.ids[: self.need_prompt("A gate that the prompt decides")])

    def places(self, positions: Positions) -> set[int]:
        """The places of the tokens that are meant."""
        if positions.role == FROM_TOKEN:
            return self._behind(positions.after)
        role = self._role(positions)
        if positions.span is not None:
            return set(role[slice(*positions.span)])
        if not positions.indices:
            return set(role)
        there = [index for index in positions.indices if -len(role) <= index < len(role)]
        # Generated tokens may still come.
        if len(there) < len(positions.indices) and positions.role not in ("generated", "completion"):
            raise PositionError(
                f"Positions '{positions}': the row has only {counted(len(role), 'token')} of that role."
            )
        return {role[index] for index in there}

    def _role(self, positions: Positions) -> list[int]:
        """The places of a role's tokens, in order, before any choice among them."""
        everything = list(range(len(self.ids)))
        if positions.role == "all" or (positions.role == "" and self.prompt_length is None):
            return everything
        end = self.need_prompt(f"'{positions}'")
        if positions.role in ("prompt", ""):
            return everything[:end]
        if positions.role in ("generated", "completion"):
            return everything[end:]
        if positions.role not in ("instruction", "post_instruction"):
            raise PositionError(f"'{positions}' are a turn's tokens, and the oracle is told of no turns.")
        if self.instruction is None:
            raise PositionError(f"'{positions}' depends on where the user's text lies. Pass instruction.")
        start, stop = self.instruction
        return everything[start:stop] if positions.role == "instruction" else everything[stop:end]

    def _behind(self, after: str | int | None) -> set[int]:
        """The tokens behind the first one that completes a text, or that has an id."""
        for n in range(1, len(self.ids) + 1):
            if isinstance(after, int):
                found = self.ids[n - 1] == after
            else:
                tokenizer: Any = self.live.chat.tokenizer
                text = tokenizer.decode(self.ids[:n], skip_special_tokens=False, clean_up_tokenization_spaces=False)
                found = after in text
            if found:
                return set(range(n, len(self.ids)))
        return set()


class _Step:
    """An intervention in one row: its sites, its weights, and what its gate has read."""

    def __init__(self, row: _Row, placement: Placement) -> None:
        layout = row.live.layout
        self.row, self.intervention, self.gate = row, placement.intervention, placement.gate
        self.sites = placement.sites_on(layout)
        self.weights = oracle_weights(
            row.live, row.ids, placement, prompt_length=row.prompt_length, instruction=row.instruction
        )
        self.projections: list[float] = []
        if self.gate is None or self.gate.site is None:
            return
        if self.gate.prepass:
            tap = layout.tap(self.gate.site)
            with ExitStack() as stack:
                stack.callback(register_tap(row.live.model, tap, lambda x: self.read_gate(x[0].double())).remove)
                row.prompt().logits()
        elif any(layout.sites().index(self.gate.site.whole) > layout.sites().index(site.whole) for site in self.sites):
            raise AttachError(f"The gate {self.gate} is read behind a site that it decides on.")

    def acts_within(self, site: Site) -> bool:
        """Whether it acts at a site, or at one of its heads."""
        return any(own.whole == site for own in self.sites)

    def reads_at(self, site: Site) -> bool:
        """Whether the gate is read at a site of the steered pass, or at one of its heads."""
        return self.gate is not None and not self.gate.prepass and self.gate.read_at.whole == site

    def read_gate(self, x: Tensor) -> None:
        """Note ``x[t]·v / ‖v‖`` of every token of ``[len, d_model]``."""
        assert self.gate is not None
        x = x[:, self.row.live.layout.columns(self.gate.read_at)]
        v = self.gate.direction.vectors[0].to(x)
        self.projections = [float(x[t] @ v / v.norm()) for t in range(len(x))]

    def weight(self, t: int) -> float:
        """``w[t]``, once the gate has been read."""
        weight, gate = float(self.weights[t]), self.gate
        if gate is None or weight == 0:
            return weight
        if gate.at == "token":
            value = self.projections[t]
        else:
            prompt = self.row.prompt()
            if not gate.prepass and t < len(prompt.ids):
                return 0.0
            read = [self.projections[place] for place in sorted(prompt.places(gate.positions))]
            if not read:
                raise PositionError(f"The gate {gate} reads no token of the prompt.")
            value = sum(read) / len(read)
        return weight * (value > gate.threshold if gate.side == "above" else value < gate.threshold)


def _handlers(row: _Row, steps: Sequence[_Step], site: Site) -> list[tuple[Tap, Handler]]:
    """What to register for a site."""
    layout = row.live.layout
    if site.stream != RESID_MID:  # the batch's only row is x[0]
        return [(layout.tap(site), lambda x: _edited(steps, site, x[0].double(), x.dtype)[None].to(x.dtype))]

    # Both the next writer and the residual branch are to see the new value, so what the first writer adds
    # makes up the difference: attn_out ← f(resid_pre + attn_out) − resid_pre.
    block = layout.blocks[site.layer]
    resid_pre: list[Tensor] = []

    def keep(x: Tensor) -> None:
        resid_pre[:] = [x[0].double() * block.keep(0)]

    def first_writer(attn_out: Tensor) -> Tensor:
        resid_mid = resid_pre[0] + attn_out[0].double()
        return (_edited(steps, site, resid_mid, attn_out.dtype) - resid_pre[0])[None].to(attn_out.dtype)

    return [(block.resid_pre, keep), (block.writers[0].tap, first_writer)]


def _edited(steps: Sequence[_Step], site: Site, x: Tensor, dtype: torch.dtype) -> Tensor:
    """What leaves a site where ``x`` arrives, ``[len, width]``, float64."""
    for step in steps:
        if step.reads_at(site):
            step.read_gate(x)
    new = x.clone()
    for step in steps:
        layout = step.row.live.layout
        for own in [own for own in step.sites if own.whole == site]:
            update, columns = step.intervention.update(own, layout), layout.columns(own)
            for t in range(len(x)):
                weight = step.weight(t)
                if update is not None and weight != 0:
                    old = new[t, columns]
                    new[t, columns] = old + weight * (_applied(update, old, dtype) - old)
    return new


def _applied(update: Update, x: Tensor, dtype: torch.dtype) -> Tensor:
    """``f(x)`` of one token, ``[width]``, float64."""
    if not isinstance(update, Affine):
        return update.function(x.to(dtype)).double()
    new = x
    if update.reads is not None and update.writes is not None:
        new = new + (x @ update.reads.to(x).T) @ update.writes.to(x)
    return new if update.bias is None else new + update.bias.to(x)
