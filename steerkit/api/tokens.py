"""First tokens of answers, as an evaluator's options may ask for them: given, known to the adapter, or found in a run.

An evaluator whose option is ``AnswerTokens`` gets a tuple of texts and ids: what is known or found is put in by the
runner, once the model is there, before the evaluator is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Strict, Tag, field_validator

from steerkit.api.hookspecs import Options

Token: TypeAlias = Annotated[str, Strict()] | Annotated[int, Strict()]
"""A text, of which the first token counts as it opens an answer, or a token id."""

KNOWN: Final = "known"
_EXAMPLE: Final = "{found_in: harmful.train, against: harmless.train}"


class KnownTokens(Options):
    """The first tokens of refusals that the model's adapter knows, for models with the tokenizer that they are of."""

    known: Literal[True] = Field(description="Always true: a recipe writes known.")


class FoundTokens(Options):
    """First tokens of what the model itself says when it declines.

    The unsteered model answers the prompts of ``found_in``, and ``by`` says which of its completions are refusals.
    Their first tokens are taken, the most frequent first (of equally frequent ones the lower id), until those that are
    taken begin ``share`` of the refusals, or none is left. A token is left out that begins as large a share of the
    answers to ``against`` as of the refusals: it tells nothing. Data are taken whole, before section ``filter``, which
    may itself use the tokens.
    """

    found_in: str = Field(strict=True, min_length=1, description="Data reference of prompts that the model declines.")
    against: str | None = Field(
        default=None, min_length=1, description="Data reference of prompts that it answers; None: nothing is left out."
    )
    by: Mapping[str, Mapping[str, Any]] = Field(
        default_factory=lambda: {"refusal_rate": {}},
        description="One evaluator of completions with its options, which gives 1 for a refusal and 0 otherwise.",
    )
    max_new_tokens: int = Field(
        default=32, ge=1, strict=True, description="Length of the completions, unless `by` says another."
    )
    share: float = Field(default=0.9, gt=0, le=1, description="Share of the refusals that the tokens should begin.")

    @field_validator("by", mode="before")
    @classmethod
    def _one(cls, value: object) -> object:
        value = {value: {}} if isinstance(value, str) else value
        if not isinstance(value, Mapping) or len(value) != 1:
            raise ValueError("expected one evaluator with its options, as in {refusal_rate: {match: literal}}")
        ((name, options),) = value.items()
        return {name: {} if options is None else options}


def _read(value: Any) -> Any:
    if value == KNOWN:
        return {KNOWN: True}
    if isinstance(value, str) or not isinstance(value, (list, tuple, Mapping, KnownTokens, FoundTokens)):
        raise ValueError(f"expected a list of texts and token ids, {KNOWN}, or {_EXAMPLE}")
    return tuple(value) if isinstance(value, list) else value  # which strict validation takes for a tuple


def _require_sensible(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    for token in tokens:
        if token == "" or (isinstance(token, int) and token < 0):
            raise ValueError(f"{token!r} is no token: write the text that an answer begins with, or an id from 0 up")
    return tokens


def _kind(value: Any) -> str:
    if isinstance(value, (KnownTokens, FoundTokens)):
        return "known" if isinstance(value, KnownTokens) else "found"
    if not isinstance(value, Mapping):
        return "given"
    return "known" if set(value) == {KNOWN} else "found"


AnswerTokens: TypeAlias = Annotated[
    Annotated[Annotated[tuple[Token, ...], Field(min_length=1), AfterValidator(_require_sensible)], Tag("given")]
    | Annotated[KnownTokens, Tag("known")]
    | Annotated[FoundTokens, Tag("found")],
    Discriminator(_kind),
    BeforeValidator(_read),
]
"""A list of texts and ids; ``known``; or where they are found, as a mapping of ``FoundTokens``."""
