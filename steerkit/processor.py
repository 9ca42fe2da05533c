"""What the library that multiplies matrices on a CPU is told of the processor. Bytes depend on it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

VARIABLE: Final = "MKL_ENABLE_INSTRUCTIONS"
"""Is read by MKL at its first product, and never again."""
_PROCESSORS: Final = Path("/proc/cpuinfo")
_BYTES: Final = 1 << 14
"""The first processor's entry, and more."""


def tell_of_wide_registers(processors: Path = _PROCESSORS) -> None:
    """Have MKL, which multiplies torch's matrices on x86, use AVX-512 on AMD processors that have it. By itself it goes
    no further than AVX2 there, at two thirds to three quarters of the speed. A setting of the user's own stays. To be
    called before anything is computed.
    """
    if sys.platform != "linux" or VARIABLE in os.environ:
        return
    try:
        with processors.open("rb") as file:
            entry = file.read(_BYTES)
    except OSError:
        return
    if b"AuthenticAMD" in entry and b" avx512f " in entry:
        os.environ[VARIABLE] = "AVX512"


def instructions() -> list[str]:
    """What MKL was told, by the command or by the user; empty where it was told nothing."""
    told = os.environ.get(VARIABLE)
    return [told] if told else []
