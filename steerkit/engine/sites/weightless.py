"""The layout of a model that has no weights yet: its modules are built on the meta device, from its config alone."""

from __future__ import annotations

from pathlib import Path

from steerkit.api.architecture import ArchitectureAdapter, Layout
from steerkit.engine.loading.empty import empty_model
from steerkit.engine.sites.layout_memory import layout_of
from steerkit.errors import ModelError, SteerkitError


def layout_without_weights(
    source: str, folder: Path | None, adapter: ArchitectureAdapter, *, trust_remote_code: bool = False
) -> Layout:
    """What an adapter says of a model that is built without weights.

    It is what it says of the model itself, unless its modules look at numbers: an adapter that runs a pass can't follow
    one that branches on what was computed.

    Args:
        source: as a recipe names the model.
        folder: where its config is; None for tiny models, which are built with their weights.
        adapter: the one for the model.
        trust_remote_code: whether code that comes with a checkpoint may run.

    Raises:
        SteerkitError: where it can't be known so, with the reason as the end of a sentence.
    """
    try:
        return layout_of(empty_model(source, folder, trust_remote_code), adapter)
    except SteerkitError:
        raise
    except Exception as error:  # whatever a model's own code makes of tensors that hold nothing
        first = next(iter(str(error).strip().splitlines()), "")
        raise ModelError(f"its modules can't be looked at ({type(error).__name__}: {first})") from error
