"""A recipe over several values of its settings: every run of it, and one comparison of them.

``axes`` reads what is swept, ``members`` plans every run before any begins, ``jobs`` carries whole runs out, and
``sweep`` is the main path. What a sweep's directory holds is shown by ``steerkit.report``.
"""
