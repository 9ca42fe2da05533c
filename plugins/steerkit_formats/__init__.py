"""First-party formats of files of directions. Each module names one; its implementation beside it, ``_<name>.py``."""
