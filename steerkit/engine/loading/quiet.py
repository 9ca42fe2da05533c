"""Loading without transformers' progress bars and notices; what matters in them is checked and raised instead."""

from __future__ import annotations

import logging as standard
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging


@contextmanager
def quiet_transformers(downloads: bool = False) -> Iterator[None]:
    """Silence transformers and accelerate, which places models, in the block, and put their settings back after it.

    Args:
        downloads: keep the hub's own bars, for weights that take minutes to arrive.
    """
    verbosity = logging.get_verbosity()
    bars, hub_bars = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    placer = standard.getLogger("accelerate")
    placer_level = placer.level
    placer.setLevel(standard.ERROR)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if downloads and hub_bars:
        enable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        placer.setLevel(placer_level)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()
        else:
            disable_progress_bars()
