"""The model of a run: load it, and say what it and its outputs depend on."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import steerkit
from steerkit.api.hookspecs import ArchitectureSpec, Spec
from steerkit.artifacts.keys import hash_of
from steerkit.artifacts.provenance import code_hash, folder_hash, tokenizer_hash, versions
from steerkit.errors import ModelError
from steerkit.plan import Plan
from steerkit.stages.tasks import ModelUse, Plugin

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from steerkit.catalog import Catalog
    from steerkit.engine.prompts.chat import ChatFormat
    from steerkit.plan.planned.model import PlannedLoading
    from steerkit.session.awaited import Known
    from steerkit.session.model import LiveModel

_RUNNING = ("torch", "transformers", "tokenizers", "numpy", "scikit-learn", "safetensors")
_OURS = (
    *("api", "engine", "selection", "session", "stages", "types", "intervals.py", "sandbox.py", "sharing.py"),
    *("templates.py", "recipe/joined.py"),
    *("artifacts/directions.py", "artifacts/formats.py", "artifacts/rundir.py", "artifacts/writing.py"),
)
"""What of our own code an output can depend on. What plans, shows and keeps gives no output."""


def load(plan: Plan) -> LiveModel:
    """Load the plan's model and check its sites."""
    return load_planned(plan.loading, plan.adapters)


def load_planned(wanted: PlannedLoading, adapters: Catalog) -> LiveModel:
    """Load a model as it was planned, with the adapters that there are, and check its sites."""
    from steerkit.session import load_model

    return load_model(
        wanted.source,
        revision=wanted.revision,
        adapter=wanted.adapter,
        dtype=wanted.dtype,
        device=wanted.device,
        chat_template=wanted.chat_template,
        system_prompt=wanted.system_prompt,
        chat_template_arguments=wanted.chat_template_arguments,
        special_tokens_in_text=wanted.special_tokens_in_text,
        trust_remote_code=wanted.trust_remote_code,
        accept_terms=wanted.accept_terms,
        batch_tokens=wanted.batch_tokens,
        device_map=wanted.placement.device_map,
        offload_folder=wanted.placement.offload_folder,
        tensor_parallel=wanted.placement.tensor_parallel,
        quantization=wanted.placement.quantization,
        catalog=adapters,
    )


def load_use(use: ModelUse) -> LiveModel:
    """Load a task's model in a process that hasn't got it, with its threads.

    Whoever planned it checked its sites, and remembers what came of it, where the model has something to be known by.
    """
    import torch

    from steerkit.engine.loading.load import load as load_weights
    from steerkit.session.models import live_model

    torch.set_num_threads(use.threads)
    wanted = use.loading
    loaded = load_weights(
        wanted.source,
        revision=wanted.revision,
        dtype=wanted.dtype,
        device=wanted.device,
        trust_remote_code=wanted.trust_remote_code,
        accept_terms=wanted.accept_terms,
        placement=wanted.placement,
    )
    if use.weights is not None and loaded.weights_hash != use.weights:
        raise ModelError(
            f"The weights of {wanted.source} that a worker loads aren't those that this run began with. Give every "
            "machine the same files, and start again where they changed."
        )
    adapter = ArchitectureSpec(use.adapter.name, "", use.adapter.implementation)
    chat = prompted(wanted, loaded.tokenizer)
    return live_model(loaded, adapter, chat, wanted.batch_tokens)


def prompted(wanted: PlannedLoading, tokenizer: PreTrainedTokenizerBase | None) -> ChatFormat | None:
    """How a plan's model is prompted."""
    from steerkit.session.models import chat_format

    return chat_format(
        tokenizer,
        wanted.chat_template,
        wanted.system_prompt,
        wanted.chat_template_arguments,
        wanted.special_tokens_in_text,
    )


def adapter_of(plan: Plan, live: LiveModel) -> Spec:
    """The adapter that the loaded model has."""
    return plan.adapters.get("architecture", live.adapter_name)


def plugin(spec: Spec) -> Plugin:
    """A plugin as tasks name it."""
    return Plugin(spec.kind, spec.name, spec.implementation, code_of(spec))


def code_of(spec: Spec) -> str:
    """Hash of a plugin's code; where no source is at hand, of this process, so that nothing is kept beyond it."""
    return code_hash(spec.implementation.partition(":")[0]) or _this_process()


@cache
def _this_process() -> str:
    return f"process-{secrets.token_hex(16)}"


def model_use(plan: Plan, live: LiveModel) -> ModelUse:
    """The loaded model as tasks name it."""
    import torch

    from steerkit.engine.loading.configs import config_values
    from steerkit.engine.loading.placed import facts_of_placement

    if (known := _known(live)) is not None:
        mapped, adapter = known.facts.get("device_map"), plugin(adapter_of(plan, live))
        return _use(plan, known.key, known.device, known.dtype, adapter, mapped, known.weights_hash)
    config, generation = live.model.config, live.model.generation_config
    adapter, placed = plugin(adapter_of(plan, live)), facts_of_placement(live.model)
    on_cpu = live.device.type == "cpu"
    depends = {
        "weights": live.weights_hash or _this_process(),
        "config": hash_of(config_values(config)),
        "generation": None if generation is None else _hash_of_text(generation.to_json_string(use_diff=False)),
        "attention": getattr(config, "_attn_implementation", None),
        "class": f"{type(live.model).__module__}.{type(live.model).__qualname__}",
        "tokenizer": tokenizer_hash(live.tokenizer) or hash_of(dict(live.chat.tokenizer.get_vocab())),
        "chat": live.chat.hash,
        "adapter": adapter,
        "dtype": str(live.model.dtype),
        "device": live.device.type,
        "machine": [platform.machine(), torch.backends.cpu.get_cpu_capability()]
        if on_cpu
        else torch.cuda.get_device_name(live.device),
        "threads": torch.get_num_threads() if on_cpu else None,
        "batch_tokens": live.batch_tokens,
        "placement": placed.to_json(),
        **dependencies(),
    }
    dtype = str(live.model.dtype).removeprefix("torch.")
    return _use(plan, hash_of(depends), str(live.device), dtype, adapter, placed.device_map, live.weights_hash)


def _use(
    plan: Plan,
    key: str,
    device: str,
    dtype: str,
    adapter: Plugin,
    mapped: Mapping[str, str] | None,
    weights: str | None,
) -> ModelUse:
    import torch

    # What auto came to is part of the key; a worker is told it, since its own machine might choose another.
    loading, placement = replace(plan.loading, dtype=dtype), plan.loading.placement
    if placement.device_map is not None and mapped is not None:
        loading = replace(loading, placement=replace(placement, device_map=mapped))
    elif placement.device_map is not None:
        loading = replace(loading, device=device, placement=replace(placement, device_map=None, offload_folder=None))
    elif placement.tensor_parallel is None:
        loading = replace(loading, device=device)
    return ModelUse(key, loading, adapter, torch.get_num_threads(), weights)


def _known(live: LiveModel) -> Known | None:
    """What is known of a model that isn't loaded before something has to be computed."""
    from steerkit.session.awaited import AwaitedModel

    return live.known if isinstance(live, AwaitedModel) else None


def dependencies() -> dict[str, Any]:
    """The code that outputs depend on: ours, and the packages that run models."""
    return {"versions": versions(_RUNNING), "steerkit": _our_code()}


def _hash_of_text(text: str) -> str:
    return sha256(text.encode()).hexdigest()


@cache
def _our_code() -> str:
    root = Path(steerkit.__file__).parent
    return folder_hash(*(root / name for name in _OURS))


def facts_of(live: LiveModel) -> dict[str, Any]:
    """What was loaded, and how: everything about the model that numbers depend on."""
    import torch

    from steerkit.engine.loading.hub import COMMIT
    from steerkit.engine.loading.placed import facts_of_placement

    if (known := _known(live)) is not None:
        return {"source": live.source, **known.facts}
    config = live.model.config
    gpu = torch.cuda.get_device_name(live.device) if live.device.type == "cuda" else None
    return {
        "source": live.source,
        "adapter": live.adapter_name,
        "model_type": live.facts.model_type,
        "behaviours": asdict(live.behaviours),
        "n_layers": live.layout.n_layers,
        "d_model": live.layout.d_model,
        "dtype": str(live.model.dtype).removeprefix("torch."),
        "device": str(live.device),
        "device_name": gpu,
        "threads": torch.get_num_threads(),
        "attention": getattr(config, "_attn_implementation", None),
        "revision": getattr(config, COMMIT, None),
        "weights_sha256": live.weights_hash,
        "tokenizer_sha256": tokenizer_hash(live.chat.tokenizer),
        "chat_template_sha256": live.chat.hash,
        **facts_of_placement(live.model).to_json(),
    }


def plugins_of(plan: Plan, live: LiveModel) -> list[dict[str, Any]]:
    """The plugins that were used, with the hash of their code: an edited plugin keeps its version."""
    listed: Sequence[dict[str, Any]] = [dict(item) for item in plan.plugins]
    specs: list[Spec] = [item.estimator for item in plan.directions if item.estimator is not None]
    specs += [item.spec for condition in plan.conditions for item in condition.interventions]
    specs += [item.spec for item in plan.evaluations] + [item.spec for item in plan.filters]
    specs += [item.spec for item in plan.tokens.values()]
    for score in (score for search in plan.searches for score in search.scores):
        specs += [score.spec, *(one.spec for one in score.under)]
    adapter = adapter_of(plan, live)
    code = {(spec.kind, spec.name): code_hash(spec.implementation.partition(":")[0]) for spec in [*specs, adapter]}
    names = {(item["kind"], item["name"]) for item in listed}
    if (adapter.kind, adapter.name) not in names:
        listed = [*listed, {"kind": adapter.kind, "name": adapter.name}]
    return [{**item, "sha256": code.get((item["kind"], item["name"]))} for item in listed]
