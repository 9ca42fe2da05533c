"""The forward passes of the self-test: what is put on the model, what is kept, and that all of it comes off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from steerkit.api.architecture import Layout, Tap
from steerkit.engine.loading.unwrap import input_device
from steerkit.engine.sites.taps import Handler, first_of, register_tap, submodule, through
from steerkit.errors import SiteError
from steerkit.types import HEAD_OUT, Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH, LENGTH = 2, 7


def tensor_at(model: nn.Module, path: str) -> Tensor:
    """The parameter or buffer at a dotted path. Raises ``SiteError`` when there is none."""
    parent, _, name = path.rpartition(".")
    owner = submodule(model, parent)
    value = getattr(owner, name, None)
    if not isinstance(value, Tensor):
        raise SiteError(f"The model has no parameter or buffer {path!r}. Its adapter doesn't fit it.")
    if value.is_meta and hasattr(owner, "_hf_hook"):
        # Offloaded: it is in memory only while its module runs.
        from accelerate.utils import align_module_device

        with align_module_device(owner):
            value = cast(Tensor, getattr(owner, name)).detach().clone()
    return value


def by_hand_logits(model: nn.Module, layout: Layout, resid_post: Tensor) -> Tensor:
    """Final norm, head, scale and soft cap on ``[batch, pos, d_model]``, as the layout declares them."""
    logits = through(model, layout.behind, resid_post)
    if layout.logit_scale != 1.0:
        logits = logits * layout.logit_scale
    if layout.softcap is not None:
        logits = torch.tanh(logits / layout.softcap) * layout.softcap
    return logits


@dataclass
class Trace:
    """What one pass saw: values by site, outputs of projections by path, and what the pass gave."""

    seen: dict[Site, list[Tensor]]
    projections: dict[str, list[Tensor]]
    output: Tensor = field(default_factory=lambda: torch.empty(0))

    def __getitem__(self, site: Site) -> Tensor:
        return self.seen[site][0]


@dataclass
class EditedRun:
    """A pass in which every ``resid_post`` was edited.

    ``raw[i]`` is what block ``i`` gave, ``edited[i]`` what was put in its place, ``inputs[i]`` what block
    ``i`` was given, ``calls[i]`` its other arguments.
    """

    raw: list[Tensor] = field(default_factory=list)
    edited: list[Tensor] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    def block_by_hand(self, block: nn.Module, layer: int, value: Tensor) -> Tensor:
        """The block's output on a value, all else as in the pass."""
        args, kwargs = self.calls[layer]
        return first_of(block(value.to(self.inputs[layer].device), *args, **kwargs))


def copy_into(copies: list[Tensor]) -> Handler:
    """A handler that keeps what it sees."""

    def copy(value: Tensor) -> None:
        copies.append(value.detach().clone())

    return copy


class Bench:
    """A model with the tokens and random numbers of one self-test."""

    def __init__(self, model: PreTrainedModel, layout: Layout, seed: int) -> None:
        self.model, self.layout = model, layout
        self.taps = {site: layout.tap(site) for site in layout.sites()}
        self._generator = torch.Generator().manual_seed(seed)
        self.ids = self._random_ids()

    def _random_ids(self) -> Tensor:
        """Ordinary tokens: those that a config names (padding, image placeholders) mean other things to some models."""
        embedding = cast(Tensor, self.model.get_input_embeddings().weight)
        config = self.model.config.get_text_config()
        vocabulary = min(int(config.vocab_size), embedding.shape[0])
        named = _named_tokens(self.model.config.to_dict())
        usable = torch.tensor([token for token in range(vocabulary) if token not in named] or [0])
        chosen = torch.randint(len(usable), (BATCH, LENGTH), generator=self._generator)
        return usable[chosen].to(input_device(self.model))

    def noise_like(self, value: Tensor) -> Tensor:
        """A random edit, a third as large as the value it goes on."""
        noise = torch.randn(value.shape, generator=self._generator)
        size = value.detach().float().square().mean(-1, keepdim=True).sqrt().cpu()
        return (noise * size / 3).to(value.device, value.dtype)

    def unit(self) -> Tensor:
        """A random unit vector, ``[d_model]``, float64 on the CPU."""
        vector = torch.randn(self.layout.d_model, generator=self._generator, dtype=torch.float64)
        unit: Tensor = vector / vector.norm()
        return unit

    def run(self, edits: Iterable[tuple[Tap, Handler]] = (), *, head: bool = False) -> Tensor:
        """One pass with handlers on taps. They are off again when it returns, or raises.

        Returns:
            the logits, or, without the head, what the final norm gives.
        """
        model = self.model if head else submodule(self.model, self.layout.base)
        with ExitStack() as stack:
            for tap, handler in edits:
                stack.callback(register_tap(self.model, tap, handler).remove)
            output = model(input_ids=self.ids, attention_mask=torch.ones_like(self.ids), use_cache=False)
        value: Tensor = output.logits if head else output[0]
        return value.detach().clone()

    def plain(self) -> tuple[Tensor, int]:
        """Logits of a pass with nothing on the model, and how often it ran the base model."""
        runs: list[None] = []

        def count(*_: Any) -> None:
            runs.append(None)

        handle = submodule(self.model, self.layout.base).register_forward_pre_hook(count)
        try:
            return self.run(head=True), len(runs)
        finally:
            handle.remove()

    def zero_update(self) -> Trace:
        """A pass that adds zero at every site and keeps every value."""
        return self._traced(lambda site, value: value + torch.zeros_like(value), head=True)

    def without_heads(self) -> Trace:
        """A pass with zeros in place of the heads at every other token, from the first on.

        Every other one, so that what mixes tokens behind the tap shows at those between.
        """

        def silence(site: Site, value: Tensor) -> Tensor:
            if site.stream != HEAD_OUT:
                return value
            silent = value.clone()
            silent[:, ::2] = 0
            return silent

        return self._traced(silence)

    def ablated(self, unit: Tensor) -> Trace:
        """A pass in which the embedding and every writer lose their part along ``unit``, ``[d_model]``."""
        writers = set(self.layout.writer_sites())

        def ablate(site: Site, value: Tensor) -> Tensor:
            if site not in writers:
                return value
            wide = value.double()
            along = unit.to(value.device)
            return (wide - (wide @ along)[..., None] * along).to(value.dtype)

        return self._traced(ablate)

    def _traced(self, update: Callable[[Site, Tensor], Tensor], *, head: bool = False) -> Trace:
        """A pass that keeps, at each site, the value as ``update`` leaves it."""
        trace = Trace({site: [] for site in self.taps}, {})

        def keep(site: Site) -> Handler:
            def handler(value: Tensor) -> Tensor:
                new = update(site, value)
                # A later module may write into the tensor that passed here.
                trace.seen[site].append(new.detach().clone())
                return new

            return handler

        edits: list[tuple[Tap, Handler]] = [(tap, keep(site)) for site, tap in self.taps.items()]
        written = {path for block in self.layout.blocks for writer in block.writers for path in writer.projections}
        for path in {*written, *self.layout.embed_beside}:
            outputs = trace.projections.setdefault(path, [])
            # First in line, so that it sees what the projection gave and not what another handler made of it.
            edits.insert(0, (Tap(path), copy_into(outputs)))
        trace.output = self.run(edits, head=head)
        return trace

    def edited_run(self) -> EditedRun:
        """A pass that edits every ``resid_post`` at random and keeps what it takes to run the blocks by hand."""
        run = EditedRun()

        def edit(value: Tensor) -> Tensor:
            run.raw.append(value.detach().clone())
            new = value + self.noise_like(value)
            run.edited.append(new.detach().clone())
            return new

        with ExitStack() as stack:
            for block in self.layout.blocks:
                module = submodule(self.model, block.module)
                keyword = block.resid_pre.keyword
                hook = module.register_forward_pre_hook(_keep_call(run, keyword), with_kwargs=True)
                stack.callback(hook.remove)
                stack.callback(register_tap(self.model, Tap(block.module), edit).remove)
            run.logits = self.run(head=True)
        return run


def _keep_call(run: EditedRun, keyword: str) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        others = {name: value for name, value in kwargs.items() if args or name != keyword}
        run.inputs.append((args[0] if args else kwargs[keyword]).detach().clone())
        run.calls.append((args[1:], others))

    return hook


def _named_tokens(config: dict[str, Any]) -> set[int]:
    """Every token id that a config names, in its nested configs too."""
    found: set[int] = set()
    for name, value in config.items():
        if isinstance(value, dict):
            found |= _named_tokens(value)
        elif str(name).endswith(("token_id", "token_index")):
            found |= {item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int)}
    return found


@contextmanager
def bench(model: PreTrainedModel, layout: Layout, seed: int) -> Iterator[Bench]:
    """A bench on a model in eval mode; each module's own mode comes back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield Bench(model, layout, seed)
    finally:
        for module, training in modes.items():
            module.training = training
