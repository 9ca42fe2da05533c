"""First-party evaluators. Each module names one; the implementation beside it, ``_<name>.py``, imports torch."""
