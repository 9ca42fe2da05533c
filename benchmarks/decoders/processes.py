"""Rows found by several processes, whose death is a row too."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from benchmarks.decoders.row import SEEDS, Row, measure


def rows(names: Iterable[str], jobs: int, quick: bool = False) -> Iterator[Row]:
    """Rows as they are found, by several processes. A process that dies costs its type the row, and no other type."""
    names = list(names)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_alone) as pool:
        waiting = {pool.submit(_row, name, quick): name for name in names}
        died: list[str] = []
        for task in as_completed(waiting):
            try:
                yield task.result()
            except BrokenProcessPool:
                died.append(waiting[task])
    for name in died:
        with ProcessPoolExecutor(1, mp_context=context, initializer=_alone) as pool:
            try:
                yield pool.submit(_row, name, quick).result()
            except BrokenProcessPool:
                yield Row(name, "not run", "the process died", "The process that ran it was ended by the system.")


def _alone() -> None:
    """One thread for each process, and no lines of libraries between the rows."""
    import warnings

    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")


def _row(name: str, quick: bool) -> Row:
    return measure(name, SEEDS[:1], suite=False) if quick else measure(name)
