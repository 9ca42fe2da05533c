"""The wheel and the template plugin in an environment of their own, as CI does it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_user_of_the_wheel_can_do_what_the_readme_shows() -> None:
    done = subprocess.run([ROOT / ".ci" / "wheel", sys.executable], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
