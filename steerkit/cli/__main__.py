"""``python -m steerkit.cli``."""

from steerkit.cli.main import main

main()
