"""The model of a run that may have nothing to compute: what a load found is kept beside the outputs it gave.

A model in a folder is known by the bytes of the files there. What it came to be in memory (layout, dtype, the key of
its outputs) follows from these, from how it is loaded, and from the code and the machine that load it: all of that is
the key under which a load is kept, so that the same files make the same model, and whatever else is loaded anew.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from steerkit.artifacts.keys import hash_of
from steerkit.artifacts.provenance import versions
from steerkit.artifacts.store import Store
from steerkit.errors import ModelError
from steerkit.plan import Plan
from steerkit.progress import Observer, Stage
from steerkit.stages.model import code_of, dependencies, facts_of, load, model_use, prompted
from steerkit.types.placement import METHOD, METHODS

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from steerkit.session.awaited import Known
    from steerkit.session.model import LiveModel


def prepare(plan: Plan, store: Store, observer: Observer, load: Callable[[Plan], LiveModel] = load) -> LiveModel:
    """The plan's model: loaded, or known from an earlier load and loaded when something has to be computed.

    Raises:
        SteerkitError: as ``load``; of a model that is known, when it is loaded.
    """
    key, folder = _key_and_folder(plan)
    known = None if key is None else _read(store.get(key))
    if key is not None and folder is not None and known is not None:
        return _awaited(plan, known, key, folder, store, observer, load)
    observer.step(Stage("loading", f"loading {plan.loading.source}"))
    live = load(plan)
    if key is not None:
        _keep(plan, live, key, store)
    return live


def _key_and_folder(plan: Plan) -> tuple[str | None, Path | None]:
    """Under which key a load is kept, and what is loaded; None where files don't tell what a load gives."""
    import torch

    from steerkit.engine.loading.folders import folder_of, hashes_of

    wanted = plan.loading
    folder = folder_of(wanted.source)
    if folder is None or wanted.trust_remote_code or wanted.revision is not None:
        return None, None
    placement = wanted.placement
    if isinstance(placement.device_map, str) or placement.tensor_parallel is not None:
        return None, None  # where weights go depends on the room that there is now, and on other processes
    adapters = [plan.adapters.get("architecture", name) for name in plan.adapters.names("architecture")]
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    depends = {
        "kept": "model",
        "files": hashes_of(folder),
        "loading": replace(wanted, source="", accept_terms=False, placement=replace(placement, offload_folder=None)),
        "quantiser": _quantiser(placement.quantization),
        "adapters": [[spec.name, code_of(spec)] for spec in adapters],
        "machine": [platform.machine(), torch.backends.cpu.get_cpu_capability(), gpus],
        "threads": torch.get_num_threads(),
        **dependencies(),
    }
    return hash_of(depends), folder


def _quantiser(quantization: Mapping[str, Any] | None) -> dict[str, str | None]:
    """The version of the package that quantises; nothing where nothing is quantised."""
    package = None if quantization is None else METHODS.get(str(quantization[METHOD]))
    return {} if package is None else dict(versions((package,)))


def let_go(plan: Plan, live: LiveModel) -> LiveModel:
    """The same model with its weights out of memory, for a process that hands its tasks to others.

    They are loaded again should anything ask for them.
    """
    from steerkit.session.awaited import AwaitedModel

    if isinstance(live, AwaitedModel):
        return live
    known = _found(plan, live)
    chat = prompted(plan.loading, live.tokenizer)
    loading = partial(_load_again, plan, known)
    return AwaitedModel(known, live.tokenizer, live.source, chat, live.batch_tokens, loading)


def _load_again(plan: Plan, known: Known) -> PreTrainedModel:
    live = load(plan)
    if model_use(plan, live).key != known.key:
        raise ModelError(f"{plan.loading.source} has changed since the run began. Start it again.")
    return live.model


def _found(plan: Plan, live: LiveModel) -> Known:
    """What a load found."""
    from steerkit.engine.loading.configs import config_values
    from steerkit.session.awaited import Known

    facts = {name: value for name, value in facts_of(live).items() if name != "source"}
    return Known(
        model_use(plan, live).key,
        facts,
        live.layout,
        live.adapter_name,
        live.facts.model_type,
        config_values(live.model.config),
        tuple(sorted(live.facts.special_tokens)),
        live.n_embeddings,
        live.n_logits,
        live.context,
        str(live.device),
        str(live.model.dtype).removeprefix("torch."),
        live.weights_hash,
    )


def _keep(plan: Plan, live: LiveModel, key: str, store: Store) -> None:
    """Keep what a load found, where it comes back as it is."""
    known = _found(plan, live)
    # In their order, in which provenance.json lists them too: a run that goes on has the bytes of one that was whole.
    content = json.dumps(asdict(known)).encode()
    if _read(content) == known:
        store.put(key, content)


def _read(content: bytes | None) -> Known | None:
    """What was kept; None where nothing was, or nothing that can be used."""
    from steerkit.session.awaited import Known

    if content is None:
        return None
    from steerkit.api.architecture import Layout

    try:
        values: dict[str, Any] = json.loads(content)
        layout = TypeAdapter(Layout).validate_python(values.pop("layout"))
        return Known(layout=layout, special_tokens=tuple(values.pop("special_tokens")), **values)
    except (ValueError, TypeError, KeyError):
        return None


def _awaited(
    plan: Plan,
    known: Known,
    key: str,
    folder: Path,
    store: Store,
    observer: Observer,
    load: Callable[[Plan], LiveModel],
) -> LiveModel:
    from steerkit.engine.loading.folders import tokenizer_of
    from steerkit.session.awaited import AwaitedModel

    wanted = plan.loading

    def fetch() -> PreTrainedModel:
        observer.step(Stage("loading", f"loading {wanted.source}"))
        live = load(plan)
        if model_use(plan, live).key != known.key:
            _keep(plan, live, key, store)
            raise ModelError(f"{wanted.source} has changed since the run began. Start it again.")
        return live.model

    tokenizer = tokenizer_of(folder)
    chat = prompted(wanted, tokenizer)
    return AwaitedModel(known, tokenizer, wanted.source, chat, wanted.batch_tokens, fetch)
