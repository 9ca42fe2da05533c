"""``steerkit export``: a condition of a finished run as a file that another engine reads, without weights.

``lowered`` makes a program of it, plain data; ``kinds`` is the table of what a program can be written as, one function
each; ``file`` has the order.
"""

from steerkit.exporting.file import Exported, export

__all__ = ["Exported", "export"]
