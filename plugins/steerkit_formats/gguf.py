"""Control vectors of llama.cpp in GGUF files: ``gguf``, ``repeng``, ``cvector_generator`` and ``easysteer``.

One layout, tensors ``direction.<k>``, and several readings of ``k``:

- repeng (``ControlVector.export_gguf`` in ``repeng/extract.py``) reads ``hidden_states[k + 1]``, the output of block k;
- llama.cpp (``llama_adapter_cvec`` in ``src/llama-adapter.cpp``) adds it at the output of block k, from block 1 on;
- its cvector-generator (``tools/cvector-generator``) writes what it read at the output of block i as
  ``direction.<i + 1>``;
- EasySteer (``StatisticalControlVector.export_gguf``): the output of decoder layer k, from 0 on.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from steerkit.api.hookspecs import FormatSpec, NoOptions, Options, hookimpl

STEERKIT_CONTRACT = 2
_SUFFIXES: Final = (".gguf",)
_OUTPUT: Final = "output of block k"


class GgufOptions(Options):
    """Options of ``gguf``."""

    convention: Literal["repeng", "cvector-generator"] | None = Field(
        None,
        description="Whose numbering a file follows that doesn't say who wrote it: direction.k is of the output of "
        "block k (repeng), or of block k-1 (cvector-generator). Files that steerkit writes say it.",
    )


class RepengOptions(NoOptions):
    """Options of ``repeng``: there are none."""


class CvectorGeneratorOptions(NoOptions):
    """Options of ``cvector_generator``: there are none."""


class EasysteerOptions(NoOptions):
    """Options of ``easysteer``: there are none."""


@hookimpl
def steerkit_formats() -> list[FormatSpec]:
    """Provide all four. A file is taken for ``gguf``, unless it says that EasySteer wrote it."""
    return [
        FormatSpec(
            name="gguf",
            summary="A control vector as llama.cpp loads it; convention says whose numbering another's follows.",
            implementation="steerkit_formats._gguf:GgufFormat",
            options=GgufOptions,
            suffixes=_SUFFIXES,
            acts=_OUTPUT,
        ),
        FormatSpec(
            name="repeng",
            summary="A control vector as repeng exports it.",
            implementation="steerkit_formats._gguf:RepengFormat",
            options=RepengOptions,
            suffixes=_SUFFIXES,
            acts=_OUTPUT,
            fallback=True,
        ),
        FormatSpec(
            name="cvector_generator",
            summary="A control vector as llama.cpp's cvector-generator writes it, one number above where it was read.",
            implementation="steerkit_formats._gguf:CvectorGeneratorFormat",
            options=CvectorGeneratorOptions,
            suffixes=_SUFFIXES,
            acts="output of block k-1",
            writes=False,
            fallback=True,
        ),
        FormatSpec(
            name="easysteer",
            summary="A control vector as EasySteer exports it.",
            implementation="steerkit_formats._gguf:EasysteerFormat",
            options=EasysteerOptions,
            suffixes=_SUFFIXES,
            acts=_OUTPUT,
            writes=False,
        ),
    ]
