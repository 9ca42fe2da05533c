"""``python -m steerkit`` is ``steerkit``."""

from steerkit.cli.start import main

if __name__ == "__main__":
    main()
