"""How much a worker prepares: fixed when an engine starts, since addresses and memory are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from steerkit.errors import AttachError
from steerkit.types import ATTN_OUT, EMBED, MLP_OUT, RESID_MID, RESID_POST

KEY: Final = "steerkit"
STREAMS: Final = (EMBED, ATTN_OUT, RESID_MID, MLP_OUT, RESID_POST)


class Settings(BaseModel):
    """What ``additional_config={"steerkit": {...}}`` may hold."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True)

    slots: int = Field(
        default=16,
        ge=1,
        le=256,
        description="Weights per token that are told apart. Most programs take one, one with two kinds of positions "
        "two or three.",
    )
    rows: int = Field(default=32, ge=0, le=512, description="Directions that all programs together read at a place.")
    monitors: int = Field(default=8, ge=0, le=128, description="Vectors that all monitors together read at a place.")
    streams: tuple[str, ...] = Field(default=STREAMS, description="Streams whose places are prepared.")
    gated: bool = Field(
        default=False,
        description="Whether every request passes a gate that keeps the caches of programs apart, as those of "
        "steerkit-vllm's server and SteeredLLM do. Without one an engine starts only where no cache of beginnings is "
        "kept.",
    )
    readings: int = Field(default=64, ge=0, description="Requests whose readings are kept until they are fetched.")

    @field_validator("streams", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        value = tuple(value) if isinstance(value, list) else value
        if not value or not isinstance(value, tuple) or set(value) - set(STREAMS):
            raise ValueError(f"streams are some of {', '.join(STREAMS)}")
        return value


def settings_of(additional_config: Mapping[str, Any] | None) -> Settings:
    """What an engine was started with.

    Raises:
        AttachError: for a key or a value that isn't one.
    """
    try:
        return Settings.model_validate(dict(additional_config or {}).get(KEY, {}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join([KEY, *(str(part) for part in first["loc"])])
        raise AttachError(f"additional_config: {place}: {first['msg']}.") from None
