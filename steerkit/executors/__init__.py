"""Who carries tasks out, and in what order.

``base`` is the interface, ``local`` an executor in this process, ``schedule`` hands out what is ready and keeps what
comes back. Executors know tasks, keys and bytes, and nothing of what they mean.
"""
