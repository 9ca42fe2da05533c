"""What each site would say next if nothing came after it: the logit lens.

The stream at a site goes through the model's own final norm, head, factor and soft cap, as the last block's output does
(nostalgebraist, "interpreting GPT: the logit lens", 2020). At the last ``resid_post`` it is the model's own logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from steerkit.api.frames import frame_of
from steerkit.api.showing import a_kind, card, line, table
from steerkit.engine.reading.activations import Activations, TokensRead, text_of_token
from steerkit.engine.reading.passes import logits_of
from steerkit.engine.sites.evaluating import evaluating
from steerkit.engine.sites.taps import submodule, through
from steerkit.errors import DataError, SiteError, counted
from steerkit.types import EMBED, RESID_MID, RESID_POST, RESID_PRE, Site

if TYPE_CHECKING:
    from steerkit.engine.runtime.runtime import Runtime

STREAM: Final = (EMBED, RESID_PRE, RESID_MID, RESID_POST)
"""Where the stream itself is, and not what is added to it."""
_LOGITS_AT_ONCE: Final = 2**26
_SHOWN_TOKENS: Final = 24
_SHOWN_TEXT: Final = 14


@dataclass(frozen=True)
class Guess:
    """A token that a site would say next.

    Args:
        text: of the token by itself.
        token_id: its id.
        probability: by the softmax of the site's logits.
    """

    text: str
    token_id: int
    probability: float


class LogitLens:
    """Logits of every token that was read, at every site where it was; computed when they are asked for.

    ``lens["blocks.10.resid_pre"]`` is ``[prompt, token, vocabulary]``, float32 on the CPU, zeros where ``mask`` is
    False. Where all of them would be too many, ``top`` and ``log_probabilities`` keep a few numbers of each token.

    Args:
        live: the model, whose norm and head are used as they are when logits are asked for.
        activations: what it gave.
    """

    def __init__(self, live: Runtime, activations: Activations) -> None:
        self._live, self._activations = live, activations

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where the stream was read."""
        return self._activations.sites

    @property
    def read(self) -> TokensRead:
        """Which tokens were read: positions, ids, texts, places."""
        return self._activations.read

    @property
    def mask(self) -> Tensor:
        """True at tokens, False where a row is filled up, ``[prompt, token]``."""
        return self._activations.mask

    def __getitem__(self, site: Site | str) -> Tensor:
        return pad_sequence(self.ragged(site), batch_first=True)

    def ragged(self, site: Site | str | None = None) -> list[Tensor]:
        """The logits of each prompt's tokens, ``[tokens, vocabulary]`` each; of the one site where none is named."""
        return list(self.flat(site).split(list(self.read.counts)))

    def flat(self, site: Site | str | None = None) -> Tensor:
        """The logits of all prompts' tokens below each other, ``[tokens, vocabulary]``."""
        return torch.cat(list(self._parts(self._activations.flat(site))))

    def top(self, k: int = 5, site: Site | str | None = None) -> list[list[list[Guess]]]:
        """The likeliest next tokens at one site: for each prompt, for each of its tokens, ``k`` guesses.

        Raises:
            DataError: for another number of guesses than the model has tokens.
            SiteError: for a site that wasn't read, or where there are several and none is named.
        """
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= self._live.n_logits:
            raise DataError(f"k is how many tokens to name, from 1 to {self._live.n_logits}, not {k!r}.")
        rows = iter(self._guesses(self._activations.flat(site), k))
        return [[next(rows) for _ in range(count)] for count in self.read.counts]

    def log_probabilities(self, token: int | str, site: Site | str | None = None) -> Tensor:
        """How likely one token is next at one site, ``[prompt, token]``, in nats; NaN where ``mask`` is False.

        Args:
            token: its id, or a text that is one token.
            site: which one; None for the only one.

        Raises:
            DataError: for a text of several tokens, or an id that has no logit.
            SiteError: as ``top``.
        """
        chosen = self._token_id(token)
        parts = [logits.log_softmax(-1)[:, chosen] for logits in self._parts(self._activations.flat(site))]
        each = torch.cat(parts).split(list(self.read.counts))
        return pad_sequence(list(each), batch_first=True, padding_value=torch.nan)

    def to_frame(self, k: int = 1) -> Any:
        """A ``pandas.DataFrame`` with a row for each guess: site, prompt, place, token, rank, ``guess``, probability.

        Raises:
            SteerkitError: where pandas isn't installed.
        """
        tokens = self.read.columns()
        columns: dict[str, list[Any]] = {
            "site": [],
            **{name: [] for name in tokens},
            "rank": [],
            "guess": [],
            "guess_id": [],
            "probability": [],
        }
        for site in self.sites:
            rows = [guesses for prompt in self.top(k, site) for guesses in prompt]
            for place, guesses in enumerate(rows):
                for rank, guess in enumerate(guesses):
                    told = (rank, guess.text, guess.token_id, guess.probability)
                    values = (str(site), *(column[place] for column in tokens.values()), *told)
                    for column, value in zip(columns.values(), values, strict=True):
                        column.append(value)
        return frame_of(columns, "top(k, site)")

    def __repr__(self) -> str:
        ends = self.sites if len(self.sites) < 3 else (self.sites[0], self.sites[-1])
        return f"{self._title()}\n  {' … '.join(map(str, ends))}; top(k, site) names the likeliest next tokens"

    def _repr_html_(self) -> str:
        prompt = next(place for place, count in enumerate(self.read.counts) if count)
        count = self.read.counts[prompt]
        first = max(0, count - _SHOWN_TOKENS)
        head = ["", *(_short(text) for text in self.read.texts[prompt][first:])]
        rows = []
        for site in reversed(self.sites):
            guesses = self._guesses(self._activations.ragged(site)[prompt][first:], 1)
            rows.append([str(site), *(f"{_short(one.text)} {one.probability:.0%}" for (one,) in guesses)])
        note = f"Of prompt {prompt}: the likeliest next token behind each, and its probability."
        cut = f" Its last {_SHOWN_TOKENS} of {counted(count, 'token')}." if first else ""
        return card(self._title(), line(note + cut), table(head, rows))

    def _title(self) -> str:
        prompts = counted(len(self.read.counts), "prompt")
        return f"Logit lens of {prompts} at {counted(len(self.sites), 'site')}, positions '{self.read.positions}'"

    def _token_id(self, token: int | str) -> int:
        if isinstance(token, str):
            ids = self._live.chat.tokenizer.encode(token, add_special_tokens=False)
            if len(ids) != 1:
                raise DataError(f"{token!r} is {counted(len(ids), 'token')}, and one is looked up. Name one by its id.")
            return int(ids[0])
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < self._live.n_logits:
            raise DataError(f"A token is named by its text or its id, below {self._live.n_logits}, not by {token!r}.")
        return token

    def _guesses(self, rows: Tensor, k: int) -> list[list[Guess]]:
        """The likeliest next tokens behind each of ``[tokens, d_model]``."""
        found = []
        for logits in self._parts(rows):
            chances, ids = logits.softmax(-1).topk(k)
            for row, tokens in zip(chances.tolist(), ids.tolist(), strict=True):
                told = zip(tokens, row, strict=True)
                found.append([Guess(text_of_token(self._live, one), one, chance) for one, chance in told])
        return found

    def _parts(self, rows: Tensor) -> Iterator[Tensor]:
        """Logits of ``[tokens, d_model]``, some tokens at a time, float32 on the CPU."""
        for part in rows.split(max(1, _LOGITS_AT_ONCE // max(1, self._live.n_logits))):
            yield lens_logits(self._live, part)


def logit_lens(live: Runtime, activations: object) -> LogitLens:
    """The logit lens on activations of the model's own stream.

    Args:
        live: the model that gave them.
        activations: what ``model.activations`` gave.

    Raises:
        DataError: for anything else, or activations of another model.
        SiteError: for sites where there is a contribution or a head's output and not the stream.
    """
    if not isinstance(activations, Activations):
        raise DataError(
            f"logit_lens takes what model.activations(prompts, sites) gives, token by token, not {a_kind(activations)}."
        )
    for site in activations.sites:
        if site.stream not in STREAM:
            raise SiteError(
                f"The logit lens reads the stream, and at {site} is what is added to it or goes into that. Read "
                f"{Site(RESID_PRE, site.layer)} or {Site(RESID_POST, site.layer)}."
            )
        width = activations.flat(site).shape[1]
        if width != live.layout.d_model or site.layer >= live.layout.n_layers:
            raise DataError(
                f"These activations have width {width} at {site}, and the model has width {live.layout.d_model} and "
                f"{counted(live.layout.n_layers, 'block')}: they are another model's."
            )
    return LogitLens(live, activations)


def lens_logits(live: Runtime, stream: Tensor) -> Tensor:
    """Final norm, head, factor and soft cap on ``[tokens, d_model]``: ``[tokens, vocabulary]``, float32 on the CPU."""
    layout = live.layout
    within = layout.behind[: len(layout.behind) - len(layout.behind_base)]
    # A part that lies elsewhere until it is used takes its input there itself.
    first = submodule(live.model, layout.behind[0])
    devices = [weight.device for weight in first.parameters() if not weight.is_meta]
    x = stream.to(devices[0] if devices else live.device, live.model.dtype)
    with evaluating(live.model):
        return logits_of(live.model, layout, through(live.model, within, x[None]))[0].float().cpu()


def _short(text: str) -> str:
    shown = text.replace("\n", "⏎")
    return shown if len(shown) <= _SHOWN_TEXT else f"{shown[: _SHOWN_TEXT - 1]}…"
