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
from math import isfinite
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, cast

from pydantic import ValidationError

from steerkit.api.architecture import ArchitectureAdapter
from steerkit.api.estimator import Direction, Estimator
from steerkit.api.hookspecs import EstimatorSpec, InterventionSpec, Options, StatisticsKind
from steerkit.api.intervention import Gate, Intervention
from steerkit.catalog import Catalog, implementation
from steerkit.errors import DataError, PositionError, SteerkitError, UnsupportedModelError
from steerkit.types import FROM_TOKEN, Positions, Schedule, Site, as_sites

if TYPE_CHECKING:
    from torch import Tensor
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
        self_test: check sites on the live model; a model that fails is refused. One that passed is not tested again
            until its weights, its layout or the versions that run it change.
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
    from steerkit.engine.selftest_memory import require_tested

    spec = (catalog or _installed()).adapter_for(loaded.facts, adapter)
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
    positions: Positions | str | int | list[int] | tuple[int, ...] = "all",
    schedule: Schedule | str | Sequence[float] | None = None,
    gate: Gate | None = None,
    catalog: Catalog | None = None,
    **options: Any,
) -> Intervention:
    """Build an intervention by its plugin's name.

    Args:
        kind: name of an intervention plugin.
        direction: the direction that it uses.
        sites: where it acts; None for its own choice.
        positions: at which tokens, as in ``"generated[:8]"`` or ``"from_token(</think>)"``.
        schedule: a factor on the change along the generated tokens: ``"linear(1, 0, 64)"``, ``"exponential(0.97)"``,
            or a list; None for 1 throughout.
        gate: a condition on the stream under which it acts, from ``gate``; None: always.
        catalog: plugins; discovered if not given.
        options: the plugin's own.

    Raises:
        SteerkitError: for whatever of these can't be, with what to write instead.
    """
    spec = (catalog or _installed()).get("intervention", kind)
    if direction is not None:
        _require_direction(direction, f"Intervention {kind!r}")
    if spec.directions and direction is None:
        raise SteerkitError(f"Intervention {kind!r} needs a direction: intervention({kind!r}, direction, ...).")
    if gate is not None and not isinstance(gate, Gate):
        raise SteerkitError(
            f"Intervention {kind!r}: a gate comes from steerkit.gate(direction, above=3.0), not {type(gate).__name__}."
        )
    chosen = None if sites is None else as_sites(sites)
    which, when = Positions.parse(positions), Schedule.parse(schedule)
    built = cast("Intervention", implementation(spec)(_options(spec, options), direction, chosen, which))
    # Set, not passed: a plugin's own __init__ needn't know of them.
    built.schedule, built.gate = when, gate
    return built


def gate(
    direction: Direction,
    *,
    above: float | Tensor | None = None,
    below: float | Tensor | None = None,
    site: Site | str | None = None,
    at: Literal["token", "prompt"] = "token",
    positions: Positions | str | int | list[int] | tuple[int, ...] = "last",
    prepass: bool = False,
) -> Gate:
    """A condition on the stream: an intervention acts only where the projection on a direction is as asked.

    The projection is ``x·v / ‖v‖``, in units of the stream. See ``steerkit.api.intervention.Gate``.

    Args:
        direction: of rank 1.
        above: act where the projection is above this number.
        below: act where it is below this number. Give one of the two.
        site: where it is read; None for the direction's own site.
        at: ``token``: each token decides for itself. ``prompt``: the mean over ``positions`` of the prompt decides for
            the whole row, and then generated tokens are edited only, unless ``prepass``.
        positions: the tokens of the prompt that are read, for ``at="prompt"``.
        prepass: decide by one extra pass over the prompt without any intervention, so that prompts can be edited too.

    Raises:
        SteerkitError: where there isn't exactly one threshold, or it is no finite number.
        AttachError: where the direction isn't one finite vector that isn't zero, or ``prepass`` has no prompt to read.
        PositionError: for positions that no prompt has, or that no gate at each token reads.
    """
    _require_direction(direction, "A gate")
    if (above is None) == (below is None):
        raise SteerkitError("A gate takes one threshold: gate(direction, above=3.0) or gate(direction, below=3.0).")
    side: Literal["above", "below"] = "below" if above is None else "above"
    which = Positions.parse(positions)
    if which.role in ("generated", FROM_TOKEN):
        raise PositionError(f"A gate reads tokens of the prompt, not '{which}': write 'last', 'instruction', 'prompt'.")
    if at == "token" and which != Positions("last"):
        raise PositionError("A gate at 'token' reads each token; positions are for at='prompt'.")
    where = None if site is None else Site.parse(site)
    return Gate(direction, _threshold(below if above is None else above), side, where, at, which, prepass)


def add(direction: Direction, *, coefficient: float | Sequence[float] | Tensor = 1.0, **where: Any) -> Intervention:
    """Add ``coefficient`` times the raw direction, by default at its own site and at all tokens.

    Args:
        direction: what is added.
        coefficient: a number, or one for each vector of the direction. A tensor of one element, or of one for each
            vector, ``[rank]``, stays in the graph, so that gradients flow to it; after a step on a tensor ``[rank]``
            build the intervention again.
        where: ``sites``, ``positions``, ``schedule``, ``gate``; see ``intervention``.
    """
    if _is_tensor(coefficient):
        factor = _factor("add", coefficient, "one element, or one for each vector of the direction", direction)
        if factor.numel() > 1:
            column = factor.to(direction.vectors)[:, None]
            return intervention("add", direction.with_vectors(column * direction.vectors), **where)
        return _with_factor(intervention("add", direction, **where), factor)
    chosen = [_plain(one) for one in coefficient] if isinstance(coefficient, (list, tuple)) else _plain(coefficient)
    return intervention("add", direction, coefficient=chosen, **where)


def ablate(direction: Direction, *, coefficient: float | Tensor = 1.0, **where: Any) -> Intervention:
    """Remove the direction's span from everything that writes to the residual stream, by default.

    Args:
        direction: whose span is removed.
        coefficient: the fraction that is removed. A tensor of one element stays in the graph, so that gradients flow
            to it.
        where: ``sites``, ``positions``, ``schedule``, ``gate``; see ``intervention``.
    """
    if _is_tensor(coefficient):
        factor = _factor("ablate", coefficient, "one element")
        return _with_factor(intervention("ablate", direction, **where), factor)
    return intervention("ablate", direction, coefficient=_plain(coefficient), **where)


def _require_direction(direction: object, what: str) -> None:
    if not isinstance(direction, Direction):
        found = type(direction).__name__
        raise SteerkitError(f"{what} takes a Direction, as estimate_direction or load_directions gives, not {found}.")


def _is_tensor(value: object) -> TypeGuard[Tensor]:
    from torch import Tensor

    return isinstance(value, Tensor)


def _factor(kind: str, coefficient: Tensor, wanted: str, direction: Direction | None = None) -> Tensor:
    """A tensor coefficient that can multiply an intervention, in its graph: of one element, or ``[rank]``.

    Raises:
        SteerkitError: for another shape, another kind of number, NaN and infinities.
    """
    import torch

    per_vector = isinstance(direction, Direction) and coefficient.shape == (direction.rank,)
    if coefficient.dtype == torch.bool or coefficient.is_complex() or not (coefficient.numel() == 1 or per_vector):
        raise SteerkitError(
            f"{kind}: a tensor as coefficient holds real numbers: {wanted}, not {coefficient.dtype} of shape "
            f"{list(coefficient.shape)}."
        )
    if not bool(torch.isfinite(coefficient.detach()).all()):
        raise SteerkitError(f"{kind}: the coefficient {coefficient.tolist()} is not finite. Look where it comes from.")
    return coefficient if coefficient.is_floating_point() else coefficient.float()


def _with_factor(built: Intervention, factor: Tensor) -> Intervention:
    built.factor = factor
    return built


def _threshold(value: object) -> float:
    """A gate's threshold, which may be a tensor of one element (a quantile of projections, say)."""
    number: Any = value.item() if _is_tensor(value) and value.numel() == 1 else value
    if isinstance(number, bool) or not isinstance(number, Real) or not isfinite(number):
        raise SteerkitError(f"A gate's threshold is one finite number, in units of the stream, not {value!r}.")
    return float(number)


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
