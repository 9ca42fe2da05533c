"""The words that a request and a worker are told in, each said once.

Between the front (the process with the HTTP server, or the one that holds ``vllm.LLM``) and the workers only these are
exchanged: ``SamplingParams.extra_args`` of a request under ``SEALED``, and calls of the worker's methods by name.
"""

from __future__ import annotations

from typing import Final

ASKED: Final = "steer"
"""What a user writes: a field of an HTTP request, a key of ``vllm_xargs``, or of ``SamplingParams.extra_args``."""

TICKET: Final = "steer_ticket"
"""A request whose readings somebody will fetch, by the key that they are fetched with."""

SEALED: Final = "steerkit"
"""What a worker obeys: written by the gate alone, which also salts the cache. ``{"program": digest, ...}``."""

DIGEST: Final = "sha256:"
"""Before a program's digest, where a request names content and no name."""

WORKER: Final = "steerkit_vllm.worker.SteeringWorker"
"""vLLM's ``worker_cls``."""
