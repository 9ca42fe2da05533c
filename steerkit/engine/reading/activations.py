"""Activations token by token, for whoever probes: by prompt or padded, with the tokens that they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from steerkit.api.frames import frame_of
from steerkit.api.showing import FEW, between, brief, card, line, listed, number, plot_by_layer
from steerkit.engine.reading.capture import capture, reads_behind, tokens_of
from steerkit.engine.reading.captured import NotCapturedError
from steerkit.errors import SiteError, agreeing, counted
from steerkit.types import Positions, Site

if TYPE_CHECKING:
    import numpy as np

    from steerkit.engine.lowering.edits import Steer
    from steerkit.engine.prompts.chat import Rendered
    from steerkit.engine.prompts.inputs import Prompts
    from steerkit.engine.runtime.runtime import Runtime
    from steerkit.progress import Progress

Array: TypeAlias = "np.ndarray[Any, Any]"

_FEW: Final = 6
_WORD: Final = "▁"
"""How sentencepiece writes the space before a word."""


@dataclass(frozen=True, eq=False, repr=False)
class TokensRead:
    """Which tokens of prompts were read; rows and columns are those of padded values.

    Args:
        positions: as they were asked for.
        token_ids: by prompt.
        texts: the text of each token by itself, by prompt; ``#<id>`` of a model without a tokenizer. Of a character
            that several tokens make up together each has a replacement character.
        places: where each stands in its prompt, counted from its first token (special ones and the template's
            included), by prompt.
    """

    positions: Positions
    token_ids: tuple[tuple[int, ...], ...]
    texts: tuple[tuple[str, ...], ...]
    places: tuple[tuple[int, ...], ...]

    def __repr__(self) -> str:
        return brief(self)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many tokens of each prompt were read."""
        return tuple(map(len, self.token_ids))

    @cached_property
    def mask(self) -> Tensor:
        """True at tokens, False where a row is filled up, ``[prompt, token]``."""
        counts = torch.tensor(self.counts)
        return torch.arange(max(self.counts))[None] < counts[:, None]

    def columns(self) -> dict[str, list[Any]]:
        """A row for each token: its prompt, its place in it, its id and its text."""
        return {
            "prompt": [prompt for prompt, count in enumerate(self.counts) for _ in range(count)],
            "place": list(chain.from_iterable(self.places)),
            "token_id": list(chain.from_iterable(self.token_ids)),
            "token": list(chain.from_iterable(self.texts)),
        }


class Activations:
    """Activations at sites, token by token, float32 on the CPU.

    ``activations["blocks.10.resid_pre"]`` is ``[prompt, token, width]``, zeros where ``mask`` is False;
    ``ragged(site)`` has a tensor for each prompt, ``flat(site)`` all tokens below each other.

    Args:
        values: by site, ``[tokens, width]``, prompt by prompt.
        tokens: which tokens these are.
    """

    def __init__(self, values: Mapping[Site, Tensor], tokens: TokensRead) -> None:
        self._values, self._tokens = dict(values), tokens

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where was read, in the order in which it was asked for."""
        return tuple(self._values)

    @property
    def read(self) -> TokensRead:
        """Which tokens were read: positions, ids, texts, places."""
        return self._tokens

    @property
    def tokens(self) -> tuple[tuple[str, ...], ...]:
        """Texts of the tokens, by prompt."""
        return self._tokens.texts

    @property
    def mask(self) -> Tensor:
        """True at tokens, False where a row is filled up, ``[prompt, token]``."""
        return self._tokens.mask

    def __iter__(self) -> Iterator[Site]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, site: object) -> bool:
        try:
            return isinstance(site, (str, Site)) and Site.parse(site) in self._values
        except SiteError:  # a text that names no site names none of these
            return False

    def __getitem__(self, site: Site | str) -> Tensor:
        return pad_sequence(self.ragged(site), batch_first=True)

    def ragged(self, site: Site | str | None = None) -> list[Tensor]:
        """The tokens of each prompt, ``[tokens, width]`` each; of the one site where none is named."""
        return list(self.flat(site).split(list(self._tokens.counts)))

    def flat(self, site: Site | str | None = None) -> Tensor:
        """The tokens of all prompts below each other, ``[tokens, width]``, in the order of ``to_frame``'s rows."""
        return self._values[self._site(site)]

    def to_numpy(self, site: Site | str | None = None) -> Array:
        """``[prompt, token, width]`` of a site, float32, zeros where ``mask`` is False; of the one where none is named.

        Raises:
            SiteError: for a site that wasn't read, or where there are several and none is named.
        """
        array: Array = self[self._site(site)].numpy()
        return array

    def to_frame(self, site: Site | str | None = None) -> Any:
        """A ``pandas.DataFrame`` with a row for each token of each site.

        Its columns are ``site``, ``prompt``, ``place`` (in the prompt), ``token_id``, ``token`` (its text), and the
        values as ``x0``, ``x1``, and so on.

        Args:
            site: one of them; None for all, which are of one width.

        Raises:
            SteerkitError: where pandas isn't installed.
            SiteError: for a site that wasn't read, or several of other widths.
        """
        chosen = self.sites if site is None else (self._site(site),)
        widths = {one: self._values[one].shape[1] for one in chosen}
        if len(set(widths.values())) > 1:
            told = ", ".join(f"{one} has {width}" for one, width in widths.items())
            raise SiteError(f"A frame holds sites of one width, and {told}. Name one: to_frame({str(chosen[0])!r}).")
        tokens = self._tokens.columns()
        columns: dict[str, Any] = {
            "site": [str(one) for one in chosen for _ in tokens["prompt"]],
            **{name: values * len(chosen) for name, values in tokens.items()},
        }
        values = torch.cat([self._values[one] for one in chosen]).numpy()
        columns |= {f"x{place}": values[:, place] for place in range(values.shape[1])}
        return frame_of(columns, "to_numpy(site)")

    def __repr__(self) -> str:
        lines = [f"  {site}: {shape}, norms {norms}" for site, shape, norms in self._rows()]
        more = [f"  ... and {counted(len(lines) - _FEW, 'site')} more"] if len(lines) > _FEW + 1 else []
        return "\n".join([self._title(), *(lines[:_FEW] if more else lines), *more])

    def _repr_html_(self) -> str:
        first = "".join(self.tokens[0]) if self.tokens else ""
        beginning = f"{first[:200]}…" if len(first) > 200 else first
        told = [line(f"tokens read of the first prompt: {beginning!r}")]
        if len(self.sites) > FEW:
            norms = {site: float(values.norm(dim=1).mean()) for site, values in self._values.items()}
            told.append(plot_by_layer("mean norm of a token", norms))
        return card(self._title(), *told, listed(["site", "[prompt, token, width]", "norm of a token"], self._rows()))

    def _title(self) -> str:
        counts = self._tokens.counts
        each = f"{between(list(map(float, counts)))} {agreeing(max(counts), 'token', 'tokens')} each"
        at = f"positions '{self._tokens.positions}'"
        return f"Activations of {counted(len(counts), 'prompt')} at {counted(len(self.sites), 'site')}, {at}, {each}"

    def _rows(self) -> list[tuple[str, str, str]]:
        rows, columns = self.mask.shape
        return [
            (
                str(site),
                f"[{rows}, {columns}, {values.shape[1]}]",
                between(values.norm(dim=1).tolist()) if len(values) else number(None),
            )
            for site, values in self._values.items()
        ]

    def _site(self, site: Site | str | None) -> Site:
        told = ", ".join(map(str, self.sites[:_FEW])) + (f" ... {self.sites[-1]}" if len(self.sites) > _FEW else "")
        if site is None:
            if len(self.sites) > 1:
                raise SiteError(f"Activations were read at several sites, {told}. Name the one that is meant.")
            return self.sites[0]
        found = Site.parse(site)
        if found not in self._values:
            raise NotCapturedError(f"Nothing was read at {found}. There is {told}.")
        return found


def read_activations(
    live: Runtime,
    prompts: Prompts,
    sites: Sequence[Site],
    positions: Positions,
    *,
    steer: Sequence[Steer] | None = None,
    progress: Progress | bool = True,
) -> Activations:
    """Every token that positions name, at every site. Arguments and errors as of ``capture``."""
    # Each token stands for itself here anyway.
    which = replace(positions, each=False)
    rendered = live.rendered(prompts, completion=reads_behind(which))
    captured = capture(live, rendered, sites, [which], kind="rows", steer=steer, progress=progress)
    values: dict[Site, Tensor] = {}
    for site in sites:
        rows = captured[site, which].rows
        assert rows is not None  # asked for
        values[site] = rows
    return Activations(values, _tokens_read(live, rendered, which))


def _tokens_read(live: Runtime, rendered: Sequence[Rendered], positions: Positions) -> TokensRead:
    """Which tokens positions name, as the passes found them: in the frame of each batch."""
    ids: dict[int, tuple[int, ...]] = {}
    places: dict[int, tuple[int, ...]] = {}
    for batch in live.batched(rendered, "right", fine=True):
        _, column, counts = tokens_of(live, positions, batch)
        for index, columns, first in zip(
            batch.order, column.split(counts.tolist()), batch.frame.first.tolist(), strict=True
        ):
            places[index] = tuple(one - first for one in columns.tolist())
            ids[index] = tuple(rendered[index].token_ids[place] for place in places[index])
    order = range(len(rendered))
    texts = {token: text_of_token(live, token) for token in {*chain.from_iterable(ids.values())}}
    return TokensRead(
        positions,
        tuple(ids[index] for index in order),
        tuple(tuple(texts[token] for token in ids[index]) for index in order),
        tuple(places[index] for index in order),
    )


def text_of_token(live: Runtime, token: int) -> str:
    """A token's own text, special ones as they are written; ``#<id>`` where there is no tokenizer, or no text."""
    if live.tokenizer is None:
        return f"#{token}"
    text = str(live.tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    piece = live.tokenizer.convert_ids_to_tokens(token)
    if isinstance(piece, str) and piece.startswith(_WORD) and not text.startswith(" "):
        text = f" {text}"  # some decoders take a text's first space for the mark of its beginning
    return text or f"#{token}"
