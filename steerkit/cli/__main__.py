"""``python -m steerkit.cli``."""

from steerkit.cli.start import main

main()
