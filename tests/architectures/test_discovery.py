"""What is read off a pass of a decoder whose layout is known, since it was put together here."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steerkit.api.architecture import Heads, Layout, Tap
from steerkit.errors import UnsupportedModelError
from steerkit.types import ATTN_OUT, MLP_OUT
from steerkit_architectures._auto import AutoAdapter
from steerkit_architectures._discovery.recording import as_it_is_used, ordinary_tokens, record
from tests.architectures.planted import WIDTH, Forward, Mlp, Planted, plain


def planted(forward: Forward = plain, **settings: Any) -> Any:
    return Planted(forward, **settings)


def found(model: Any) -> Layout:
    return AutoAdapter().layout(model)


def test_a_plain_decoder() -> None:
    layout = found(planted())
    assert (layout.base, layout.final_norm, layout.head, layout.between) == ("base", "base.norm", "head", ())
    assert (layout.embed, layout.embed_weight, layout.embed_beside) == (Tap("base.tokens"), "base.tokens", ())
    assert layout.embed_is_first_resid_pre and layout.d_model == WIDTH and layout.n_layers == 3
    block = layout.blocks[1]
    assert [writer.stream for writer in block.writers] == [ATTN_OUT, MLP_OUT]
    assert [writer.tap for writer in block.writers] == [Tap("base.blocks.1.mixer"), Tap("base.blocks.1.mlp")]
    assert [writer.projections for writer in block.writers] == [
        ("base.blocks.1.mixer.out",),
        ("base.blocks.1.mlp.down",),
    ]
    assert block.heads == Heads(Tap("base.blocks.1.mixer.out", "input"), 2, WIDTH // 2)
    assert block.resid_mid == Tap("base.blocks.1.norm2", "input", keyword="hidden_states")
    assert (block.keeps, block.scale, block.start, block.not_a_sum) == ((), None, None, "")


def parallel(block: Any, x: Tensor) -> Any:
    normed = block.norm1(x)
    return block.mlp(normed) + block.mixer(normed) + x


def mlp_first(block: Any, x: Tensor) -> Any:
    x = x + block.mlp(block.norm1(x))
    return x + block.mixer(block.norm2(x))


def test_the_computation_names_writers_not_their_order() -> None:
    assert found(planted(parallel)).blocks[0].resid_mid is None
    assert {writer.stream: writer.tap.module for writer in found(planted(parallel)).blocks[0].writers} == {
        ATTN_OUT: "base.blocks.0.mixer",
        MLP_OUT: "base.blocks.0.mlp",
    }
    for block in found(planted(mlp_first)).blocks:
        assert [writer.stream for writer in block.writers] == [MLP_OUT, ATTN_OUT]


def with_factors(block: Any, x: Tensor) -> Any:
    x = x + block.mixer(block.norm1(x)) * 0.22
    return torch.sub(x, block.mlp(block.norm2(x)) / 4, alpha=2)


def with_zero_dim_factor(block: Any, x: Tensor) -> Any:
    x = x + torch.tensor(0.5) * block.mixer(block.norm1(x))
    return x + block.mlp(block.norm2(x))


def test_factors_on_writers() -> None:
    assert [writer.tap.factor for writer in found(planted(with_factors)).blocks[0].writers] == [0.22, -0.5]
    assert [writer.tap.factor for writer in found(planted(with_zero_dim_factor)).blocks[2].writers] == [0.5, 1.0]


def with_keeps(block: Any, x: Tensor) -> Any:
    x = x * 0.5 + block.mixer(block.norm1(x))
    return (x * 0.25 + block.mlp(block.norm2(x))) / 0.8


def with_scale(block: Any, x: Tensor) -> Any:
    return plain(block, x) * block.scale


def test_what_multiplies_the_stream() -> None:
    assert found(planted(with_keeps)).blocks[0].keeps == pytest.approx((0.5, 0.25, 1.25))
    scaled = found(planted(with_scale)).blocks[2]
    assert (scaled.scale, scaled.keeps) == ("base.blocks.2.scale", ())


def in_place(block: Any, x: Tensor) -> Any:
    x = x.clone()
    x.view(-1, WIDTH).add_(block.mixer(block.norm1(x)).view(-1, WIDTH))
    x += block.mlp(block.norm2(x))
    return x


def flattened(block: Any, x: Tensor) -> Any:
    x = x + block.mixer(block.norm1(x))
    return x + block.mlp(block.norm2(x).view(-1, WIDTH)).view(x.shape)


def test_sums_in_place_and_contributions_without_a_batch_axis() -> None:
    assert [writer.tap.module for writer in found(planted(in_place)).blocks[1].writers] == [
        "base.blocks.1.mixer",
        "base.blocks.1.mlp",
    ]
    taps = [writer.tap for writer in found(planted(flattened)).blocks[1].writers]
    assert [tap.flat_within for tap in taps] == ["", "base.blocks.1"]


def starting_inside(block: Any, x: Tensor) -> Any:
    return plain(block, block.start(x)) if "start" in block._modules else plain(block, x)


def test_a_stream_that_starts_inside_a_block() -> None:
    model = planted(starting_inside)
    model.base.blocks[0].start = nn.LayerNorm(WIDTH)
    layout = found(model)
    assert [block.start for block in layout.blocks] == [Tap("base.blocks.0.start"), None, None]
    assert layout.embed == layout.blocks[0].resid_pre and layout.embed_weight == ""


def post_norm(block: Any, x: Tensor) -> Any:
    x = block.norm1(x + block.mixer(x))
    return block.norm2(x + block.mlp(x))


def vector_on_the_stream(block: Any, x: Tensor) -> Any:
    x = x * block.vector + block.mixer(block.norm1(x))
    return x + block.mlp(block.norm2(x))


def vector_on_a_writer(block: Any, x: Tensor) -> Any:
    x = x + block.vector * block.mixer(block.norm1(x))
    return x + block.mlp(block.norm2(x))


def constant_added(block: Any, x: Tensor) -> Any:
    return plain(block, x) + block.vector


def twice_the_same(block: Any, x: Tensor) -> Any:
    x = x + block.mlp(block.norm1(x))
    return x + block.mlp(block.norm2(x))


def doubled(block: Any, x: Tensor) -> Any:
    return x + (x + block.mixer(block.norm1(x)))


def without_module(block: Any, x: Tensor) -> Any:
    return x + torch.relu(block.mixer(block.norm1(x)) - 1) * block.mlp(x)


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (post_norm, r"the stream itself passes the norm base\.blocks\.0\.norm2 \(LayerNorm\)"),
        (
            vector_on_the_stream,
            r"multiplied by base\.blocks\.0\.vector \[16\], so a direction taken out",
        ),
        (vector_on_a_writer, r"a contribution is multiplied by base\.blocks\.0\.vector \[16\] outside of any module"),
        (constant_added, r"base\.blocks\.0 adds base\.blocks\.0\.vector to the stream outside of any module"),
        (twice_the_same, r"base\.blocks\.0\.mlp, which contributes in base\.blocks\.0, runs 2 times in one pass"),
        (doubled, "the stream is added to itself"),
        (without_module, r"made by mul in base\.blocks\.0 \(Block\), where no module ends"),
    ],
)
def test_ends_alone_with_the_reason(forward: Forward, reason: str) -> None:
    layout = found(planted(forward))
    with pytest.raises(Exception, match=reason):
        layout.writer_sites()
    assert all(not block.writers and block.resid_mid is None and block.heads is None for block in layout.blocks)


def as_a_tuple(block: Any, x: Tensor) -> Any:
    return plain(block, x), None


def as_a_list(block: Any, x: Tensor) -> Any:
    return [plain(block, x)]


@pytest.mark.parametrize("forward", [as_a_tuple, as_a_list])
def test_blocks_that_return_several_things(forward: Forward) -> None:
    assert found(planted(forward)).blocks == found(planted()).blocks


def test_embeddings_that_sum() -> None:
    model = planted()
    model.base.embedded = lambda base, ids: base.tokens(ids) * 3.0 + base.positions(torch.arange(ids.shape[1]))
    layout = found(model)
    assert (layout.embed_weight, layout.embed_beside) == ("base.tokens", ("base.positions",))
    assert layout.embed == Tap("base.blocks.0", "input") and layout.embed_is_first_resid_pre


def test_an_embedding_that_something_else_reads() -> None:
    model = planted()

    def embedded(base: Any, ids: Tensor) -> Any:
        rows = base.tokens(ids)
        base.side = rows.sum()
        return rows

    model.base.embedded = embedded
    assert not found(model).embed_is_first_resid_pre


def test_an_embedding_that_is_no_rows_of_a_table() -> None:
    model = planted()
    model.base.embedded = lambda base, ids: base.norm(base.tokens(ids))
    # The norm runs twice, so that no tap can name it.
    assert found(model).embed == Tap("base.blocks.0", "input")
    assert found(model).embed_weight == "" and "isn't folded" in found(model).notes[0]


def test_the_end_of_a_pass() -> None:
    model = planted()
    model.base.last = Mlp()
    model.base.ended = lambda base, x: base.last(base.norm(x))
    model.headed = lambda model, x: 5.0 * torch.tanh(model.head(x * 0.5) * 2.0 / 5.0)
    layout = found(model)
    assert (layout.final_norm, layout.between, layout.head) == ("base.norm", ("base.last",), "head")
    assert layout.softcap == pytest.approx(5.0) and layout.logit_scale == pytest.approx(1.0)
    model.headed = lambda model, x: model.head(x) / 4
    model.base.ended = lambda base, x: x
    layout = found(model)
    assert (layout.final_norm, layout.behind, layout.logit_scale) == ("", ("head",), 0.25)


def side_by_side(block: Any, x: Tensor) -> Any:
    return x + block.mixer(block.norm1(x.mean(2))).unsqueeze(2)


def refused_model(kind: str) -> Any:
    if kind == "biased head":
        model = planted(bias=True)
        model.headed = lambda model, x: model.head(x * 0.5)
        return model
    if kind == "several streams":
        model = planted(side_by_side)
        model.base.embedded = lambda base, ids: base.tokens(ids).unsqueeze(2).expand(-1, -1, 4, -1)
        model.base.ended = lambda base, x: base.norm(x.mean(2))
        return model
    model = planted(plain if kind != "positions first" else lambda block, x: x + block.mlp(block.norm1(x)))
    if kind == "no chain":
        model.base.blocks = nn.ModuleList([model.base.blocks[0]] * 3)
    if kind == "positions first":
        model.base.embedded = lambda base, ids: base.tokens(ids).transpose(0, 1)
        model.base.ended = lambda base, x: base.norm(x).transpose(0, 1)
    if kind == "behind the head":
        model.headed = lambda model, x: torch.log_softmax(model.head(x), -1)
    return model


@pytest.mark.parametrize(
    ("kind", "cause", "reason", "place"),
    [
        ("no chain", "no chain of blocks", "base.blocks runs its modules up to 3 times", ("", "base.blocks", None)),
        ("several streams", "several streams", "several streams run side by side", ("", "base.blocks.0", 0)),
        ("positions first", "positions first", "positions come before rows", ("", "base.blocks.0", 0)),
        ("behind the head", "something behind the head", "_log_softmax in the model", ("_log_softmax", "", None)),
        ("biased head", "a factor before a biased head", "0.5 stands before the head head", ("mul", "head", None)),
    ],
)
def test_refused_with_the_cause(kind: str, cause: str, reason: str, place: tuple[str, str, int | None]) -> None:
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        found(refused_model(kind))
    error = caught.value
    assert (error.cause, (error.operation, error.module, error.layer)) == (cause, place)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_nothing_stays_on_the_model() -> None:
    model = planted()
    model.train()
    model.base.blocks[1].eval()
    modes = [module.training for module in model.modules()]
    found(model)
    assert hooks(model) == 0 and [module.training for module in model.modules()] == modes

    def broken(block: Any, x: Tensor) -> Any:
        assert not torch.is_grad_enabled() and not block.training
        raise RuntimeError("broken")

    model.base.blocks[2]._put_together = broken
    with pytest.raises(
        UnsupportedModelError, match=r"a pass over text alone fails in base\.blocks\.2 \(RuntimeError: broken"
    ) as caught:
        found(model)
    assert (caught.value.cause, caught.value.module) == ("a pass fails", "base.blocks.2")
    assert hooks(model) == 0 and [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()


def test_a_recording_holds_no_activation() -> None:
    model = planted()
    with as_it_is_used(model):
        graph = record(model, ordinary_tokens(model))
    gc.collect()
    own = {id(item) for item in (*model.parameters(), *model.buffers())}
    shapes = {value.shape for value in graph.values}
    assert (2, 7, WIDTH) in shapes
    left = [one for one in gc.get_objects() if type(one) is Tensor and one.shape == (2, 7, WIDTH)]
    assert [one for one in left if id(one) not in own] == []


def test_a_pass_frees_what_it_no_longer_needs() -> None:
    passed: list[weakref.ref[Tensor]] = []

    def watched(block: Any, x: Tensor) -> Any:
        normed = block.norm1(x)
        passed.append(weakref.ref(normed))
        return x + block.mixer(normed)

    def ended(base: Any, x: Tensor) -> Any:
        assert len(passed) >= 3 and all(one() is None for one in passed)
        return base.norm(x)

    model = planted(watched)
    model.base.ended = ended
    with as_it_is_used(model):
        record(model, ordinary_tokens(model))


def test_passes_of_other_threads_are_left_alone() -> None:
    model = planted(mlp_first)
    expected, plain_norm = found(model), model.base.ended
    tokens = [ordinary_tokens(model).roll(places, 1) for places in range(1, 7)]
    with torch.no_grad():
        alone = [model(ids).logits for ids in tokens]
    beside: list[Tensor] = []

    def elsewhere() -> None:
        with torch.no_grad():
            beside.append(model(tokens[len(beside)]).logits)

    def ended(base: Any, x: Tensor) -> Any:
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
        return plain_norm(base, x)

    model.base.ended = ended
    assert found(model) == expected
    assert len(beside) >= 3 and all(torch.equal(one, other) for one, other in zip(beside, alone, strict=False))


class Experts(nn.Module):
    """Two experts whose output projections are stacked, and which a router weighs."""

    def __init__(self, transposed: bool = False) -> None:
        super().__init__()
        self.router, self.transposed = nn.Linear(WIDTH, 2), transposed
        self.down = nn.Parameter(torch.randn((2, 24, WIDTH) if transposed else (2, WIDTH, 24)))
        self.up = nn.Linear(WIDTH, 24)

    def forward(self, x: Tensor) -> Tensor:
        weights, inner = self.router(x).softmax(-1), torch.relu(self.up(x))
        total = torch.zeros_like(x)
        for expert in range(2):
            down = self.down[expert]
            given = inner @ down if self.transposed else nn.functional.linear(inner, down)
            total = total + weights[..., expert, None] * given * 1.5
        return total


class Listed(nn.Module):
    """Experts in a list of which a token sees one."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Mlp() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x).view(-1, WIDTH)
        rows = torch.arange(5)
        total.index_add_(0, rows, 0.3 * self.experts[2](x.view(-1, WIDTH)[rows]))
        return total.view(x.shape)


class Biased(Experts):
    """Experts with a bias beside the stack."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x) + self.bias
        return out


def with_mlp(module: type[nn.Module], **settings: Any) -> Any:
    model = planted()
    for block in model.base.blocks:
        block.mlp = module(**settings)
    return model


def test_experts_are_followed_to_their_projections() -> None:
    assert found(with_mlp(Experts)).blocks[1].writers[1].weighed == ("base.blocks.1.mlp.down",)
    listed = found(with_mlp(Listed)).blocks[0].writers[1]
    assert listed.weighed == tuple(f"base.blocks.0.mlp.experts.{expert}.down" for expert in range(4))
    assert listed.projections == () and "weighs" in listed.not_foldable


class Gated(Experts):
    """Experts whose sum is multiplied by a gate of its own for each column."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.sigmoid(x)


def test_experts_the_other_way_round_and_their_biases() -> None:
    writer = found(with_mlp(Experts, transposed=True)).blocks[0].writers[1]
    assert (writer.weighed, writer.weighed_rows) == ((), ("base.blocks.0.mlp.down",))
    writer = found(with_mlp(Biased)).blocks[2].writers[1]
    assert (writer.weighed, writer.weighed_rows) == (("base.blocks.2.mlp.down",), ("base.blocks.2.mlp.bias",))


class Doubled(Mlp):
    """A sum of two projections of which one counts twice."""

    other: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.down(torch.relu(self.up(x))), self.other(x), alpha=2)


def test_a_sum_with_a_factor_is_no_plain_sum_of_projections() -> None:
    model = with_mlp(Doubled)
    for block in model.base.blocks:
        block.mlp.other = nn.Linear(WIDTH, WIDTH)
    writer = found(model).blocks[1].writers[1]
    assert writer.projections == ()
    assert writer.weighed == ("base.blocks.1.mlp.down", "base.blocks.1.mlp.other")


def test_what_is_not_linear_says_why() -> None:
    writer = found(with_mlp(Gated)).blocks[0].writers[1]
    assert (writer.projections, writer.weighed, writer.weighed_rows) == ((), (), ())
    assert writer.not_foldable == "what is added is the result of mul in base.blocks.0.mlp (Gated), not of a projection"


def test_what_is_optional_can_be_left_out() -> None:
    adapter, layout = AutoAdapter(), found(planted())
    smaller = adapter.without(layout, frozenset({"head_out", "resid_mid"}))
    assert smaller is not None and smaller.notes[-1].endswith("heads, resid_mid.")
    assert all(block.heads is None and block.resid_mid is None and block.writers for block in smaller.blocks)
    unfolded = adapter.without(layout, frozenset({"projections", "embed_weight"}))
    assert unfolded is not None and unfolded.embed_weight == ""
    assert all(not writer.projections and writer.not_foldable for writer in unfolded.blocks[0].writers)
    assert adapter.without(layout, frozenset({"head_out", "block_sum"})) is None
    assert adapter.without(smaller, frozenset({"head_out"})) is None
