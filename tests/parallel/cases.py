"""What one model on several processes is held to: the same model in one. Each case gives its largest error.

Every process runs every case, in the same order; ``steps.py`` does so and says what came of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

from steerkit.api.direction import Direction
from steerkit.api.estimator import PlacedUpdate
from steerkit.api.intervention import Affine
from steerkit.api.monitor import Monitor
from steerkit.engine.parallel.shards import share_of
from steerkit.engine.reading.handle import Handle
from steerkit.session import ablate, add, gate
from steerkit.session.model import LiveModel
from steerkit.testing.oracle import oracle_logits
from steerkit.types import Positions, Schedule, Site, as_examples

TEXTS: Final = ["the sun is out", "snow", "a long walk by the sea at noon", "tea"]
Case = Callable[[LiveModel, LiveModel], float]
CASES: Final[dict[str, Case]] = {}


def case(function: Case) -> Case:
    """List a case by its name."""
    CASES[function.__name__] = function
    return function


def direction(live: LiveModel, site: str = "blocks.1.resid_pre", rank: int = 1, seed: int = 0) -> Direction:
    width = live.layout.width(Site.parse(site))
    vectors = torch.randn(rank, width, generator=torch.Generator().manual_seed(1000 + seed))
    return Direction(0.3 * vectors, Site.parse(site), name=f"d{seed}")


def ids_of(live: LiveModel, rows: int = 2, columns: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(20, live.n_embeddings, (rows, columns), generator=generator)


def logits(live: LiveModel, **kwargs: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = live.forward(ids_of(live), **kwargs).logits
    return found


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference; of what can't be compared, no number."""
    if found.shape != expected.shape or not bool(found.isfinite().all()):
        return float("inf")
    return float((found.double() - expected.double()).abs().max())


def apart_for_their_size(found: Tensor, expected: Tensor) -> float:
    """The largest difference of activations or gradients, as a share of the largest of them, where that is large."""
    return apart(found, expected) / max(1.0, float(expected.abs().max()))


@contextmanager
def unchanged(live: LiveModel) -> Iterator[None]:
    """Raise unless the very same parameters are there afterwards, to the bit."""
    before = {name: (one, share_of(one).clone()) for name, one in live.model.named_parameters(remove_duplicate=False)}
    yield
    for name, value in live.model.named_parameters(remove_duplicate=False):
        kept, bits = before[name]
        assert value is kept and torch.equal(share_of(value), bits), name


def steered(alone: LiveModel, sharded: LiveModel, build: Callable[[LiveModel], Sequence[Any]], **how: Any) -> float:
    """How far logits are apart under a condition, which leaves no trace."""
    with alone.steer(*build(alone), mode=how.pop("against", "hook")):
        expected = logits(alone)
    before = logits(sharded)
    with unchanged(sharded):
        with sharded.steer(*build(sharded), **how):
            found = logits(sharded)
        assert torch.equal(logits(sharded), before)
    assert apart(expected, logits(alone)) > 1e-2  # the condition does something
    return apart(found, expected)


@case
def plain(alone: LiveModel, sharded: LiveModel) -> float:
    return apart(logits(sharded), logits(alone))


@case
def self_test(alone: LiveModel, sharded: LiveModel) -> float:
    from steerkit.engine.sites.selftest import self_test as test

    report = test(sharded.model, sharded.layout)
    report.raise_if_failed()
    assert {"shares", "processes"} <= {check.name for check in report.checks}
    assert sharded.behaviours == report.behaves and sharded.layout == alone.layout
    return 0.0


@case
def capture(alone: LiveModel, sharded: LiveModel) -> float:
    sites = [str(site) for site in alone.layout.sites()]
    one, other = (live.capture(TEXTS, sites, ["last", "all"], progress=False) for live in (sharded, alone))
    return max(apart_for_their_size(one[key].mean, other[key].mean) for key in other)


@case
def activations(alone: LiveModel, sharded: LiveModel) -> float:
    sites = ["blocks.*.head_out", "blocks.*.resid_mid", "blocks.1.head_out[4]"]
    one, other = (live.activations(TEXTS, sites, progress=False) for live in (sharded, alone))
    return max(apart_for_their_size(one.flat(site), other.flat(site)) for site in other.sites)


@case
def lens(alone: LiveModel, sharded: LiveModel) -> float:
    read = [
        live.logit_lens(live.activations(TEXTS, "blocks.*.resid_post", progress=False)) for live in (sharded, alone)
    ]
    return max(apart(read[0].flat(site), read[1].flat(site)) for site in read[1].sites)


@case
def add_hooked(alone: LiveModel, sharded: LiveModel) -> float:
    return steered(alone, sharded, lambda live: [add(direction(live), coefficient=2.0)], mode="hook")


@case
def ablate_hooked(alone: LiveModel, sharded: LiveModel) -> float:
    return steered(alone, sharded, lambda live: [ablate(direction(live, rank=2))], mode="hook")


@case
def ablate_interpreted(alone: LiveModel, sharded: LiveModel) -> float:
    return steered(alone, sharded, lambda live: [ablate(direction(live))], mode="interpret")


@case
def ablate_folded(alone: LiveModel, sharded: LiveModel) -> float:
    told = sharded.explain(ablate(direction(sharded)), mode="fold")
    assert told.hooks == 0 and told.parameters == 1 + 2 * sharded.layout.n_layers, str(told)
    return steered(alone, sharded, lambda live: [ablate(direction(live))], mode="fold")


@case
def add_folded(alone: LiveModel, sharded: LiveModel) -> float:
    def build(live: LiveModel) -> list[Any]:
        layers = range(1, live.layout.n_layers)
        return [add(direction(live, f"blocks.{layer}.resid_pre", seed=layer), coefficient=2.0) for layer in layers]

    told = sharded.explain(*build(sharded), mode="fold")
    assert told.hooks == 0 and told.parameters == sharded.layout.n_layers - 1, str(told)
    return steered(alone, sharded, build, mode="fold")


@case
def heads_hooked(alone: LiveModel, sharded: LiveModel) -> float:
    def build(live: LiveModel) -> list[Any]:
        one = add(direction(live, "blocks.1.head_out[4]"), coefficient=2.0)
        return [one, ablate(direction(live, "blocks.0.head_out", rank=2), sites="blocks.0.head_out")]

    return steered(alone, sharded, build, mode="hook")


@case
def heads_folded(alone: LiveModel, sharded: LiveModel) -> float:
    def build(live: LiveModel) -> list[Any]:
        one = add(direction(live, "blocks.1.head_out[4]"), coefficient=2.0)
        return [one, ablate(direction(live, "blocks.0.head_out", rank=2), sites="blocks.0.head_out")]

    told = sharded.explain(*build(sharded), mode="fold")
    assert told.hooks == 0 and told.parameters == 2, str(told)
    return steered(alone, sharded, build, mode="fold")


@case
def gated(alone: LiveModel, sharded: LiveModel) -> float:
    def build(live: LiveModel) -> list[Any]:
        shut = gate(direction(live, seed=3), above=0.0, site="blocks.1.resid_pre", at="token")
        return [add(direction(live, seed=4), coefficient=3.0, sites="blocks.1.resid_post", gate=shut)]

    return steered(alone, sharded, build)


@case
def scheduled_by_row(alone: LiveModel, sharded: LiveModel) -> float:
    found = []
    for live in (sharded, alone):
        first = add(direction(live, seed=5), coefficient=3.0, schedule=Schedule.parse("linear(1, 0, 4)"))
        shut = gate(direction(live, seed=3), above=0.0, site="blocks.1.resid_pre", at="prompt")
        second = [
            ablate(direction(live, seed=6), positions=Positions.parse("generated")),
            add(direction(live), gate=shut),
        ]
        conditions = [[first], [], second, [first, *second]]
        found.append(live.complete(TEXTS, max_new_tokens=6, steer=conditions))
    assert found[0] == found[1]
    return 0.0


@case
def generated(alone: LiveModel, sharded: LiveModel) -> float:
    found = [live.generate(TEXTS, max_new_tokens=8) for live in (sharded, alone)]
    assert found[0] == found[1]
    return 0.0


@case
def monitored(alone: LiveModel, sharded: LiveModel) -> float:
    read = []
    for live in (sharded, alone):
        monitor = Monitor("watch", direction(live), 0.0, sites=(Site.parse("blocks.1.resid_post"),))
        written = live.completions(TEXTS, max_new_tokens=4, monitors=[monitor])
        read.append(torch.tensor([value for one in written for value in one.readings["watch"].values]))
    assert torch.equal(read[0].isnan(), read[1].isnan())  # of the last token, which no pass has read
    return apart_for_their_size(read[0].nan_to_num(), read[1].nan_to_num())


@case
def prepared(alone: LiveModel, sharded: LiveModel) -> float:
    def build(live: LiveModel) -> list[Any]:
        return [ablate(direction(live)), add(direction(live, "blocks.1.head_out"), sites="blocks.1.head_out")]

    with alone.steer(*build(alone), mode="hook"):
        expected = logits(alone)
    with sharded.prepare(build(sharded)), sharded.steer(*build(sharded)):
        found = logits(sharded)
    return apart(found, expected)


@case
def sampled(alone: LiveModel, sharded: LiveModel) -> float:
    import torch.distributed as dist

    torch.manual_seed(dist.get_rank())  # processes that draw by themselves draw otherwise
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, sharded.generate(TEXTS, max_new_tokens=8, do_sample=True, temperature=2.0))
    assert every[0] == every[1] == every[2]
    return 0.0


@case
def attributed_to_heads(alone: LiveModel, sharded: LiveModel) -> float:
    from steerkit.engine.reading.heads import HeadReader, attention_to, head_maps
    from steerkit.engine.reading.last import read_last_tokens

    found = []
    unit = torch.nn.functional.normalize(direction(alone).vectors[0].double(), dim=0)
    for live in (sharded, alone):
        rendered = live.rendered(TEXTS)
        maps, refused = head_maps(live)
        assert not refused
        reader = HeadReader(live, maps, unit, len(TEXTS))
        read_last_tokens(live, rendered, reader.takers())
        looked = attention_to(live, rendered, [[(0, 2)]] * len(TEXTS), [(1, 0), (1, 5)])
        assert looked is not None
        found.append(torch.cat([*(reader.shares[layer].flatten() for layer in maps), looked.flatten()]))
    return apart_for_their_size(*found)


@case
def learned_by_gradients(alone: LiveModel, sharded: LiveModel) -> float:
    found = []
    for live in (sharded, alone):
        vector = direction(live).vectors[0].clone().requires_grad_(True)
        heads = direction(live, "blocks.1.head_out").vectors[0].clone().requires_grad_(True)
        updates = [
            PlacedUpdate(Affine(bias=vector), Site("resid_pre", 1)),
            PlacedUpdate(Affine(bias=heads), Site("head_out", 1)),
        ]
        run = Handle(live, 0).run(as_examples(TEXTS), updates)
        run.next_token_logits.log_softmax(-1)[:, 40].sum().backward()
        assert vector.grad is not None and heads.grad is not None
        found.append(torch.cat([vector.grad, heads.grad]))
    assert float(found[1].abs().max()) > 1e-3
    return apart_for_their_size(*found)


@case
def against_the_oracle(alone: LiveModel, sharded: LiveModel) -> float:
    condition = [ablate(direction(sharded, rank=2)), add(direction(sharded, "blocks.0.head_out[1]"), coefficient=2.0)]
    ids = ids_of(sharded)[0]
    expected = oracle_logits(sharded, ids, condition)
    with sharded.steer(*condition, mode="fold"):
        found = logits(sharded)[0]
    return apart(found, expected)


@case
def a_bias_for_each_process_is_found(alone: LiveModel, sharded: LiveModel) -> float:
    from transformers.distributed import tensor_parallel

    from steerkit.engine.sites.selftest import self_test as test

    style: Any = tensor_parallel.RowwiseParallel
    own = style.context_around_forward
    style.context_around_forward = tensor_parallel.TensorParallelLayer.context_around_forward
    try:
        assert "shares" in test(sharded.model, sharded.layout).failed
    finally:
        style.context_around_forward = own
    return 0.0


@case
def a_process_with_weights_of_its_own_is_found(alone: LiveModel, sharded: LiveModel) -> float:
    import torch.distributed as dist

    from steerkit.engine.sites.selftest import self_test as test

    norm = sharded.model.get_submodule("model.norm").weight
    kept = norm.detach().clone()
    try:
        if dist.get_rank() == 1:
            with torch.no_grad():
                norm.mul_(1.01)
        assert "processes" in test(sharded.model, sharded.layout).failed
    finally:
        with torch.no_grad():
            norm.copy_(kept)
    return 0.0


def nothing_folds(alone: LiveModel, sharded: LiveModel) -> float:
    """FSDP gathers parameters for each pass, so that a fold would be lost: it isn't done, and that is said."""
    told = sharded.explain(ablate(direction(sharded)), mode="fold")
    assert told.parameters == 0 and "FSDP gathers the parameters" in str(told), str(told)
    return steered(alone, sharded, lambda live: [ablate(direction(live))], mode="fold")


_KINDS: Final = ("plain", "capture", "ablate_hooked", "heads_hooked", "scheduled_by_row", "learned_by_gradients")
ALIKE: Final[dict[str, Case]] = {**{name: CASES[name] for name in _KINDS}, "nothing_folds": nothing_folds}
"""The cases of a model whose parameters every process gathers for its passes (FSDP)."""
