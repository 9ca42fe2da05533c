"""Parameters of a model that are swapped for folded ones, for a time.

What is read out of the model meanwhile and what is put into it is the plain model: a checkpoint that is saved holds
plain weights, one that is loaded is folded into anew, and a move or a cast is made with the plain parameters, which
are then folded into anew. A parameter that somebody puts in place of a folded one stays. What is written into a folded
one, or made of it, is lost with it, and that is said.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from steerkit.engine.hooking.written import State, state_of_tensor, states_equal
from steerkit.engine.lowering.fold import Fold, Swap
from steerkit.engine.parallel.shards import share_of
from steerkit.errors import AttachError

PLAIN: Final = (
    "This model is being steered by parameters that something is folded into. Its checkpoint is that of the plain "
    "model, without the steering. `steerkit bake RUN --condition NAME --out FOLDER` writes a steered one, from a run "
    "of a recipe; what needs no checkpoint is the directions (steerkit.save_directions)."
)
PICKLED: Final = (
    "This module is steered by parameters that something is folded into, so it is neither pickled nor copied by "
    "copy.copy. Do that outside of the block; inside, copy.deepcopy and state_dict give the plain module."
)


@dataclass(eq=False)
class _Swapped:
    """A parameter, and what stands in its place.

    Args:
        module: whose it is.
        name: of the parameter.
        path: of the parameter in the model.
        put: the folded one.
        kept: the model's own; None where it has none.
        tied: other modules that share the model's own, by name. Who ties weights anew meanwhile gives them the folded
            one.
    """

    module: nn.Module
    name: str
    path: str
    put: nn.Parameter
    kept: nn.Parameter | None
    tied: tuple[tuple[nn.Module, str], ...] = ()
    put_state: State = ()
    kept_pointer: int = 0
    kept_counts: bool = False
    kept_count: int = 0
    kept_shape: tuple[int, ...] = ()

    def note_versions(self) -> None:
        """From here on, whoever writes into one of the two is seen."""
        self.put_state, kept = state_of_tensor(share_of(self.put)), self.kept
        if kept is not None:
            # Of a tensor that was made under inference mode torch counts nothing, and refuses to say.
            own = share_of(kept)
            self.kept_counts = not own.is_inference()
            self.kept_count = own._version if self.kept_counts else 0
            self.kept_pointer, self.kept_shape = own.data_ptr(), own.shape

    @property
    def kept_is_as_it_was(self) -> bool:
        """Whether nobody wrote into the model's own, as far as torch counts that, nor gave it another memory."""
        kept = self.kept
        if kept is None:
            return True
        own = share_of(kept)
        counted = not self.kept_counts or own._version == self.kept_count
        return counted and own.data_ptr() == self.kept_pointer and own.shape == self.kept_shape

    @property
    def what_is_lost(self) -> str:
        """What somebody did to the folded one, which goes with it; empty where nobody did anything."""
        if self.name not in self.module._parameters:
            return f"{self.path} was made into something else (pruned, parametrised), which now holds the steering"
        if not states_equal(state_of_tensor(share_of(self.put)), self.put_state):
            return f"{self.path} was written into"
        return f"{self.path} has got a gradient" if self.put.grad is not None else ""

    @property
    def there(self) -> nn.Parameter | None:
        """What the module has now."""
        return self.module._parameters.get(self.name)

    @property
    def is_on(self) -> bool:
        return self.there is self.put

    @property
    def spread(self) -> bool:
        """Whether others got the folded one too."""
        return any(module._parameters.get(name) is self.put for module, name in self.tied)

    def place(self, folded: bool) -> None:
        """Put one of the two there, unless somebody put something else there."""
        if self.is_on or self.there is self.kept:
            self.module._parameters[self.name] = self.put if folded else self.kept
        for module, name in self.tied:
            if module._parameters.get(name) is self.put:
                module._parameters[name] = self.kept


class Folded:
    """Folds as parameters, ready to be put on a model. Putting on and taking off may be repeated and interrupted.

    Args:
        model: the model.
        folds: what goes into which parameters.
    """

    def __init__(self, model: nn.Module, folds: Sequence[Fold]) -> None:
        self._folds: dict[nn.Module, list[tuple[Fold, Callable[[], list[Swap]]]]] = {}
        self._swapped: dict[nn.Module, list[_Swapped]] = {}
        self.lost: list[str] = []
        self.replaced: list[str] = []
        for fold in folds:
            swaps = _swaps_of_fold(fold, model)
            for module, name, put in swaps:
                kept = module._parameters[name]
                tied = _tied_parameter(kept, module, model) if fold.kind == "embedding" else ()
                path = fold.path if fold.kind in ("stacked", "rows") else f"{fold.path}.{name}"
                item = _Swapped(module, name, path, put, kept, tied)
                item.note_versions()
                self._swapped.setdefault(module, []).append(item)
            for module in {module for module, _, _ in swaps}:
                self._folds.setdefault(module, []).append((fold, lambda fold=fold: _swaps_of_fold(fold, model)))  # type: ignore[misc]

    def on(self) -> None:
        """Put the folded parameters on the model."""
        for module, items in self._swapped.items():
            _watch_state_dicts(module, self)
            for item in items:
                item.place(folded=True)

    def off(self) -> None:
        """Put the model's own back."""
        for module, items in self._swapped.items():
            for item in items:
                self._note_replaced(item)
                item.place(folded=False)
            _unwatch_state_dicts(module, self)

    def note_lost(self) -> None:
        """See whether somebody did something to a folded parameter. Reads them all, so it is for the end."""
        for items in self._swapped.values():
            for item in items:
                self._note_lost(item)

    def follows(self, other: Folded) -> None:
        """Tell also what there is to tell of another one, which was put on before and won't be any more."""
        other.note_lost()
        self.lost, self.replaced = other.lost + self.lost, other.replaced + self.replaced

    def _note_replaced(self, item: _Swapped) -> None:
        """What somebody else put there stays, and may have been made of what stood there."""
        another = item.there is not None and not item.is_on and item.there is not item.kept
        if another and item.path not in self.replaced:
            self.replaced.append(item.path)

    def _note_lost(self, item: _Swapped) -> None:
        if item.put.requires_grad and item.kept is not None:
            # Whoever unfreezes the model meanwhile means its own.
            item.kept.requires_grad_(True)
            item.put.requires_grad_(False)
        if what := item.what_is_lost:
            self.lost.append(what)
            item.put.grad = None
            item.note_versions()

    @property
    def intact(self) -> bool:
        """Whether what was put on is what is there, and what it was worked out from is what it was.

        Asked before every pass, so nothing is called that a plain look can tell.
        """
        return not any(
            item.module._parameters.get(item.name) is not item.put
            or (item.tied and item.spread)
            or not item.kept_is_as_it_was
            for items in self._swapped.values()
            for item in items
        )

    @property
    def fits(self) -> bool:
        """Whether the parameters that they were worked out from are there and what they were."""
        return all(
            item.there is item.kept and item.kept_is_as_it_was for items in self._swapped.values() for item in items
        )

    # What happens to one module meanwhile

    def plain(self, module: nn.Module) -> None:
        """Give a module its own parameters, which somebody is about to read or change."""
        for item in self._swapped[module]:
            self._note_lost(item)
            item.place(folded=False)

    def again(self, module: nn.Module) -> None:
        """Fold anew into whatever a module's parameters are now."""
        known = {item.name: item for item in self._swapped[module]}
        for _, made in self._folds[module]:
            for owner, name, put in made():
                if owner is module:
                    item = known[name]
                    item.put, item.kept = put, module._parameters[name]
                    item.note_versions()
        for item in known.values():
            item.place(folded=True)

    def kept_of(self, module: nn.Module) -> dict[str, nn.Parameter | None]:
        """A module's own parameters by name, those in whose place others stand."""
        return {item.name: item.kept for item in self._swapped[module] if item.is_on}

    def plain_state(self, module: nn.Module, state: dict[str, Any], prefix: str) -> None:
        """Replace what a checkpoint of a module holds by its own parameters."""
        for item in self._swapped[module]:
            key = prefix + item.name
            if not item.is_on or key not in state:
                continue
            if item.kept is None:
                del state[key]
            else:
                state[key] = item.kept if isinstance(state[key], nn.Parameter) else item.kept.detach()


def _swaps_of_fold(fold: Fold, model: nn.Module) -> list[Swap]:
    with torch.inference_mode(False), torch.no_grad():
        return fold.swaps(model)


def _tied_parameter(kept: nn.Parameter | None, owner: nn.Module, model: nn.Module) -> tuple[tuple[nn.Module, str], ...]:
    return tuple(
        (module, name)
        for module in model.modules()
        if module is not owner
        for name, value in module._parameters.items()
        if value is not None and value is kept
    )


# A module that is watched has hooks for checkpoints, and methods of its own: `_apply`, which is what `to` and `double`
# call, and what copying and pickling ask for.

_WATCHED: WeakKeyDictionary[nn.Module, Folded] = WeakKeyDictionary()


def _watch_state_dicts(module: nn.Module, folded: Folded) -> None:
    if module in _WATCHED:
        _WATCHED[module] = folded
        return
    _WATCHED[module] = folded
    module.register_state_dict_post_hook(_when_saved)
    module.register_load_state_dict_pre_hook(_before_loading)
    module.register_load_state_dict_post_hook(_after_loading)
    vars(module).update({name: MethodType(method, module) for name, method in _METHODS.items()})


def _unwatch_state_dicts(module: nn.Module, folded: Folded) -> None:
    if _WATCHED.get(module) is not folded:
        return
    for name in _METHODS:
        vars(module).pop(name, None)
    for hooks in (module._state_dict_hooks, module._load_state_dict_pre_hooks, module._load_state_dict_post_hooks):
        for key in [key for key, hook in hooks.items() if _is_our_state_dict_hook(hook)]:
            del hooks[key]
    del _WATCHED[module]


def _is_our_state_dict_hook(hook: Any) -> bool:
    # Torch wraps some of them.
    return getattr(hook, "hook", hook) in (_when_saved, _before_loading, _after_loading)


def _when_saved(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    folded = _WATCHED.get(module)
    if folded is not None:
        warnings.warn(PLAIN, UserWarning, stacklevel=2)
        folded.plain_state(module, state, prefix)


def _before_loading(module: nn.Module, state: dict[str, Tensor], *_: Any) -> None:
    folded = _WATCHED.get(module)
    if folded is not None:
        folded.plain(module)


def _after_loading(module: nn.Module, _: Any) -> None:
    folded = _WATCHED.get(module)
    if folded is not None:
        folded.again(module)


def _apply(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """``nn.Module._apply`` on the plain parameters."""
    folded = _WATCHED.get(module)
    if folded is not None:
        folded.plain(module)
    try:
        applied: nn.Module = type(module)._apply(module, *args, **kwargs)
        return applied
    finally:
        if folded is not None:
            folded.again(module)


def _deepcopy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy of the plain module: it is often one of a larger part that is copied."""
    copied = type(module).__new__(type(module))
    memo[id(module)] = copied
    own = {key: value for key, value in vars(module).items() if key not in _METHODS}
    for key in ("_state_dict_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"):
        own[key] = type(own[key])((at, hook) for at, hook in own[key].items() if not _is_our_state_dict_hook(hook))
    folded = _WATCHED.get(module)
    kept = {} if folded is None else folded.kept_of(module)
    own["_parameters"] = {name: kept.get(name, value) for name, value in module._parameters.items()}
    copied.__setstate__(copy.deepcopy(own, memo))
    return copied


def _reduce(module: nn.Module, protocol: Any) -> Any:
    raise AttachError(PICKLED)


_METHODS: Final[dict[str, Callable[..., Any]]] = {
    "_apply": _apply,
    "__deepcopy__": _deepcopy,
    "__reduce_ex__": _reduce,
}
