"""From a source, or a model in memory, to a model that can be steered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from steerkit.api.architecture import ArchitectureAdapter
from steerkit.api.hookspecs import Spec
from steerkit.catalog import Catalog, implementation
from steerkit.errors import ModelError, UnsupportedModelError, known_keywords
from steerkit.session.plugins import installed
from steerkit.types.placement import DeviceMap, ModelPlacement

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.utils.quantization_config import QuantizationConfigMixin

    from steerkit.engine.loading.load import LoadedModel
    from steerkit.engine.prompts.chat import ChatFormat
    from steerkit.session.model import LiveModel
    from steerkit.types.special_tokens import InText


@known_keywords
def load_model(
    source: str,
    *,
    revision: str | None = None,
    adapter: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    chat_template: str | None = "default",
    system_prompt: str | None = None,
    chat_template_arguments: Mapping[str, Any] | None = None,
    special_tokens_in_text: InText = "allow",
    trust_remote_code: bool = False,
    accept_terms: bool = False,
    batch_tokens: int = 4096,
    device_map: DeviceMap | None = None,
    offload_folder: str | Path | None = None,
    tensor_parallel: int | None = None,
    quantization: Mapping[str, Any] | QuantizationConfigMixin | None = None,
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
        system_prompt: put before every prompt that has none of its own, where the template has a place for it.
        chat_template_arguments: the template's own variables, as in ``{"enable_thinking": False}``.
        special_tokens_in_text: what becomes of a special token's text in what somebody says, as of ``<|im_start|>`` in
            a question: ``allow`` reads that token, ``escape`` ordinary text, ``error`` refuses the prompt.
        trust_remote_code: run code that comes with a checkpoint. Off unless you mean it.
        accept_terms: agree to a bundled model's terms of use without being asked.
        batch_tokens: most tokens of a batch.
        device_map: where the weights go that one device doesn't hold: ``auto``, ``balanced``, ``balanced_low_0`` or
            ``sequential`` (accelerate spreads them over what there is, GPUs first, then memory, then disk), or devices
            by module, as in ``{"": "cuda:0", "model.layers.30": "cpu", "lm_head": "disk"}``, of which the longest path
            counts.
        offload_folder: where what goes to disk is kept while the model lives; in steerkit's cache by itself.
        tensor_parallel: over how many processes each weight is split. ``torchrun`` starts them.
        quantization: ``method`` and the options of transformers' config of that method, as in
            ``{"method": "bitsandbytes", "load_in_4bit": True}``, or such a config.
        self_test: check sites on the live model; a model that fails is refused. One that passed is not tested again
            until its weights, its layout or the versions that run it change. Without it, the model is taken to be
            causal, and to read prompts behind padding and behind a cache as it reads them alone.
        catalog: plugins; discovered if not given.

    Raises:
        ModelError: where the model can't be found or read.
        UnsupportedModelError: where no adapter claims it.
        SelfTestError: where it isn't what its adapter declares.
    """
    from steerkit.engine.loading.load import load

    _check_words(chat_template, system_prompt, chat_template_arguments, batch_tokens)
    # What isn't what a plan holds, a config of transformers' own or a path, is read or refused where it is checked.
    given = (device_map, cast("str | None", offload_folder), tensor_parallel)
    placement = ModelPlacement(*given, cast("Mapping[str, Any] | None", quantization))
    loaded = load(
        source,
        revision=revision,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        accept_terms=accept_terms,
        placement=placement,
    )
    chat = chat_format(loaded.tokenizer, chat_template, system_prompt, chat_template_arguments, special_tokens_in_text)
    return _live(loaded, chat, adapter, batch_tokens, self_test, catalog)


@known_keywords
def wrap(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    adapter: str | None = None,
    chat_template: str | None = "default",
    system_prompt: str | None = None,
    chat_template_arguments: Mapping[str, Any] | None = None,
    special_tokens_in_text: InText = "allow",
    batch_tokens: int = 4096,
    self_test: bool = True,
    catalog: Catalog | None = None,
) -> LiveModel:
    """Take a transformers causal language model that is already loaded, on one device or on several, offloaded,
    quantised or tensor-parallel: what it is stays as it is.

    Of a ``PeftModel`` the model inside is taken, with the adapters in its layers; of a processor the tokenizer.

    Args:
        model: the model, which stays yours: after a ``with`` block it is what it was.
        tokenizer: its tokenizer; None for token ids as prompts only.
        adapter: name of an architecture plugin, where the model's own facts don't tell it.
        chat_template: as of ``load_model``, and so are those below.
        system_prompt: put before every prompt that has none of its own.
        chat_template_arguments: the template's own variables.
        batch_tokens: most tokens of a batch.
        self_test: check sites on the live model.
        catalog: plugins; discovered if not given.

    Raises:
        UnsupportedModelError: where no adapter claims it.
        SelfTestError: where it isn't what its adapter declares.
    """
    from steerkit.engine.loading.load import adopt
    from steerkit.engine.loading.unwrap import processor_template

    _check_words(chat_template, system_prompt, chat_template_arguments, batch_tokens)
    loaded = adopt(model, tokenizer)
    if chat_template == "default":
        chat_template = processor_template(tokenizer) or chat_template
    chat = chat_format(loaded.tokenizer, chat_template, system_prompt, chat_template_arguments, special_tokens_in_text)
    return _live(loaded, chat, adapter, batch_tokens, self_test, catalog)


def _check_words(template: object, system_prompt: object, arguments: object, batch_tokens: object) -> None:
    """Raise ``ModelError`` for what can be no setting, before minutes of loading."""
    if template is not None and not isinstance(template, str):
        raise ModelError(f"chat_template is default, none, or the text of a Jinja template, not {template!r}.")
    if system_prompt is not None and not isinstance(system_prompt, str):
        raise ModelError(f"system_prompt is a text, or None for no system message, not {system_prompt!r}.")
    if arguments is not None and not isinstance(arguments, Mapping):
        raise ModelError(
            f"chat_template_arguments are a mapping, as in {{'enable_thinking': False}}, not {arguments!r}."
        )
    if isinstance(batch_tokens, bool) or not isinstance(batch_tokens, int) or batch_tokens < 1:
        raise ModelError(f"batch_tokens is a whole number of at least 1, not {batch_tokens!r}.")


def chat_format(
    tokenizer: PreTrainedTokenizerBase | None,
    template: str | None,
    system_prompt: str | None,
    arguments: Mapping[str, Any] | None,
    special_tokens_in_text: InText = "allow",
) -> ChatFormat | None:
    """How a model is prompted, or None where it has no tokenizer. See ``load_model``."""
    from steerkit.engine.prompts.chat import ChatFormat

    if tokenizer is None:
        return None
    return ChatFormat(
        tokenizer,
        template=template,
        system_prompt=system_prompt,
        arguments=arguments,
        special_tokens_in_text=special_tokens_in_text,
    )


def _live(
    loaded: LoadedModel,
    chat: ChatFormat | None,
    adapter: str | None,
    batch_tokens: int,
    self_test: bool,
    catalog: Catalog | None,
) -> LiveModel:
    spec = (catalog or installed()).adapter_for(loaded.facts, adapter)
    return live_model(loaded, spec, chat, batch_tokens, self_test)


def adapter_named(name: str, catalog: Catalog | None = None) -> ArchitectureAdapter:
    """The architecture plugin of a name, ready to be asked."""
    return cast(ArchitectureAdapter, implementation((catalog or installed()).get("architecture", name))())


def live_model(
    loaded: LoadedModel, spec: Spec, chat: ChatFormat | None, batch_tokens: int, self_test: bool = True
) -> LiveModel:
    """A loaded model with the adapter that was chosen for it. See ``load_model``."""
    from steerkit.engine.loading.quantising import said_of_quantised
    from steerkit.engine.runtime.copies import with_nothing_on_model
    from steerkit.engine.sites.behaviours import EXPECTED
    from steerkit.engine.sites.layout_memory import layout_of
    from steerkit.engine.sites.tested import Tested, require_tested
    from steerkit.session.model import LiveModel

    adapter = cast(ArchitectureAdapter, implementation(spec)())
    # Somebody may be steering the model already, in this context or in another.
    with with_nothing_on_model(loaded.model):
        try:
            layout = layout_of(loaded.model, adapter)
        except UnsupportedModelError as error:
            error.model_type = loaded.facts.model_type
            raise
        found = Tested(layout, EXPECTED)
        if self_test:
            with said_of_quantised(loaded.model, loaded.source):
                found = require_tested(loaded.model, layout, adapter, name=spec.name, weights_hash=loaded.weights_hash)
    return LiveModel(
        loaded.model,
        loaded.tokenizer,
        found.layout,
        spec.name,
        loaded.facts,
        loaded.source,
        chat,
        batch_tokens,
        loaded.weights_hash,
        behaviours=found.behaviours,
    )
