"""Architecture ``auto``: whatever one recorded pass shows, for models that no other adapter claims."""

from __future__ import annotations

from steerkit.api.hookspecs import ArchitectureSpec, hookimpl

STEERKIT_CONTRACT = 2


@hookimpl
def steerkit_architectures() -> list[ArchitectureSpec]:
    """Provide ``auto``."""
    return [
        ArchitectureSpec(
            name="auto",
            summary="Any other decoder: its layout is read off a recorded pass, and the self-test decides.",
            implementation="steerkit_architectures._auto:AutoAdapter",
            fallback=True,
        )
    ]
