"""From a source, or a model in memory, to a model that can be steered."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from steerkit.api.architecture import ArchitectureAdapter
from steerkit.api.hookspecs import Spec
from steerkit.catalog import Catalog, implementation
from steerkit.errors import UnsupportedModelError
from steerkit.session.plugins import installed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from steerkit.engine.loading.load import LoadedModel
    from steerkit.session.model import LiveModel


def load_model(
    source: str,
    *,
    revision: str | None = None,
    adapter: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    chat_template: str | None = "default",
    system_prompt: str | None = None,
    trust_remote_code: bool = False,
    accept_terms: bool = False,
    batch_tokens: int = 4096,
    self_test: bool = True,
    catalog: Catalog | None = None,
) -> LiveModel:
    """Load a model and check that its adapter tells the truth about it.

    Args:
        source: a hub id, a folder, a ``.gguf`` file, a bundled alias, or ``tiny-random:<model type>``.
        revision: of a hub repository.
        adapter: name of an architecture plugin, where the checkpoint's own facts don't tell it.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        chat_template: ``default`` (the tokenizer's), ``none`` (prompts as they are), or a Jinja template.
        system_prompt: put before every prompt, where the template has a place for it.
        trust_remote_code: run code that comes with a checkpoint. Off unless you mean it.
        accept_terms: agree to a bundled model's terms of use without being asked.
        batch_tokens: most tokens of a batch.
        self_test: check sites on the live model; a model that fails is refused. One that passed is not tested again
            until its weights, its layout or the versions that run it change.
        catalog: plugins; discovered if not given.

    Raises:
        ModelError: where the model can't be found or read.
        UnsupportedModelError: where no adapter claims it.
        SelfTestError: where it isn't what its adapter declares.
    """
    from steerkit.engine.loading.load import load

    loaded = load(
        source,
        revision=revision,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        accept_terms=accept_terms,
    )
    return _live(loaded, adapter, chat_template, system_prompt, batch_tokens, self_test, catalog)


def wrap(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    adapter: str | None = None,
    chat_template: str | None = "default",
    system_prompt: str | None = None,
    batch_tokens: int = 4096,
    self_test: bool = True,
    catalog: Catalog | None = None,
) -> LiveModel:
    """Take a transformers causal language model that is already loaded. See ``load_model``."""
    from steerkit.engine.loading.load import from_live

    loaded = from_live(model, tokenizer)
    return _live(loaded, adapter, chat_template, system_prompt, batch_tokens, self_test, catalog)


def _live(
    loaded: LoadedModel,
    adapter: str | None,
    chat_template: str | None,
    system_prompt: str | None,
    batch_tokens: int,
    self_test: bool,
    catalog: Catalog | None,
) -> LiveModel:
    spec = (catalog or installed()).adapter_for(loaded.facts, adapter)
    return live_model(loaded, spec, chat_template, system_prompt, batch_tokens, self_test)


def live_model(
    loaded: LoadedModel,
    spec: Spec,
    chat_template: str | None,
    system_prompt: str | None,
    batch_tokens: int,
    self_test: bool = True,
) -> LiveModel:
    """A loaded model with the adapter that was chosen for it. See ``load_model``."""
    from steerkit.engine.prompts.chat import ChatFormat
    from steerkit.engine.sites.selftest_memory import require_tested
    from steerkit.session.model import LiveModel

    try:
        layout = cast(ArchitectureAdapter, implementation(spec)()).layout(loaded.model)
    except UnsupportedModelError as error:
        error.model_type = loaded.facts.model_type
        raise
    if self_test:
        require_tested(loaded.model, layout, loaded.weights_hash, spec.name)
    chat = None
    if loaded.tokenizer is not None:
        chat = ChatFormat(loaded.tokenizer, template=chat_template, system_prompt=system_prompt)
    return LiveModel(
        loaded.model,
        loaded.tokenizer,
        layout,
        spec.name,
        loaded.facts,
        loaded.source,
        chat,
        batch_tokens,
        loaded.weights_hash,
    )
