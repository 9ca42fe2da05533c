"""What a Python user calls: joins the catalog of plugins and the engine.

import steerkit

model = steerkit.load_model("smollm2-135m-instruct")
warmth = steerkit.estimate_direction(model, positive, negative, site="blocks.15.resid_pre")
with model.steer(steerkit.add(warmth, coefficient=4.0)):
    print(model.generate("How was your day?"))
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from numbers import Real
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from steerkit.api.architecture import ArchitectureAdapter
from steerkit.api.estimator import Direction, Estimator
from steerkit.api.hookspecs import EstimatorSpec, InterventionSpec, Options, StatisticsKind
from steerkit.api.intervention import Intervention
from steerkit.catalog import Catalog, implementation
from steerkit.errors import DataError, SteerkitError, UnsupportedModelError
from steerkit.types import Positions, Site, as_sites

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from steerkit.api.estimator import ClassStatistics
    from steerkit.engine.capture import Key
    from steerkit.engine.live import LiveModel
    from steerkit.engine.model import LoadedModel
    from steerkit.engine.progress import Progress


@cache
def _installed() -> Catalog:
    """The plugins of this environment, discovered once: building an intervention in a loop must cost nothing."""
    return Catalog.discover()


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
        self_test: check sites on the live model; a model that fails is refused.
        catalog: plugins; discovered if not given.

    Raises:
        ModelError: where the model can't be found or read.
        UnsupportedModelError: where no adapter claims it.
        SelfTestError: where it isn't what its adapter declares.
    """
    from steerkit.engine.model import load

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
    from steerkit.engine.model import from_live

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
    from steerkit.engine.chat import ChatFormat
    from steerkit.engine.live import LiveModel
    from steerkit.engine.selftest import self_test as test

    spec = (catalog or _installed()).adapter_for(loaded.facts, adapter)
    try:
        layout = cast(ArchitectureAdapter, implementation(spec)()).layout(loaded.model)
    except UnsupportedModelError as error:
        error.model_type = loaded.facts.model_type
        raise
    if self_test:
        test(loaded.model, layout, adapter=spec.name).raise_if_failed()
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


def capture(
    model: LiveModel,
    prompts: Sequence[str],
    sites: Sequence[Site | str] | Site | str,
    positions: Sequence[Positions | str | int] | Positions | str | int = -1,
    *,
    kind: StatisticsKind = "mean",
    progress: Progress | bool = True,
) -> dict[Key, ClassStatistics]:
    """Statistics of activations at sites and positions. See ``steerkit.engine.capture.capture``."""
    return model.capture(prompts, sites, positions, kind=kind, progress=progress)


def estimate_direction(
    model: LiveModel,
    positive: Sequence[str],
    negative: Sequence[str],
    *,
    site: Site | str,
    positions: Positions | str | int = -1,
    estimator: str = "mean_difference",
    name: str = "direction",
    catalog: Catalog | None = None,
    progress: Progress | bool = True,
    **options: Any,
) -> Direction:
    """Estimate a direction that leads from the negative class of prompts to the positive one.

    Args:
        model: where activations are read.
        positive: prompts of the class that the direction points to.
        negative: prompts of the reference class.
        site: where, as in ``blocks.15.resid_pre``.
        positions: at which tokens; -1 is the last one of the prompt.
        estimator: name of an estimator plugin.
        name: what to call the direction.
        catalog: plugins; discovered if not given.
        progress: told how many prompts of a class are done; True shows a bar at a terminal.
        options: the estimator's own.
    """
    spec = (catalog or _installed()).get("estimator", estimator)
    where, which = Site.parse(site), Positions.parse(positions)
    solver = cast("Estimator", implementation(spec)(_options(spec, options)))
    classes = {}
    for label, prompts in (("positive", positive), ("negative", negative)):
        if isinstance(prompts, str) or not prompts:
            raise DataError(f"The {label} class needs a list of prompts, at least one.")
        captured = model.capture(prompts, [where], [which], kind=spec.statistics, progress=progress)
        classes[label] = captured[(where, which)]
    return Direction(
        vectors=solver.estimate(classes).float(),
        site=where,
        positions=which,
        name=name,
        reference_mean=classes["negative"].mean.float(),
        provenance={
            "estimator": estimator,
            "options": solver.options.model_dump(mode="json"),
            "model": model.source,
            "n_positive": len(positive),
            "n_negative": len(negative),
            "tokens_positive": classes["positive"].count,
            "tokens_negative": classes["negative"].count,
        },
    )


def intervention(
    kind: str,
    direction: Direction | None = None,
    *,
    sites: Sequence[Site | str] | Site | str | None = None,
    positions: Positions | str | int = "all",
    catalog: Catalog | None = None,
    **options: Any,
) -> Intervention:
    """Build an intervention by its plugin's name.

    Args:
        kind: name of an intervention plugin.
        direction: the direction that it uses.
        sites: where it acts; None for its own choice.
        positions: at which tokens.
        catalog: plugins; discovered if not given.
        options: the plugin's own.
    """
    spec = (catalog or _installed()).get("intervention", kind)
    if direction is not None and not isinstance(direction, Direction):
        raise SteerkitError(
            f"Intervention {kind!r} takes a Direction, as estimate_direction or load_directions gives one, "
            f"not {type(direction).__name__}."
        )
    if spec.directions and direction is None:
        raise SteerkitError(f"Intervention {kind!r} needs a direction: intervention({kind!r}, direction, ...).")
    chosen = None if sites is None else as_sites(sites)
    built = implementation(spec)(_options(spec, options), direction, chosen, Positions.parse(positions))
    return cast("Intervention", built)


def add(direction: Direction, *, coefficient: float | Sequence[float] = 1.0, **where: Any) -> Intervention:
    """Add ``coefficient`` times the raw direction, by default at its own site and at all tokens."""
    chosen = [_plain(one) for one in coefficient] if isinstance(coefficient, (list, tuple)) else _plain(coefficient)
    return intervention("add", direction, coefficient=chosen, **where)


def ablate(direction: Direction, *, coefficient: float = 1.0, **where: Any) -> Intervention:
    """Remove the direction's span from everything that writes to the residual stream, by default."""
    return intervention("ablate", direction, coefficient=_plain(coefficient), **where)


def _plain(number: Any) -> Any:
    """NumPy's numbers as Python's. What is no number stays what it is, for the plugin's options to refuse."""
    if isinstance(number, bool):
        return number
    return float(number) if isinstance(number, Real) else number


def _options(spec: EstimatorSpec | InterventionSpec, options: dict[str, Any]) -> Options:
    try:
        return spec.options(**options)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        known = ", ".join(spec.options.model_fields) or "none"
        raise SteerkitError(
            f"{spec.kind} {spec.name!r}, option {place!r}: {first['msg']}. Its options: {known}."
        ) from None
