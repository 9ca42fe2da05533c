"""Updates that act at every token alike, put into the parameters that write there. Exact, or not done.

An update of what a linear module puts out is another linear module: with ``y = W h + c`` and
``y ← y + (y Aᵀ) Q + b`` the weight becomes ``W + Qᵀ (A W)`` and the bias ``c + (c Aᵀ) Q + b``, as in section 4.1
of Arditi et al., 2024 (arXiv 2406.11717), for any rank and with a constant. A constant at a block's output becomes
a bias of its last writer. The parameter is swapped for another one, so that the old bits are never touched, and a
head that was tied to the embedding keeps the embedding as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from steerkit.api.architecture import Block, Layout, Writer
from steerkit.api.intervention import Affine
from steerkit.engine.lowering.algebra import before_factor, compose, is_constant, wants_gradient
from steerkit.engine.lowering.edits import Edit
from steerkit.engine.lowering.foldable import (
    in_features,
    is_transposed,
    weight_of,
    why_fold_is_seen,
    why_not_foldable,
    why_parameter_not_foldable,
)
from steerkit.engine.lowering.places import Places, Record
from steerkit.engine.parallel.shards import beside, placed_as, placed_as_bias, share_of, whole
from steerkit.engine.sites.taps import submodule
from steerkit.errors import agreeing, counted
from steerkit.types import EMBED, HEAD_OUT, RESID_POST, Site

Kind: TypeAlias = Literal["linear", "stacked", "rows", "embedding"]
_A_SUM = "the stream there is a sum that no single parameter writes"
Swap: TypeAlias = tuple[nn.Module, str, nn.Parameter]
"""A module, the name of a parameter of its own, and what is put there."""


@dataclass(frozen=True, eq=False)
class Fold:
    """What goes into one module's parameters, or into one parameter.

    Args:
        path: of the module; of the parameter where experts are stacked in one.
        kind: a linear module, experts stacked ``[experts, out, in]``, a parameter ``[..., out]``, or an embedding.
        inner: update of what goes in, or None.
        outer: update of what comes out, or None.
    """

    path: str
    kind: Kind = "linear"
    inner: Affine | None = None
    outer: Affine | None = None

    def swaps(self, model: nn.Module) -> list[Swap]:
        """The new parameters, on the device and in the dtype of the old ones."""
        if self.kind in ("stacked", "rows"):
            parent, _, name = self.path.rpartition(".")
            owner = submodule(model, parent)
            weight = cast(Tensor, getattr(owner, name))
            new = (_behind if self.kind == "stacked" else _row_update)(_wide(weight), self.outer)
            return [(owner, name, _as_parameter(new, weight))]
        module = submodule(model, self.path)
        weight = cast(Tensor, module.weight)
        if self.kind == "embedding":
            rows = _wide(weight)
            return [(module, "weight", _as_parameter(placed_as(_row_update(rows, self.outer), weight), weight))]
        return _folded_linear_swaps(module, self.inner, self.outer)


def _folded_linear_swaps(module: nn.Module, inner: Affine | None, outer: Affine | None) -> list[Swap]:
    weight = _wide(weight_of(module))
    given, like = module._parameters["bias"], cast(Tensor, module.weight)
    bias = None if given is None else _wide(whole(given))
    if inner is not None:
        if inner.bias is not None:
            shift = whole(weight @ beside(inner.bias, weight))
            bias = shift if bias is None else bias + shift
        if inner.reads is not None and inner.writes is not None:
            weight = weight + (weight @ beside(inner.writes, weight).T) @ beside(inner.reads, weight)
    if outer is not None:
        weight = _behind(weight, outer)
        if bias is not None or outer.bias is not None:
            bias = _row_update(share_of(weight).new_zeros(weight.shape[0]) if bias is None else bias, outer)
    found: list[Swap] = []
    if not _only_constant(inner) or not _only_constant(outer):
        weight = placed_as(weight.T if is_transposed(module) else weight, like)
        found.append((module, "weight", _as_parameter(weight, like)))
    if bias is not None:
        found.append((module, "bias", _as_parameter(placed_as_bias(bias, like), like)))
    return found


def _only_constant(update: Affine | None) -> bool:
    return update is None or update.reads is None


def _wide(value: Tensor) -> Tensor:
    value = value.detach()
    return value if value.dtype == torch.float64 else value.float()


def _as_parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(like.dtype).contiguous(), requires_grad=False)


def _behind(weight: Tensor, outer: Affine | None) -> Tensor:
    """``W + Qᵀ (A W)`` for ``[*, out, in]``."""
    if outer is None or outer.reads is None or outer.writes is None:
        return weight
    return weight + beside(outer.writes, weight).T @ (beside(outer.reads, weight) @ weight)


def _row_update(rows: Tensor, update: Affine | None) -> Tensor:
    """An update of ``[*, d_model]``."""
    if update is None:
        return rows
    new = rows
    if update.reads is not None and update.writes is not None:
        new = new + (rows @ beside(update.reads, rows).T) @ beside(update.writes, rows)
    return new if update.bias is None else new + beside(update.bias, rows)


def fold_places(
    places: Places, layout: Layout, model: nn.Module, record: Record, expected_tokens: int
) -> tuple[Fold, ...]:
    """Take out of ``places`` what can be folded and is worth it.

    Only what comes first at a place folds: what went before it, or read the value before it, would see it. Heads are
    hooked before a projection and folded into what goes into it, so there it is what comes last.
    """
    folding = _Folding(places, layout, model, record, expected_tokens)
    for place in list(places):
        item = places[place][_folded_end(place)]
        if isinstance(item, Edit):
            folding.try_place(place, item)
        if not places[place]:
            del places[place]
    return tuple(folding.folds.values())


class _Folding:
    """The folds of one condition, module by module."""

    def __init__(self, places: Places, layout: Layout, model: nn.Module, record: Record, expected_tokens: int) -> None:
        self.places, self.layout, self.model = places, layout, model
        self.record, self.expected_tokens = record, expected_tokens
        self.folds: dict[str, Fold] = {}

    def try_place(self, place: Site, edit: Edit) -> None:
        """Fold the first update of a place, or note why it stays a hook."""
        why = self.why_not(place, edit)
        if why:
            self.record.note(edit, "kept", why=why)
            return
        if place.stream == EMBED:
            folded = self._embedding(edit)
        elif place.stream == HEAD_OUT:
            folded = self._heads(place, edit)
        elif place.stream == RESID_POST:
            folded = self._last_writer(place, edit)
        elif place.stream in self._writers(place):
            folded = self._writer(place, edit)
        else:
            folded = _A_SUM
        if folded:
            self.record.note(edit, "kept", why=folded)

    def why_not(self, place: Site, edit: Edit) -> str:
        """A reason that lies in the update; empty where there is none."""
        if edit.mode == "hook":
            return "mode hook touches no parameter"
        if not isinstance(edit.update, Affine):
            return "it isn't affine"
        if not edit.when.always:
            return f"it acts at {edit.when}"
        if wants_gradient(edit.update):
            return "a gradient is wanted"
        if place.stream not in {EMBED, HEAD_OUT, *self._writers(place)} and not is_constant(edit.update):
            return _A_SUM
        return ""

    def _writers(self, place: Site) -> set[str]:
        return {writer.stream for writer in self.layout.blocks[place.layer].writers} if place.layer >= 0 else set()

    def worth(self, edit: Edit, tokens: int) -> bool:
        """Whether mode ``auto`` folds a matrix that costs as much as hooking so many tokens."""
        return edit.mode == "fold" or self.expected_tokens >= tokens

    def _embedding(self, edit: Edit) -> str:
        path = self.layout.embed_weight
        if not path:
            return "its adapter names no embedding weight"
        module, tap = cast(nn.Embedding, submodule(self.model, path)), self.layout.embed
        plain = type(module) is nn.Embedding and tap.module == path and tap.side == "output"
        update = cast(Affine, edit.update)
        if update.bias is not None and not plain:
            done = "added to" if self.layout.embed_beside else "multiplied"
            return f"the embedding is {done} before it enters the stream"
        paths = (path, *self.layout.embed_beside)
        why = next((why for one in paths if (why := self._why_embedding_not_foldable(one))), "")
        if why:
            return why
        if not self.worth(edit, module.num_embeddings):
            return (
                f"not worth a table of {counted(module.num_embeddings, 'row')} for "
                f"{counted(self.expected_tokens, 'expected token')}"
            )
        own = _before(update, tap.factor)
        self._take(Site(EMBED), edit, *(Fold(one, "embedding", outer=own) for one in paths))
        return ""

    def _why_embedding_not_foldable(self, path: str) -> str:
        module = submodule(self.model, path)
        why = why_not_foldable(module, path, self.model)
        return why or ("" if isinstance(module, nn.Embedding) else f"{path} is no embedding")

    def _heads(self, place: Site, edit: Edit) -> str:
        heads = self.layout.blocks[place.layer].heads
        assert heads is not None  # otherwise there is no such site
        module = submodule(self.model, heads.tap.module)
        why = "" if heads.tap.side == "input" else "the heads aren't read by a projection"
        why = why or why_not_foldable(module, heads.tap.module, self.model)
        if why:
            return why
        if not self.worth(edit, in_features(module)):
            return self._too_few(in_features(module))
        inner = _before(cast(Affine, edit.update), heads.tap.factor)
        self._take(place, edit, Fold(heads.tap.module, inner=inner))
        return ""

    def _last_writer(self, place: Site, edit: Edit) -> str:
        """A constant at a block's output is one of what the block adds last."""
        block: Block = self.layout.blocks[place.layer]
        if block.not_a_sum:
            return block.not_a_sum
        writer = block.writers[-1]
        at = Site(writer.stream, place.layer)
        if block.scale is not None:
            return "the block multiplies its sum"
        if self.places.get(at):
            return f"an update at {at} comes in between"
        if not writer.projections:
            return writer.not_foldable or "its adapter names no projection"
        why = self._why_writer_not_foldable(writer) or why_fold_is_seen(writer.projections[0], block.module, self.model)
        if why:
            return why
        factor = block.keep(len(block.writers)) * writer.tap.factor
        self._take(place, edit, Fold(writer.projections[0], outer=_before(cast(Affine, edit.update), factor)))
        return ""

    def _writer(self, place: Site, edit: Edit) -> str:
        writer = next(one for one in self.layout.blocks[place.layer].writers if one.stream == place.stream)
        update = cast(Affine, edit.update)
        if not writer.projections:
            return self._weighed(place, edit, writer)
        why = self._why_writer_not_foldable(writer)
        why = why or next(
            (why for one in writer.projections if (why := why_fold_is_seen(one, writer.tap.module, self.model))), ""
        )
        if why:
            return why
        first, *others = writer.projections
        tokens = max(in_features(submodule(self.model, path)) for path in writer.projections)
        if not is_constant(update) and not self.worth(edit, tokens):
            return self._too_few(tokens)
        linear, whole = Affine(update.reads, update.writes), _before(update, writer.tap.factor)
        self._take(place, edit, Fold(first, outer=whole), *(Fold(path, outer=linear) for path in others))
        return ""

    def _weighed(self, place: Site, edit: Edit, writer: Writer) -> str:
        """Experts: their router's weights don't sum to one, so only what is linear goes into them."""
        update = cast(Affine, edit.update)
        reason = writer.not_foldable or "its adapter names no projection"
        if not writer.is_weighed or is_constant(update):
            return reason
        linear = Affine(update.reads, update.writes)
        folds = [Fold(path, self._kind(path), outer=linear) for path in writer.weighed]
        folds += [Fold(path, "rows", outer=linear) for path in writer.weighed_rows]
        why = next((why for fold in folds if (why := self._why_fold_not_done(fold))), "")
        why = why or next(
            (why for fold in folds if (why := why_fold_is_seen(fold.path, writer.tap.module, self.model))), ""
        )
        if why:
            return why
        if not self.worth(edit, place_width := self._width(folds[0])):
            return self._too_few(place_width)
        if update.bias is not None:
            self._add(*folds)
            self.places[place][0] = replace(edit, update=Affine(bias=update.bias))
            return f"its linear part is in {', '.join(fold.path for fold in folds)}; {reason}"
        self._take(place, edit, *folds)
        return ""

    def _kind(self, path: str) -> Kind:
        try:
            self.model.get_submodule(path)
        except AttributeError:
            return "stacked"
        return "linear"

    def _width(self, fold: Fold) -> int:
        """How many numbers an update of a token costs as much as, so that the fold pays from so many tokens on."""
        if fold.kind == "linear":
            return in_features(submodule(self.model, fold.path))
        return self.model.get_parameter(fold.path).numel() // self.layout.d_model

    def _why_fold_not_done(self, fold: Fold) -> str:
        if fold.kind == "linear":
            return why_not_foldable(submodule(self.model, fold.path), fold.path, self.model)
        parent, _, name = fold.path.rpartition(".")
        owner = submodule(self.model, parent)
        return why_parameter_not_foldable(owner, owner._parameters.get(name), fold.path)

    def _why_writer_not_foldable(self, writer: Writer) -> str:
        paths = writer.projections
        return next(
            (why for path in paths if (why := why_not_foldable(submodule(self.model, path), path, self.model))), ""
        )

    def _too_few(self, tokens: int) -> str:
        return (
            f"pays from {counted(tokens, 'token')} on, and {self.expected_tokens} {agreeing(self.expected_tokens)} "
            f"expected"
        )

    def _take(self, place: Site, edit: Edit, *folds: Fold) -> None:
        """The update is in the folds now, and no longer at its place."""
        self.places[place].pop(_folded_end(place))
        whole = ("stacked", "rows")
        names = ", ".join(f"{fold.path}{'' if fold.kind in whole else f' ({_folded_into(fold)})'}" for fold in folds)
        self.record.note(edit, "folded", names)
        self._add(*folds)

    def _add(self, *folds: Fold) -> None:
        for fold in folds:
            before = self.folds.get(fold.path)
            if before is None:
                self.folds[fold.path] = fold
                continue
            outer = fold.outer if before.outer is None else before.outer
            if before.outer is not None and fold.outer is not None:
                outer = compose(before.outer, fold.outer)
            self.folds[fold.path] = replace(before, outer=outer)


def _before(update: Affine, factor: float) -> Affine:
    """An update of what a module's output is times a factor, as one of that output."""
    return update if factor == 1.0 else cast(Affine, before_factor(update, factor))


def _folded_end(place: Site) -> int:
    return -1 if place.stream == HEAD_OUT else 0


def _folded_into(fold: Fold) -> str:
    updates = [update for update in (fold.inner, fold.outer) if update is not None]
    linear, constant = any(not is_constant(one) for one in updates), any(one.bias is not None for one in updates)
    return "weight and bias" if linear and constant else "weight" if linear else "bias"
