"""Who carries tasks out, and in what order.

``base`` is the interface, ``local`` an executor in this process, ``schedule`` hands out what is ready and keeps what
comes back. ``chosen`` is what a user asked for. Where there are workers, ``crew`` knows who has what; ``processes``
and ``clusters`` (Ray) start them and speak with them, ``worker`` is what runs in each, and ``machine`` and ``plugins``
refuse one that would give other bytes. Executors know tasks, keys and bytes, and nothing of what they mean.
"""
