"""Words with which the families are declared: parts of a live model, and what writes from them.

Most decoders differ in names and in what stands between a projection and the residual stream. This
module holds the nouns; which of them a family has is said in the family's own file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerkit.api.architecture import Block, Heads, Layout, Tap, Writer
from steerkit.errors import UnsupportedModelError
from steerkit.types import ATTN_OUT, MLP_OUT

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

NORM_FOLLOWS = "a norm follows the projection, and an update behind a norm isn't one before it"
ROUTED_EXPERTS = "a router weighs the outputs of the experts, whose projections are stacked in one tensor"


@dataclass(frozen=True)
class Part:
    """A module of a live model, with its path.

    Args:
        path: dotted path below the causal language model; empty for the model itself.
        module: the module there.
    """

    path: str
    module: nn.Module

    def __truediv__(self, name: str) -> Part:
        """The part below. Raises ``UnsupportedModelError`` where there is none."""
        path = self.at(name)
        try:
            return Part(path, self.module.get_submodule(name))
        except AttributeError:
            raise UnsupportedModelError(
                f"{type(self.module).__name__} has no module {name!r} (looked for {path!r}), so this adapter doesn't "
                "fit the model. Load it as a causal language model, or name another adapter (`model: {adapter: ...}`)."
            ) from None

    def at(self, name: str) -> str:
        """The path of something below."""
        return f"{self.path}.{name}" if self.path else name

    def has(self, name: str) -> bool:
        """Whether there is such a module below."""
        try:
            self.module.get_submodule(name)
        except AttributeError:
            return False
        return True

    def fact(self, name: str) -> int:
        """A number that the module knows about itself, such as ``head_dim``."""
        return int(getattr(self.module, name))


@dataclass(frozen=True)
class TextModel:
    """The language model inside a causal language model.

    Args:
        base: path of the model without its head.
        text: the part that holds embedding, blocks and final norm: ``base`` itself, or a part of it where
            other modalities have towers beside it.
        config: the text part's config.
        wrapped: whether ``text`` is only a part of ``base``.
    """

    base: str
    text: Part
    config: Any
    wrapped: bool

    @classmethod
    def of(cls, model: PreTrainedModel) -> TextModel:
        """Find it under the two names that the families of today use."""
        base = Part("", model) / "model"
        wrapped = base.has("language_model")
        text = base / "language_model" if wrapped else base
        return cls(base.path, text, model.config.get_text_config(), wrapped)

    def blocks(self, declare: Callable[[Part], Block], name: str = "layers") -> tuple[Block, ...]:
        """Declare every block."""
        layers = self.text / name
        return tuple(declare(layers / str(layer)) for layer, _ in enumerate(layers.module.children()))

    def notes(self) -> tuple[str, ...]:
        """What a user of the layout should know."""
        if not self.wrapped:
            return ()
        return ("Text only: features of images and sounds replace embeddings after `embed`, before the first block.",)


def standard_layout(text: TextModel, blocks: tuple[Block, ...], **declared: Any) -> Layout:
    """The layout of a decoder with the usual names around its blocks; ``declared`` says what differs."""
    facts: dict[str, Any] = {
        "d_model": int(text.config.hidden_size),
        "base": text.base,
        "embed": Tap(text.text.at("embed_tokens"), "output"),
        "embed_weight": text.text.at("embed_tokens"),
        "blocks": blocks,
        "final_norm": text.text.at("norm"),
        "head": "lm_head",
        "notes": text.notes(),
    }
    return Layout(**(facts | declared))


def attention(block: Part, name: str = "self_attn", projection: str = "o_proj") -> Writer:
    """Attention whose output projection writes straight to the stream."""
    return Writer(ATTN_OUT, Tap(block.at(name), "output"), projections=(block.at(f"{name}.{projection}"),))


def mlp(block: Part, name: str = "mlp", projection: str = "down_proj") -> Writer:
    """An MLP whose last projection writes straight to the stream, or experts in its place."""
    tap = Tap(block.at(name), "output")
    if (block / name).has(projection):
        return Writer(MLP_OUT, tap, projections=(block.at(f"{name}.{projection}"),))
    return Writer(MLP_OUT, tap, not_foldable=ROUTED_EXPERTS, weighed=_weighed(block / name, projection))


def _weighed(moe: Part, projection: str) -> tuple[str, ...]:
    """The output projections of experts, and of the expert that all tokens share; none where a part isn't known."""
    known = {"gate", "router", "experts", "shared_expert", "shared_expert_gate"}
    if not moe.has("experts") or {child for child, _ in moe.module.named_children()} - known:
        return ()
    stacked = getattr(moe.module.get_submodule("experts"), projection, None)
    if getattr(stacked, "ndim", 0) != 3:
        return ()
    shared = (moe.at(f"shared_expert.{projection}"),) if moe.has(f"shared_expert.{projection}") else ()
    return (moe.at(f"experts.{projection}"), *shared)


def normed(stream: str, block: Part, norm: str) -> Writer:
    """A contribution that passes a norm before it is added."""
    return Writer(stream, Tap((block / norm).path, "output"), not_foldable=NORM_FOLLOWS)


def before_norm(block: Part, norm: str) -> Tap:
    """The stream as the norm in front of the second writer reads it."""
    return Tap((block / norm).path, "input")


def heads(block: Part, name: str = "self_attn", projection: str = "o_proj", *, d_head: int | None = None) -> Heads:
    """The heads side by side, as the output projection reads them. ``d_head`` defaults to the mixer's ``head_dim``."""
    out = block / f"{name}.{projection}"
    width = out.fact("in_features")
    each = (block / name).fact("head_dim") if d_head is None else d_head
    return Heads(Tap(out.path, "input"), n_heads=width // each, d_head=each)
