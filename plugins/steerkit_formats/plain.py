"""Formats ``npy``, ``npz``, ``safetensors`` and ``torch``: numbers in files of numpy, safetensors and torch."""

from __future__ import annotations

from steerkit.api.hookspecs import FormatSpec, NoOptions, hookimpl

STEERKIT_CONTRACT = 2
_BY_KEY = "where its key says, as <name>@<site>, a site or a hook's name; else where the reader says"


class PlainOptions(NoOptions):
    """Options of files of plain numbers: there are none."""


@hookimpl
def steerkit_formats() -> list[FormatSpec]:
    """Provide ``npy``, ``npz``, ``safetensors`` and ``torch``."""
    return [
        FormatSpec(
            name="npy",
            summary="One array of numpy: a vector, [rank, width], or a row for each site of a pattern.",
            implementation="steerkit_formats._plain:NpyFormat",
            options=PlainOptions,
            suffixes=(".npy",),
            acts="where the reader says: site",
            fallback=True,
        ),
        FormatSpec(
            name="npz",
            summary="Arrays of numpy by name, by site, or by a hook's name of TransformerLens or nnterp.",
            implementation="steerkit_formats._plain:NpzFormat",
            options=PlainOptions,
            suffixes=(".npz",),
            acts=_BY_KEY,
            fallback=True,
        ),
        FormatSpec(
            name="safetensors",
            summary="Tensors by name, by site, or by a hook's name of TransformerLens or nnterp.",
            implementation="steerkit_formats._plain:SafetensorsFormat",
            options=PlainOptions,
            suffixes=(".safetensors",),
            acts=_BY_KEY,
            fallback=True,
        ),
        FormatSpec(
            name="torch",
            summary="A tensor, or tensors by name, by site or by a hook's name, written with torch.save.",
            implementation="steerkit_formats._plain:TorchFormat",
            options=PlainOptions,
            suffixes=(".pt", ".pth"),
            acts=_BY_KEY,
            fallback=True,
        ),
    ]
