"""An architecture, declared: which module holds each stream, and what writes to the residual stream.

An adapter looks at a live model and returns a ``Layout``. It registers no hook and sees no vector.
Paths are dotted names below the causal language model, as ``get_submodule`` reads them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from steerkit.api.layout_saved import from_plain, to_plain
from steerkit.api.layout_shown import layout_as_html, layout_in_words
from steerkit.errors import SiteError, counted, nearest
from steerkit.types import ATTN_OUT, EMBED, HEAD_OUT, RESID_MID, RESID_POST, RESID_PRE, Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Tap:
    """A value that passes through the model: what goes into a module or what comes out of it.

    Args:
        module: dotted path of the module.
        side: ``input`` or ``output``.
        keyword: the keyword under which callers pass the input, where it isn't the first positional
            argument. On the output side a tuple's or list's first item is meant, or the tensor itself.
        flat_within: where batch and positions lie in one axis there, ``[batch * pos, width]``: path of the block within
            whose call that is, whose first input has both axes. Empty: they are two axes.
        factor: what is meant is the module's value times this, where it is multiplied outside of any module.
    """

    module: str
    side: Literal["input", "output"] = "output"
    keyword: str = "hidden_states"
    flat_within: str = ""
    factor: float = 1.0

    @property
    def raw(self) -> Tap:
        """The module's own value, before the factor."""
        return self if self.factor == 1.0 else replace(self, factor=1.0)


@dataclass(frozen=True)
class Writer:
    """Something that adds to the residual stream: its contribution, exactly as it is added.

    Args:
        stream: ``attn_out`` for one that mixes tokens, ``mlp_out`` for one that doesn't, or a name of the adapter's own
            that ends in ``_out``.
        tap: where the contribution can be read and replaced, with the factor on it where there is one.
        projections: paths of the linear modules whose outputs sum to the contribution (before the tap's factor), with
            nothing else in between; an update folds into them exactly. Empty: not foldable.
        not_foldable: the reason, where ``projections`` is empty ("a norm follows the projection").
        weighed: where ``projections`` is empty, paths of what is multiplied by a router or a gate before it is
            summed to the contribution: linear modules, or parameters ``[experts, d_model, width]``. All that the
            contribution is made of; then an update without a constant folds into them exactly.
        weighed_rows: likewise parameters ``[..., d_model]`` whose rows are what is multiplied, or sum to it: experts
            that are stacked the other way round, ``[experts, width, d_model]``, and the experts' biases.
    """

    stream: str
    tap: Tap
    projections: tuple[str, ...] = ()
    not_foldable: str = ""
    weighed: tuple[str, ...] = ()
    weighed_rows: tuple[str, ...] = ()

    @property
    def is_weighed(self) -> bool:
        """Whether it is known what a router weighs."""
        return bool(self.weighed or self.weighed_rows)


@dataclass(frozen=True)
class Heads:
    """The per-head outputs of a token mixer, side by side, before the output projection.

    Args:
        tap: the value, ``[batch, pos, n_heads * d_head]``.
        n_heads: number of heads.
        d_head: width of one head.
    """

    tap: Tap
    n_heads: int
    d_head: int


@dataclass(frozen=True)
class Block:
    """One block: ``resid_post = scale * (resid_pre + sum of the writers)``.

    With ``keeps``, for two writers: ``resid_post = keeps[2] * (keeps[1] * (keeps[0] * resid_pre + first) + second)``.

    Args:
        module: path of the block. Its first input is ``resid_pre``, its output ``resid_post``.
        writers: in the order in which they add. None where the block is no sum.
        resid_mid: the stream between the first writer and the next one, as the next one's norm reads
            it; None where there is no such point (parallel blocks).
        heads: the token mixer's heads, or None.
        scale: path of the buffer that multiplies the block's sum, or None.
        start: where the stream begins within the block, whose whole input passes through something else first; that is
            ``resid_pre`` then. None: the block's input is.
        keeps: numbers that the stream is multiplied by before each writer adds, and behind the last one. Empty: none.
        not_a_sum: why the block's output is no sum of its input and contributions, as where the stream itself passes a
            norm. Then only its two ends are sites.
    """

    module: str
    writers: tuple[Writer, ...]
    resid_mid: Tap | None = None
    heads: Heads | None = None
    scale: str | None = None
    start: Tap | None = None
    keeps: tuple[float, ...] = ()
    not_a_sum: str = ""

    @property
    def resid_pre(self) -> Tap:
        """Where the stream enters."""
        return self.start or Tap(self.module, "input")

    def keep(self, writer: int) -> float:
        """What the stream is multiplied by before a writer adds, by its place; behind the last one for their number."""
        return self.keeps[writer] if self.keeps else 1.0


@dataclass(frozen=True, repr=False)
class Layout:
    """A model, declared.

    Args:
        d_model: width of the residual stream.
        base: path of the module that is the model without its head.
        embed: the embedding as it enters the stream (after any scaling).
        blocks: one per layer, in order.
        final_norm: path of the norm behind the last block; empty where there is none.
        head: path of the head.
        between: paths of what else lies between the two, in order.
        embed_is_first_resid_pre: whether ``embed`` and ``blocks.0.resid_pre`` are one place, that is,
            nothing else reads the embedding or changes it on the way.
        embed_weight: path of the module whose ``weight`` holds the embedding, for folding: ``embed`` is its rows
            times one factor, which the self-test checks.
        embed_beside: paths of the other embeddings that are added to those rows, such as those of positions.
        softcap: ``c`` of the logits' ``c * tanh(logits / c)``, or None.
        logit_scale: factor on the logits, before any softcap.
        shares_beginning: whether what a model keeps of tokens that it has read (its cache) may stand for the beginning
            of several rows. True is tried once on the live model before it is relied on; False where it is known
            that it can't, as with a state that layers carry along in place of keys and values.
        begins_at_block: whether a pass may begin at any block with what that block was given in another pass, while
            those below compute nothing. True is tried once on the live model before it is relied on; False where it is
            known that it can't, as where later blocks use keys and values of earlier ones.
    """

    d_model: int
    base: str
    embed: Tap
    blocks: tuple[Block, ...]
    final_norm: str
    head: str
    embed_is_first_resid_pre: bool = True
    embed_weight: str = ""
    softcap: float | None = None
    logit_scale: float = 1.0
    notes: tuple[str, ...] = field(default=())
    shares_beginning: bool = True
    begins_at_block: bool = True
    between: tuple[str, ...] = ()
    embed_beside: tuple[str, ...] = ()

    @property
    def behind(self) -> tuple[str, ...]:
        """Paths of what the last block's output passes on its way to the logits, in order; the last one is the head."""
        return (*((self.final_norm,) if self.final_norm else ()), *self.between, self.head)

    @property
    def behind_base(self) -> tuple[str, ...]:
        """Those of ``behind`` that the base model doesn't run."""
        return tuple(path for path in self.behind if not path.startswith(f"{self.base}."))

    @property
    def not_a_sum(self) -> str:
        """Why the stream is no sum of what writes to it; empty where it is one."""
        return next((block.not_a_sum for block in self.blocks if block.not_a_sum), "")

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def sites(self) -> tuple[Site, ...]:
        """Every site that the model has, in the order in which a forward pass meets them."""
        return self._sites

    @cached_property
    def order(self) -> dict[Site, int]:
        """The place of each site in ``sites()``; single heads have that of all heads of their layer."""
        found = {site: place for place, site in enumerate(self._sites)}
        for layer, block in enumerate(self.blocks):
            if block.heads is not None:
                place = found[Site(HEAD_OUT, layer)]
                found |= {Site(HEAD_OUT, layer, head): place for head in range(block.heads.n_heads)}
        return found

    @cached_property
    def _known(self) -> frozenset[Site]:
        return frozenset(self._sites)

    @cached_property
    def _sites(self) -> tuple[Site, ...]:
        found = [Site(EMBED)]
        for layer, block in enumerate(self.blocks):
            found.append(Site(RESID_PRE, layer))
            if block.heads is not None:
                found.append(Site(HEAD_OUT, layer))
            for index, writer in enumerate(block.writers):
                found.append(Site(writer.stream, layer))
                if index == 0 and block.resid_mid is not None:
                    found.append(Site(RESID_MID, layer))
            found.append(Site(RESID_POST, layer))
        return tuple(found)

    def writer_sites(self) -> tuple[Site, ...]:
        """Everything that writes to the residual stream: the embedding and every block's writers.

        Raises:
            SiteError: where a block is no sum of contributions, so that nobody knows all of them.
        """
        for layer, block in enumerate(self.blocks):
            if block.not_a_sum:
                raise SiteError(
                    f"What writes to the stream can't be edited everywhere: {block.not_a_sum}. Name sites at the ends "
                    f"of blocks, as in '{Site(RESID_POST, layer)}'."
                )
        writers = [Site(writer.stream, layer) for layer, block in enumerate(self.blocks) for writer in block.writers]
        return (Site(EMBED), *writers)

    def sites_of(self, stream: str) -> tuple[Site, ...]:
        """The sites of one stream, by layer."""
        return tuple(site for site in self.sites() if site.stream == stream)

    def tap(self, site: Site) -> Tap:
        """Where a site is read; one head is ``columns`` of the value there. Raises ``SiteError`` as ``require``."""
        self.require(site)
        return self._taps[site.whole]

    @cached_property
    def _taps(self) -> dict[Site, Tap]:
        return {site: self._tap(site) for site in self._sites}

    def _tap(self, site: Site) -> Tap:
        if site.stream == EMBED:
            return self.embed
        block = self.blocks[site.layer]
        if site.stream == RESID_PRE:
            return block.resid_pre
        if site.stream == RESID_POST:
            return Tap(block.module, "output")
        if site.stream == RESID_MID and block.resid_mid is not None:
            return block.resid_mid
        if site.stream == HEAD_OUT and block.heads is not None:
            return block.heads.tap
        return next(writer.tap for writer in block.writers if writer.stream == site.stream)

    def width(self, site: Site) -> int:
        """Width of the values at a site: ``d_model``; ``n_heads * d_head`` at ``head_out``, ``d_head`` at one head."""
        self.require(site)
        heads = self.blocks[site.layer].heads if site.stream == HEAD_OUT else None
        if heads is None:
            return self.d_model
        return heads.d_head if site.head >= 0 else heads.n_heads * heads.d_head

    def columns(self, site: Site) -> slice:
        """Which columns of the value at ``tap(site)`` are the site's: one head's own, else all."""
        if site.head < 0:
            return slice(None)
        width = self.width(site)
        return slice(site.head * width, (site.head + 1) * width)

    def require(self, site: Site) -> None:
        """Raise ``SiteError`` with what is there instead, unless the model has the site."""
        if site in self._known:
            return
        if site.head >= 0 and site.whole in self._known:
            heads = self.blocks[site.layer].heads
            if heads is not None and site.head < heads.n_heads:
                return
            last = 0 if heads is None else heads.n_heads - 1
            raise SiteError(f"No site {site}: block {site.layer} has {counted(last + 1, 'head')}, 0 to {last}.")
        if site.layer >= self.n_layers:
            raise SiteError(
                f"No site {site}: the model has {counted(self.n_layers, 'layer')}, 0 to {self.n_layers - 1}."
            )
        if site.stream == EMBED:
            return
        block = self.blocks[site.layer]
        streams = [item.stream for item in self.sites() if item.layer == site.layer]
        if site.stream not in streams:
            why = f"{block.not_a_sum}, so only the block's two ends are sites. " if block.not_a_sum else ""
            if site.stream == RESID_MID and not why:
                why = "the block's writers all read its input, so there is no point between them. "
            raise SiteError(f"No site {site} in {block.module}: {why}{nearest(site.stream, streams, 'stream')}")

    def to_dict(self) -> dict[str, Any]:
        """All of its fields as plain JSON values."""
        found: dict[str, Any] = to_plain(self)
        return found

    @classmethod
    def from_dict(cls, values: Any) -> Layout:
        """The layout that ``to_dict`` gave these values of.

        Raises:
            ArtifactError: where they aren't a layout's: a field is missing, unknown or of another type.
        """
        return from_plain(cls, values)

    def __repr__(self) -> str:
        return layout_in_words(self)

    def _repr_html_(self) -> str:
        return layout_as_html(self)


class ArchitectureAdapter(ABC):
    """From a live model to its ``Layout``. One subclass per family; registered as an ``ArchitectureSpec``.

    Prove a new one with ``steerkit.testing.ArchitectureSuite``.

    Attributes:
        remembered: whether the layout of a model is kept on this machine and read again at the next start, for adapters
            that take a while to find it. It must follow from the model's config, code and modules, whatever its
            weights; the code that finds it is that of the package (or module) which the class is in.
    """

    remembered: ClassVar[bool] = False

    @abstractmethod
    def layout(self, model: PreTrainedModel) -> Layout:
        """Declare the model's streams. What isn't there is left out, never guessed.

        Raises:
            UnsupportedModelError: with the reason, where the streams are not one sum.
        """

    def without(self, layout: Layout, failed: frozenset[str]) -> Layout | None:
        """What is left of a layout whose self-test failed, or None where nothing is: then the model is refused.

        Args:
            layout: as declared.
            failed: names of the checks that failed.
        """
        return None


__all__ = ["ATTN_OUT", "ArchitectureAdapter", "Block", "Heads", "Layout", "Tap", "Writer"]
