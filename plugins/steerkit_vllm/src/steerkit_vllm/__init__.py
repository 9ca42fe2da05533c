"""Steered requests on vLLM: many conditions and none in one batch, at vLLM's own speed.

What a server needs, from the outside in:

* ``asking``: what a request carries in ``SamplingParams.extra_args``, and how it is checked before it reaches a worker;
* ``settings``: how many programs and which places a worker prepares (``additional_config={"steerkit": {...}}``);
* ``worker``: the ``worker_cls`` (``steerkit_vllm.worker.SteeredWorker`` on a GPU, ``SteeredCPUWorker`` on a CPU) and
  the calls that it answers through ``collective_rpc``;
* ``terms``, ``bank``, ``batch``: a program as matrices, the matrices of all programs at a place, one weight per token
  and program. Plain torch, no vLLM;
* ``places``, ``op``, ``wrapping``, ``steering``: which of vLLM's modules hold which site, the one operation that edits
  there, and what a worker does with them.

Nothing here imports vLLM but ``worker`` and what it uses.
"""
