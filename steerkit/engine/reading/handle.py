"""A model as an estimator may use it: examples under updates of its own, with gradients to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from steerkit.api.architecture import Layout
from steerkit.api.estimator import HandleOutputs, PlacedUpdate
from steerkit.api.hookspecs import NoOptions
from steerkit.api.intervention import Intervention, Placement, Update
from steerkit.engine.loading.unwrap import output_device
from steerkit.engine.prompts.batches import Batch, forward_arguments
from steerkit.engine.prompts.chat import Rendered
from steerkit.engine.reading.capture import Key, tokens_of
from steerkit.engine.reading.passes import logits_of
from steerkit.engine.sites.evaluating import evaluating
from steerkit.engine.sites.taps import submodule
from steerkit.errors import DataError

if TYPE_CHECKING:
    from steerkit.engine.runtime.runtime import Runtime
    from steerkit.types import Example, Positions, Site


class _Own(Intervention[NoOptions]):
    """An estimator's own update as an intervention."""

    def __init__(self, update: Update) -> None:
        super().__init__(NoOptions())
        self._update = update

    def default_sites(self, layout: Layout) -> Sequence[Site]:
        return ()

    def update(self, site: Site, layout: Layout) -> Update:
        return self._update


@dataclass
class _Gathered:
    """What the batches gave, by the place of each example."""

    next_token: dict[int, Tensor] = field(default_factory=dict)
    logits: dict[int, Tensor] = field(default_factory=dict)
    tokens: dict[int, Tensor] = field(default_factory=dict)
    captures: dict[Key, dict[int, Tensor]] = field(default_factory=dict)

    def outputs(self, n: int) -> HandleOutputs:
        """All of them in the order of the examples."""
        captures, counts = {}, {}
        for key, rows in self.captures.items():
            captures[key] = torch.cat([rows[index] for index in range(n)])
            counts[key] = torch.tensor([len(rows[index]) for index in range(n)])
        next_token = torch.stack([self.next_token[index] for index in range(n)])
        lengths = torch.tensor([len(self.tokens[index]) for index in range(n)], device=next_token.device)
        longest = int(lengths.max())
        if longest == 0:
            return HandleOutputs(next_token, captures=captures, counts=counts)
        return HandleOutputs(
            next_token,
            logits=pad_sequence([self.logits[index] for index in range(n)], batch_first=True),
            token_ids=pad_sequence([self.tokens[index] for index in range(n)], batch_first=True),
            token_mask=torch.arange(longest, device=lengths.device) < lengths[:, None],
            captures=captures,
            counts=counts,
        )


class Handle:
    """Implements ``steerkit.api.estimator.ModelHandle`` on a model: hooks only, no parameter is touched.

    Args:
        live: the model.
        seed: what the estimator draws from.
    """

    def __init__(self, live: Runtime, seed: int) -> None:
        self._live, self._seed = live, seed

    @property
    def seed(self) -> int:
        """What the estimator draws from."""
        return self._seed

    @property
    def device(self) -> torch.device:
        """Where the model's head gives logits."""
        return output_device(self._live.model)

    def run(
        self,
        examples: Sequence[Example],
        placements: Sequence[PlacedUpdate] = (),
        *,
        capture: Sequence[Key] = (),
    ) -> HandleOutputs:
        """Run examples under updates of the estimator's own. See ``ModelHandle.run``."""
        if not examples:
            raise DataError("An estimator ran no examples. Give it at least one.")
        live = self._live
        for site, _ in capture:
            live.layout.require(site)
        rendered = live.rendered(list(examples), completion=True)
        placed = [Placement(_Own(one.update), one.sites, one.positions) for one in placements]
        steer = [placed] * len(examples) if placed else None
        gathered = _Gathered(captures={key: {} for key in capture})
        for batch in live.batched(rendered, "right"):
            self._read(batch, steer, capture, rendered, gathered)
        return gathered.outputs(len(examples))

    def _read(
        self,
        batch: Batch,
        steer: Sequence[list[Placement]] | None,
        capture: Sequence[Key],
        rendered: Sequence[Rendered],
        gathered: _Gathered,
    ) -> None:
        """Run one batch, and keep what it gives."""
        live = self._live
        readers: dict[Site, Callable[[Tensor], None]] = {}
        for site in dict.fromkeys(site for site, _ in capture):
            wanted = {place: tokens_of(live, place, batch) for of, place in capture if of == site}
            readers[site] = _capture_reader(site, live.layout.columns(site), wanted, batch, gathered)
        arguments = forward_arguments(batch, live.takes_positions)
        with (
            live.running(batch, steer=steer, readers=readers or None),
            evaluating(live.model),
            # Inside of the turn, so that no pass of another thread finds parameters that want no gradients.
            _parameters_as_constants(live.model),
            torch.enable_grad(),
        ):
            output: Any = submodule(live.model, live.layout.base)(**arguments)
            hidden: Tensor = output[0] if isinstance(output, tuple) else output.last_hidden_state
            self._gather(batch, hidden, rendered, gathered)

    def _gather(self, batch: Batch, hidden: Tensor, rendered: Sequence[Rendered], gathered: _Gathered) -> None:
        """Logits behind each prompt's last token, and those that predict its completion."""
        live = self._live
        for row, index in enumerate(batch.order):
            ids = rendered[index].token_ids
            prompt = rendered[index].prompt
            start = len(ids) if prompt is None else prompt
            # Token t is predicted from what the token before it leaves; behind the last one nothing is asked for.
            last = max(start, len(ids) - 1)
            logits = logits_of(live.model, live.layout, hidden[row, start - 1 : last])
            gathered.next_token[index] = logits[0]
            gathered.logits[index] = logits[: len(ids) - start]
            gathered.tokens[index] = torch.tensor(ids[start:], dtype=torch.long, device=logits.device)


def _capture_reader(
    site: Site,
    columns: slice,
    wanted: dict[Positions, tuple[Tensor, Tensor, Tensor]],
    batch: Batch,
    gathered: _Gathered,
) -> Callable[[Tensor], None]:
    def read(x: Tensor) -> None:
        for positions, (row, column, counts) in wanted.items():
            pieces = x[row, column][:, columns].split(counts.tolist())
            gathered.captures[(site, positions)].update(zip(batch.order, pieces, strict=True))

    return read


@contextmanager
def _parameters_as_constants(model: nn.Module) -> Iterator[None]:
    """Run the body without gradients to parameters, so that an estimator's backward pass leaves none on them."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
