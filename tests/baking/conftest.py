"""Where the runs that tests of baking share lie: in pytest's own folder, and gone when the tests end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.baking import common


@pytest.fixture(scope="session", autouse=True)
def kept_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Removed after success, failure and an interrupt; what a kill leaves, pytest removes some sessions later."""
    with common.runs_kept_in(tmp_path_factory.mktemp("kept-runs")) as folder:
        yield
    shutil.rmtree(folder, ignore_errors=True)
