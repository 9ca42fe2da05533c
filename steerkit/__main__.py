"""``python -m steerkit`` is ``steerkit``."""

from steerkit.cli.main import main

if __name__ == "__main__":
    main()
