"""First-party interventions. Each module names one; the implementation beside it, ``_<name>.py``, imports torch."""
