"""Where the command begins: an interrupt while all that it consists of is still imported is told like any other."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, and exit."""
    try:
        from steerkit.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. Nothing was changed.\n")
        raise SystemExit(130) from None
    run()
