"""Where in the network: a stream at a layer, or a pattern that names several."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeVar

from steerkit.errors import SiteError, counted, nearest
from steerkit.types.hook_names import own_form

EMBED: Final = "embed"
RESID_PRE: Final = "resid_pre"
ATTN_OUT: Final = "attn_out"
RESID_MID: Final = "resid_mid"
MLP_OUT: Final = "mlp_out"
RESID_POST: Final = "resid_post"
HEAD_OUT: Final = "head_out"

STREAMS: Final = (EMBED, RESID_PRE, ATTN_OUT, RESID_MID, MLP_OUT, RESID_POST, HEAD_OUT)
"""The streams that architectures have in common. An adapter may declare further writers, named ``*_out``."""

_STREAM = re.compile(r"[a-z][a-z0-9_]*_out|" + "|".join(STREAMS))
_SITE = re.compile(r"blocks\.(?P<layer>-?\d+)\.(?P<stream>[a-z0-9_]+)(?:\[(?P<head>\d+)\])?")
_SHARE = r"(?:0|1|0?\.\d+|0\.\d*|1\.0*)"
_PATTERN = re.compile(
    rf"blocks\.(?:(?P<every>\*)|(?P<first>\d+)-(?P<last>\d+)|\[(?P<low>{_SHARE})(?:-(?P<high>{_SHARE}))?\])"
    r"\.(?P<stream>[a-z0-9_]+)(?:\[(?P<head>\d+)\])?"
)


@dataclass(frozen=True, order=True)
class Site:
    """A stream at a layer. Text form ``blocks.14.resid_pre``, or ``embed``, which has no layer.

    Args:
        stream: a name from ``STREAMS``, or an adapter's own writer (``per_layer_out``).
        layer: the block, counted from 0; -1 for ``embed``.
        head: one head of ``head_out``, counted from 0, as in ``blocks.3.head_out[5]``; -1 for all heads side by side.
    """

    stream: str
    layer: int = -1
    head: int = -1

    def __post_init__(self) -> None:
        _require_stream(self.stream)
        if self.stream == EMBED and self.layer != -1:
            raise SiteError(f"'embed' at layer {self.layer}: the embedding has no layer; write 'embed'.")
        if self.stream != EMBED and self.layer < 0:
            raise SiteError(f"{self.stream!r} needs a layer, counted from 0, as in 'blocks.14.resid_pre'.")
        if self.head != -1 and (self.stream != HEAD_OUT or self.head < 0):
            raise SiteError(
                f"{self.stream}[{self.head}]: only head_out has heads, counted from 0, as in 'blocks.3.head_out[5]'."
            )

    @classmethod
    def parse(cls, text: str | Site) -> Site:
        """Read the text form, or a hook's name that people know (see ``steerkit.types.hook_names``).

        Raises:
            SiteError: with the form that was expected.
        """
        if isinstance(text, Site):
            return text
        written = own_form(str(text)).strip()
        if written == EMBED:
            return cls(EMBED)
        match = _SITE.fullmatch(written)
        if match is None:
            raise SiteError(f"{text!r} is not a site. Write 'blocks.<layer>.<stream>', as in 'blocks.14.resid_pre'.")
        return cls(match["stream"], int(match["layer"]), -1 if match["head"] is None else int(match["head"]))

    @property
    def whole(self) -> Site:
        """The site without the choice of a head."""
        return self if self.head == -1 else Site(self.stream, self.layer)

    def __str__(self) -> str:
        head = "" if self.head == -1 else f"[{self.head}]"
        return EMBED if self.stream == EMBED else f"blocks.{self.layer}.{self.stream}{head}"

    # Keys of many a mapping that people print, in the text that they write.
    def __repr__(self) -> str:
        return f"{type(self).__name__}.parse({str(self)!r})"


@dataclass(frozen=True)
class SitePattern:
    """Several sites in one text: ``blocks.*.resid_pre``, ``blocks.8-20.resid_post``, ``blocks.[0.25-0.75].resid_post``.

    Or one at a share of the depth, ``blocks.[0.6].resid_post``, for models of any number of layers.

    Args:
        stream: as in ``Site``.
        layers: first and last layer, both included; None: every layer, or those of ``share``.
        share: from where to where in the depth, as shares of the number of layers: layer l of L is among them where
            ``low <= l / L < high``, and the last layer where ``high`` is 1. Where both are equal, the one layer
            ``floor(low * L)``, or the last one where that is past it.
        head: as in ``Site``.
    """

    stream: str
    layers: tuple[int, int] | None = None
    share: tuple[float, float] | None = None
    head: int = -1

    def __post_init__(self) -> None:
        _require_stream(self.stream)
        if self.stream == EMBED:
            raise SiteError("'embed' is one site and has no layers; write 'embed'.")
        if self.layers is not None and self.share is not None:
            raise SiteError(f"{self}: layers by number or as a share of the depth, not both.")
        if self.layers is not None and not 0 <= self.layers[0] <= self.layers[1]:
            raise SiteError(f"{self}: the first layer comes before the last one, as in 'blocks.8-20.{self.stream}'.")
        if self.share is not None and not 0 <= self.share[0] <= self.share[1] <= 1:
            raise SiteError(f"{self}: shares of the depth rise from 0 to 1, as in 'blocks.[0.25-0.75].{self.stream}'.")
        if self.head != -1 and (self.stream != HEAD_OUT or self.head < 0):
            raise SiteError(f"{self}: only head_out has heads, counted from 0, as in 'blocks.*.head_out[5]'.")

    @classmethod
    def parse(cls, text: str) -> SitePattern:
        """Read the text form, or hooks' names with the layers of a pattern, as in ``blocks.*.hook_resid_pre``.

        Raises:
            SiteError: with the forms that were expected.
        """
        match = _PATTERN.fullmatch(own_form(str(text)).strip().replace(" ", ""))
        if match is None:
            raise SiteError(
                f"{text!r} is neither a site nor a pattern of sites. Write 'blocks.14.resid_pre', "
                "'blocks.*.resid_pre', 'blocks.8-20.resid_post' or, as a share of the depth, "
                "'blocks.[0.25-0.75].resid_post'."
            )
        layers = None if match["first"] is None else (int(match["first"]), int(match["last"]))
        low, high = match["low"], match["high"]
        share = None if low is None else (float(low), float(low if high is None else high))
        if high is not None and share is not None and share[0] == share[1]:
            raise SiteError(f"{text!r}: shares of the depth rise from 0 to 1; for one layer write [{high}].")
        return cls(match["stream"], layers, share, -1 if match["head"] is None else int(match["head"]))

    def sites(self, n_layers: int) -> tuple[Site, ...]:
        """The sites of a model with so many layers, by layer.

        Raises:
            SiteError: for layers that the model doesn't have, or where no layer is meant.
        """
        first, last = 0, n_layers - 1
        if self.layers is not None:
            first, last = self.layers
            if last >= n_layers:
                raise SiteError(f"No sites {self}: the model has {counted(n_layers, 'layer')}, 0 to {n_layers - 1}.")
        layers = [layer for layer in range(first, last + 1) if self._holds(layer, n_layers)]
        if not layers:
            raise SiteError(f"{self} names none of the model's {counted(n_layers, 'layer')}; widen the share.")
        return tuple(Site(self.stream, layer, self.head) for layer in layers)

    @property
    def is_one(self) -> bool:
        """Whether it names one site, whatever the number of layers."""
        return any(both is not None and both[0] == both[1] for both in (self.layers, self.share))

    def _holds(self, layer: int, n_layers: int) -> bool:
        if self.share is None:
            return True
        low, high = self.share
        if self.is_one:
            # The nearest double of 0.6 times 5 layers lies below 3.
            return layer == min(int(low * n_layers + 1e-9), n_layers - 1)
        return low <= layer / n_layers < high or (high == 1 and layer == n_layers - 1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}.parse({str(self)!r})"

    def __str__(self) -> str:
        head = "" if self.head == -1 else f"[{self.head}]"
        which = "*"
        if self.layers is not None:
            which = f"{self.layers[0]}-{self.layers[1]}"
        elif self.share is not None:
            low, high = map(_digits, self.share)
            which = f"[{low}]" if self.is_one else f"[{low}-{high}]"
        return f"blocks.{which}.{self.stream}{head}"


SiteT = TypeVar("SiteT", bound="Site | SitePattern | str")


def parse_sites(text: str | Site | SitePattern) -> Site | SitePattern:
    """Read one site, or a pattern of several."""
    if isinstance(text, (Site, SitePattern)):
        return text
    written = own_form(str(text)).strip()
    return Site.parse(written) if written == EMBED or _SITE.fullmatch(written) else SitePattern.parse(written)


def resolve_sites(sites: Sequence[Site | SitePattern | str] | Site | SitePattern | str, n_layers: int) -> list[Site]:
    """Sites and patterns, one or several, as the sites of a model with so many layers, each once, in their order."""
    listed = list_sites(sites)
    resolved: dict[Site, None] = {}
    for one in map(parse_sites, listed):
        resolved.update(dict.fromkeys([one] if isinstance(one, Site) else one.sites(n_layers)))
    return list(resolved)


def as_sites(sites: Sequence[Site | str] | Site | str) -> list[Site]:
    """One site or several, in either form, as a list."""
    return [Site.parse(site) for site in list_sites(sites)]


def list_sites(sites: Sequence[SiteT] | SiteT) -> list[SiteT]:
    """One site or pattern, or several, as a list.

    Raises:
        SiteError: for what is neither.
    """
    if isinstance(sites, (Site, SitePattern, str)):
        return [sites]
    if not isinstance(sites, Iterable):
        raise SiteError(f"{sites!r} is neither a site, such as 'blocks.14.resid_pre', nor a list of sites.")
    return list(sites)


def _digits(share: float) -> str:
    # As many digits as it takes to read the same number again, and no exponent: a dash parts the two shares.
    text = format(Decimal(repr(float(share) + 0.0)), "f")  # -0.0 + 0.0 is 0.0
    return text.removesuffix(".0")


def _require_stream(stream: str) -> None:
    if not _STREAM.fullmatch(stream):
        raise SiteError(f"Unknown stream {stream!r}. {nearest(stream, STREAMS, 'stream')}")
