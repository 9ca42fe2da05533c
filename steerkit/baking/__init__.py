"""``steerkit bake``: a condition of a finished run as an ordinary checkpoint, which says what was changed in it.

``asked`` reads the run and says no where weights can't hold a condition, ``check`` compares the checkpoint with the
hooked model, ``card`` tells a reader, and ``folder`` has the order.
"""

from steerkit.baking.folder import Baked, bake

__all__ = ["Baked", "bake"]
