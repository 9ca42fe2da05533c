"""What is found of one type: a row of the table. Names and words alone, so that rows can be compared exactly."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from benchmarks.decoders.promises import broken_promises
from steerkit.api.architecture import Block, Layout
from steerkit.api.hookspecs import ModelFacts
from steerkit.engine.sites.selftest import SelfTestReport
from steerkit.engine.sites.tested import try_layouts
from steerkit.engine.tiny.decoder_keys import variant_of
from steerkit.engine.tiny.models import tiny_model
from steerkit.errors import ModelError, UnsupportedModelError
from steerkit.session.plugins import installed
from steerkit.sources import TINY_CANNOT_RUN
from steerkit_architectures._auto import AutoAdapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Status = Literal["full", "ends only", "refused", "not run"]
STATUSES: tuple[Status, ...] = ("full", "ends only", "refused", "not run")
SEEDS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Row:
    """One type of models.

    Args:
        type: of the config, or a variant of one (``opt-post-norm``).
        status: ``full``: every contribution is a site; ``ends only``: the ends of blocks are; ``refused``; ``not run``:
            there is nothing to look at.
        cause: why it isn't full, in the same few words for all types with that cause.
        detail: the reason for this type, in a sentence, with the place where it shows.
        adapter: the adapter that a checkpoint of the type gets; empty: none, one refuses it by name. The row is of
            ``auto`` in any case.
        writers: what each kind of block writes, once.
        heads: blocks with heads, of all.
        absent: what the layout hasn't, that other layouts have.
        experts: how experts are held and whether an update folds into them; empty where there are none.
        behaviours: what the self-test saw of how the model treats padding, later tokens and its cache.
        broken: promises of ``ArchitectureSuite`` that fail, each with how.
        not_asked: promises that don't apply, since the model doesn't behave so without steering either.
        varies: which of the behaviours and absences depend on the seed of the weights; they stand for the worst one.
        seeds: of the weights.
    """

    type: str
    status: Status
    cause: str = ""
    detail: str = ""
    adapter: str = ""
    writers: tuple[str, ...] = ()
    heads: str = ""
    absent: tuple[str, ...] = ()
    experts: str = ""
    behaviours: dict[str, bool] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    not_asked: tuple[str, ...] = ()
    varies: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    @property
    def keeps_all(self) -> bool:
        """Whether every promise of the suite was asked and kept."""
        return self.status in ("full", "ends only") and not self.broken and not self.not_asked

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without what is empty."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items() if value}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Row:
        """What ``to_dict`` gave."""
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**fields)


def measure(name: str, seeds: Sequence[int] = SEEDS, suite: bool = True) -> Row:
    """The row of a type. Whatever fails on the way is a status with a reason, never an error."""
    if name in TINY_CANNOT_RUN:
        return Row(name, "not run", "no prompt can be run through it", TINY_CANNOT_RUN[name], adapter_of(name))
    rows = [_of_seed(name, seed) for seed in seeds]
    row = _together(seeds, rows)
    if suite and row.status in ("full", "ends only"):
        broken, not_asked = broken_promises(name)
        row = replace(row, broken=broken, not_asked=not_asked)
    return row


def _together(seeds: Sequence[int], rows: Sequence[Row]) -> Row:
    """The row of all seeds: what fails with any of them, as where the weights decide which tokens are attended to."""
    row = rows[0]
    same = ("status", "cause", "detail", "writers", "experts")
    for seed, other in zip(seeds, rows, strict=True):
        if any(getattr(other, key) != getattr(row, key) for key in same):
            why = f"what is found with seed {seed} differs from what is found with seed {seeds[0]}"
            return Row(row.type, "refused", "found by chance", why, row.adapter, seeds=tuple(seeds))
    behaviours = {name: all(other.behaviours[name] for other in rows) for name in row.behaviours}
    absent = tuple(dict.fromkeys(what for other in rows for what in other.absent))
    varies = [name for name in behaviours if len({other.behaviours[name] for other in rows}) > 1]
    varies += [what for what in absent if not all(what in other.absent for other in rows)]
    heads = min(other.heads for other in rows)
    return replace(row, heads=heads, absent=absent, behaviours=behaviours, varies=tuple(varies), seeds=tuple(seeds))


def _of_seed(name: str, seed: int) -> Row:
    adapter = adapter_of(name)
    try:
        model = tiny_model(name, seed=seed)
        _run(model)
    except Exception as error:
        return Row(name, "not run", "its tiny model doesn't run", _words(error), adapter)
    try:
        return _found(name, adapter, model)
    except UnsupportedModelError as error:
        return Row(name, "refused", error.cause or "unsupported", _words(error), adapter)
    except Exception as error:
        return Row(name, "refused", f"an error of kind {type(error).__name__}", _words(error), adapter)


def _run(model: PreTrainedModel) -> None:
    ids = torch.randint(6, 262, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    if logits.shape[:2] != ids.shape or not bool(logits.isfinite().all()):
        raise ModelError(f"Its logits are {list(logits.shape)} for two rows of seven tokens, or not finite.")


def _found(name: str, claimed_by: str, model: PreTrainedModel) -> Row:
    adapter = AutoAdapter()
    layout, report = try_layouts(model, adapter.layout(model), adapter)[-1]
    failed = [check for check in report.checks if not check.passed]
    if failed:
        detail = f"{failed[0].name} at {failed[0].site or 'the model'}: {failed[0].meaning}."
        return Row(name, "refused", "fails the self-test", detail, claimed_by)
    return Row(
        name,
        "ends only" if layout.not_a_sum else "full",
        "a block is no sum" if layout.not_a_sum else "",
        layout.not_a_sum,
        claimed_by,
        writers=tuple(
            dict.fromkeys(", ".join(one.stream for one in block.writers) for block in layout.blocks if block.writers)
        ),
        heads=_of_blocks(layout, lambda block: block.heads is not None),
        absent=tuple(_absent(layout)),
        experts=_experts(model, layout),
        behaviours=_behaviours(report),
    )


def adapter_of(name: str) -> str:
    """The adapter that a checkpoint of a type gets, or an empty text where one refuses it by name."""
    try:
        return installed().adapter_for(ModelFacts(variant_of(name)[0], {})).name
    except UnsupportedModelError:
        return ""


def _of_blocks(layout: Layout, has: Callable[[Block], bool]) -> str:
    """How many blocks of how many have something; empty where none has."""
    n = sum(map(has, layout.blocks))
    return f"{n} of {layout.n_layers}" if n else ""


def _absent(layout: Layout) -> Iterator[str]:
    """What the layout leaves out, in words, each once."""
    if layout.not_a_sum:
        yield "contributions"
        return
    for name, there in (
        ("resid_mid", [block.resid_mid is not None for block in layout.blocks]),
        ("head_out", [block.heads is not None for block in layout.blocks]),
    ):
        blocks = [layer for layer, has in enumerate(there) if not has]
        if blocks:
            where = "" if len(blocks) == layout.n_layers else f" in blocks {', '.join(map(str, blocks))}"
            yield f"{name}{where}"
    writers = [writer for block in layout.blocks for writer in block.writers]
    reasons = [(one.stream, one.not_foldable) for one in writers if not one.projections and not one.is_weighed]
    yield from dict.fromkeys(f"folding at {stream} ({_without_paths(reason)})" for stream, reason in reasons)
    if not layout.embed_weight:
        yield "folding of the embedding"


def _experts(model: nn.Module, layout: Layout) -> str:
    """How a model holds its experts, and whether an update at what they write folds into them."""
    held: dict[str, None] = {}
    folded: dict[str, None] = {}
    for block in layout.blocks:
        within = model.get_submodule(block.module)
        names = [name for name, _ in within.named_modules() if _EXPERTS.search(name)]
        if not names:
            continue
        fused = any(_EXPERTS.search(name) and parameter.dim() > 2 for name, parameter in within.named_parameters())
        held["fused" if fused else "a module each"] = None
        last = block.writers[-1] if block.writers else None
        if last is None:
            folded["hooked at the ends of blocks"] = None
        elif last.projections or last.is_weighed:
            folded["folded and hooked"] = None
        else:
            folded["hooked, not folded"] = None
    return "; ".join([" and ".join(held), " or ".join(folded)]) if held else ""


def _behaviours(report: SelfTestReport) -> dict[str, bool]:
    return {one.name: one.passed for one in report.behaviours}


def _words(error: Exception) -> str:
    """The first sentence of an error, without numbers that differ by machine."""
    first = str(error).strip().partition("\n")[0]
    return first.partition(". Name an adapter")[0].rstrip(".")[:300] + "."


def _without_paths(reason: str) -> str:
    """A reason that is the same for every layer."""
    return _LAYER.sub(r"\1*", reason)


_EXPERTS = re.compile(r"(^|\.)(\w*experts\w*)(\.|$)")
_LAYER = re.compile(r"(\w+\.)\d+(?=\.|\b)")
