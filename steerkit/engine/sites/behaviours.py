"""How a live model behaves without steering, and what its passes may rely on: measured on the model, like its sites.

A model is not refused for one of these; what it lacks is done another way (see ``Behaviours``).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from steerkit.engine.sites.checks import Check
from steerkit.engine.sites.taps import submodule

if TYPE_CHECKING:
    from steerkit.engine.sites.selftest_passes import Bench

SHORT: Final = 4
"""Tokens of the prompt that is padded."""


@dataclass(frozen=True)
class Behaviours:
    """What passes of a model may rely on.

    Args:
        causal: a later token changes nothing before it. Else prompts of unequal length share no batch, and nothing that
            was computed of a text's beginning is used for what follows it.
        left_padding: each prompt of a batch that is padded on the left gets what it gets alone. Else prompts of unequal
            length share no batch that is padded there.
        cached: a step behind what a cache keeps gives what a whole pass gives. Else tokens are generated without one.
    """

    causal: bool = True
    left_padding: bool = True
    cached: bool = True

    @classmethod
    def of(cls, checks: Iterable[Check]) -> Behaviours:
        """Those that checks of these names found."""
        return cls(**{check.name: check.passed for check in checks})

    @property
    def notes(self) -> tuple[str, ...]:
        """What the model lacks and what is done instead, a sentence or two each."""
        return tuple(_LACKING[name] for name, has in asdict(self).items() if not has)

    def pads(self, side: str) -> bool:
        """Whether prompts of unequal length may share a batch that is padded on a side, ``left`` or ``right``."""
        return self.causal if side == "right" else self.left_padding


EXPECTED: Final = Behaviours()
"""What a model is taken for that nobody has tested."""

_LACKING: Final = {
    "causal": (
        "In this model a later token changes what the earlier ones hold. So what is read of a prompt depends on all "
        "that is read with it, completions included; prompts are batched with those of their length only, and nothing "
        "that was computed of a beginning is used again."
    ),
    "left_padding": (
        "This model reads a prompt that is padded on the left otherwise than alone, so prompts are completed in "
        "batches of one length, which takes more passes."
    ),
    "cached": (
        "This model doesn't give behind its cache what it gives in whole passes, so completions are generated without "
        "a cache, which is slower."
    ),
}


def takes_positions(base: nn.Module) -> bool:
    """Whether a model without its head is told where tokens stand: some count for themselves, and refuse to be told."""
    return "position_ids" in inspect.signature(type(base).forward).parameters


def behaviours_of(on: Bench) -> tuple[Check, ...]:
    """The checks of the three behaviours, on the tokens of a self-test, in eval mode without gradients."""
    from steerkit.engine.loading.quiet import quiet_transformers

    with warnings.catch_warnings(), quiet_transformers():
        warnings.simplefilter("ignore")
        whole = on.run(head=True)
        causal = _checked("causal", "a later token changes nothing before it", lambda: _causal(on, whole))
        cached = _checked("cached", "a step behind a cache gives what a whole pass gives", lambda: _cached(on, whole))
        if not causal.passed and cached.passed:
            cached = Check("cached", cached.meaning, False, detail="What comes later changes what a cache would keep.")
        left = _checked(
            "left_padding",
            "each prompt of a batch that is padded on the left gets what it gets alone",
            lambda: _left_padding(on, whole if causal.passed else None, cached.passed),
        )
    return causal, left, cached


Compared = tuple[Tensor, Tensor, str]
"""What was found and what was expected, ``[*, vocab]``, and where."""


def _checked(name: str, meaning: str, compare: Callable[[], list[Compared]]) -> Check:
    """A check of logits against each other. What a model of somebody else's raises says that it can't do it."""
    try:
        compared = compare()
    except (MemoryError, torch.OutOfMemoryError):
        raise  # of the machine at this moment, and not of the model
    except Exception as error:
        detail = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        return Check(name, meaning, False, detail=detail)
    worst: Check | None = None
    for found, expected, where in compared:
        passed, most, allowed = _apart(found, expected)
        if worst is None or (worst.passed and (not passed or most > (worst.max_abs_error or 0.0))):
            worst = Check(name, meaning, passed, most, allowed, where)
    assert worst is not None  # each compares something
    return worst


def _apart(found: Tensor, expected: Tensor) -> tuple[bool, float, float]:
    """Whether logits agree, their largest error and what it may be: roundings of a whole model, which grow from layer
    to layer, are told from another result by the square root of one.

    Of float32 at least: norms, rotations and the scores of ``generate`` are computed in it in wider models too.
    """
    error = (found.double().cpu() - expected.double().cpu()).abs()
    size = expected.double().cpu().abs().amax(-1, keepdim=True)
    eps = max(torch.finfo(expected.dtype).eps, torch.finfo(torch.float32).eps)
    allowed = (eps**0.5 * size).expand_as(error)
    if not bool(error.isfinite().all()):
        return False, float("inf"), float(allowed.max())
    at = int((error - allowed).flatten().argmax())
    return bool((error <= allowed).all()), float(error.flatten()[at]), float(allowed.flatten()[at])


def _causal(on: Bench, whole: Tensor) -> list[Compared]:
    """Other tokens behind the first few: each row gets those of the other one, in another order."""
    other = on.ids.clone()
    other[:, SHORT:] = on.ids.roll(1, 0).flip(1)[:, : on.ids.shape[1] - SHORT]
    return [(_logits(on, other)[:, :SHORT], whole[:, :SHORT], "the first tokens")]


def _cached(on: Bench, whole: Tensor) -> list[Compared]:
    behind = on.ids.shape[1] - 2
    steps = _written(on, on.ids[:, :behind], torch.ones_like(on.ids[:, :behind]), on.ids[:, behind], cached=True)
    return [
        (steps[0], whole[:, behind - 1], "the prompt's last token"),
        (steps[1], whole[:, behind], "the first step"),
    ]


def _left_padding(on: Bench, whole: Tensor | None, cached: bool) -> list[Compared]:
    """A short prompt below a long one: read in one pass, and completed."""
    ids, mask = on.ids.clone(), torch.ones_like(on.ids)
    gap = ids.shape[1] - SHORT
    ids[1, gap:] = on.ids[1, :SHORT]
    mask[1, :gap] = 0
    more = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if _positions(on) else {}
    read = on.model(input_ids=ids, attention_mask=mask, use_cache=False, **more).logits[1, gap:]
    following = torch.stack([on.ids[0, 0], on.ids[1, SHORT]])
    steps = _written(on, ids, mask, following, cached=cached)
    if whole is not None:
        # Of a causal model what stands behind a prompt changes nothing in it.
        alone, behind = whole[1, :SHORT], whole[1, SHORT]
    else:
        alone = _logits(on, on.ids[1:, :SHORT])[0]
        behind = _logits(on, on.ids[1:, : SHORT + 1])[0, -1]
    return [
        (read, alone, "a prompt that is read"),
        (steps[0][1], alone[-1], "a prompt that is completed"),
        (steps[1][1], behind, "the first token behind it"),
    ]


def _positions(on: Bench) -> bool:
    return takes_positions(submodule(on.model, on.layout.base))


def _logits(on: Bench, ids: Tensor) -> Tensor:
    found: Tensor = on.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return found.detach().clone()


def _written(on: Bench, ids: Tensor, mask: Tensor, following: Tensor, *, cached: bool) -> tuple[Tensor, ...]:
    """The logits of two steps of ``generate``, ``[rows, vocab]`` each, the first of which writes given tokens."""

    def forced(seen: Tensor, scores: Tensor) -> Tensor:
        return torch.full_like(scores, -torch.inf).scatter(1, following.to(scores.device)[:, None], 0.0)

    generate: Any = on.model.generate
    output = generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=2,
        min_new_tokens=2,
        do_sample=False,
        num_beams=1,
        num_return_sequences=1,
        pad_token_id=0,
        use_cache=cached,
        logits_processor=[forced],
        return_dict_in_generate=True,
        output_logits=True,
    )
    return tuple(step.to(on.model.dtype) for step in output.logits)
