"""One pass of a live model, recorded as a graph. No activation is held, and nothing stays on the model."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from steerkit_architectures._discovery.graph import LEAF, SHAPE_ALONE, WRITTEN, Call, Graph, Key, Port, Value
from steerkit_architectures._discovery.refusing import Place, refusal

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from steerkit.errors import UnsupportedModelError

BATCH, LENGTH = 2, 7
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def as_it_is_used(model: nn.Module) -> Iterator[None]:
    """Run the body's passes in eval mode, without gradients, and without what torch.compile made of modules."""
    training = [module for module in model.modules() if module.training]
    compiled = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")
    # The stance is the process's: one at a time, so that each puts back what it found.
    with _ONE_AT_A_TIME, ExitStack() as stack:
        if compiled:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.no_grad())
        stack.callback(_set_modes, training, True)
        _set_modes(training, False)
        yield


def _set_modes(modules: Sequence[nn.Module], training: bool) -> None:
    for module in modules:
        module.training = training


def ordinary_tokens(model: PreTrainedModel) -> Tensor:
    """Random tokens, ``[batch, pos]``, that no config names: padding and image placeholders mean other things."""
    table = model.get_input_embeddings()
    weight: Any = getattr(table, "weight", None)
    rows = [int(weight.shape[0])] if isinstance(weight, Tensor) else []
    vocabulary = min([int(model.config.get_text_config().vocab_size), *rows])
    named = _named_tokens(model.config.to_dict())
    usable = torch.tensor([token for token in range(vocabulary) if token not in named] or [0])
    chosen = torch.randint(len(usable), (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
    device = weight.device if isinstance(weight, Tensor) else model.device
    if hasattr(table, "_hf_hook"):
        device = getattr(table._hf_hook, "execution_device", None) or device
    return usable[chosen].to(device)


def _named_tokens(config: Mapping[str, Any]) -> set[int]:
    found: set[int] = set()
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _named_tokens(value)
        elif str(name).endswith(("token_id", "token_index")):
            found |= {item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int)}
    return found


def run(model: nn.Module, ids: Tensor) -> Any:
    """A pass over text alone. On the meta device there is no mask, since code asks whether all of it is one."""
    mask = None if ids.is_meta else torch.ones_like(ids)
    return model(input_ids=ids, attention_mask=mask, use_cache=False)


def named_once(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules with paths as adapters write them: what torch.compile wraps is one module, under the wrapper's path."""
    inside = {id(module._modules.get("_orig_mod")) for module in model.modules()}
    for path, module in model.named_modules():
        if id(module) not in inside:
            yield path.replace("._orig_mod", ""), module


@dataclass
class _Storage:
    """Memory that values lie in. Holding the weak reference keeps its address from being used anew."""

    alive: StorageWeakRef
    writes: int = 0
    last: Value | None = None


class _Recorder(TorchDispatchMode):
    """Turns operations into values."""

    def __init__(self, names: Callable[[Tensor], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values: list[Value] = []
        self._names = names
        self._storages: dict[int, _Storage] = {}
        self._known: dict[Any, tuple[Value, int]] = {}
        self._objects: dict[int, tuple[weakref.ref[Tensor], Value]] = {}

    def value_of(self, tensor: Tensor) -> Value:
        """What a tensor is now."""
        storage, key = self._place(tensor)
        if storage is None:
            held = self._objects.get(id(tensor))
            if held is not None and held[0]() is tensor:
                return held[1]
            return self.new(tensor, LEAF)
        known = self._known.get(key)
        if known is not None and known[1] == storage.writes:
            if not known[0].of_tokens and not known[0].name:
                # A parameter that was loaded within the pass, by a library that offloads.
                known[0].name = self._names(tensor)
            return known[0]
        last = storage.last
        if last is None:
            return self.new(tensor, LEAF) if known is None else known[0]
        if known is None and last.size != tensor.numel():
            return self.new(tensor, WRITTEN, [last])
        # Somebody wrote into the memory that it shares. A write to all of it is seen as another view of the same.
        if last.size == tensor.numel() and tensor.is_contiguous():
            return self.new(tensor, "view", [last])
        return self.new(tensor, WRITTEN, [*([known[0]] if known else []), last])

    def new(
        self,
        tensor: Tensor,
        op: str,
        inputs: Sequence[Value] = (),
        numbers: tuple[float, ...] = (),
        alpha: float = 1.0,
    ) -> Value:
        """Record that a tensor has been made."""
        single = tensor.numel() == 1 and not tensor.is_meta and type(tensor) in (Tensor, nn.Parameter)
        value = Value(
            index=len(self.values),
            op=op,
            inputs=tuple(inputs),
            numbers=numbers,
            alpha=alpha,
            shape=tuple(tensor.shape),
            dtype=tensor.dtype,
            of_tokens=op not in SHAPE_ALONE and any(one.of_tokens for one in inputs),
            number=float(tensor) if single and not tensor.is_complex() else None,
            name=self._names(tensor) if op == LEAF else "",
        )
        for one in {one.index: one for one in inputs}.values():
            one.users.append(value)
        self.values.append(value)
        storage, key = self._place(tensor)
        if storage is None:
            self._objects[id(tensor)] = (weakref.ref(tensor), value)
        else:
            self._known[key] = (value, storage.writes)
        return value

    def _place(self, tensor: Tensor) -> tuple[_Storage | None, Any]:
        try:
            memory = tensor.untyped_storage()
        except (RuntimeError, NotImplementedError):
            # A subclass that holds its parts in other tensors.
            return None, None
        address = memory._cdata
        storage = self._storages.get(address)
        if storage is None:
            storage = self._storages[address] = _Storage(StorageWeakRef(memory))
        if type(tensor) not in (Tensor, nn.Parameter) and memory.nbytes() == 0:
            return None, None
        return storage, (address, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.rpartition("::")[2]
        if name == "_local_scalar_dense" and args[0].is_meta:
            # Without numbers every question about them is answered yes.
            return args[0].dtype is torch.bool or 1
        flat = tree_flatten((args, kwargs))[0]
        inputs = [self.value_of(item) for item in flat if isinstance(item, Tensor)]
        alpha = kwargs.get("alpha", 1.0)
        numbers = tuple(
            float(item) for item in tree_flatten(args)[0] if isinstance(item, (int, float)) and type(item) is not bool
        )
        output = func(*args, **kwargs)
        results = [item for item in tree_flatten(output)[0] if isinstance(item, Tensor)]
        written = _written(func, args, kwargs)
        for target in written:
            self._write(target, name, inputs, numbers, alpha)
        fresh = [item for item in results if not any(item is one for one in flat)]
        for place, result in enumerate(fresh):
            if any(self._place(result)[0] is self._place(target)[0] for target in written):
                self.value_of(result)
                continue
            self.new(result, f"{name}#{place}" if len(fresh) > 1 else name, inputs, numbers, alpha)
        return output

    def _write(
        self, target: Tensor, name: str, inputs: Sequence[Value], numbers: tuple[float, ...], alpha: float
    ) -> None:
        storage, _ = self._place(target)
        if storage is not None:
            storage.writes += 1
        value = self.new(target, name, inputs, numbers, alpha)
        if storage is not None:
            storage.last = value


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that an operation writes into."""
    found = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = args[place] if place < len(args) else kwargs.get(argument.name)
        found += [item for item in (given if isinstance(given, (list, tuple)) else [given]) if isinstance(item, Tensor)]
    return found


class _Calls:
    """Hooks that record which values go into modules and come out of them, in one thread."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.calls = model, list[Call]()
        self._open: list[Call] = []
        self._thread = threading.get_ident()
        named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
        self._names = {id(tensor): name.replace("._orig_mod", "") for name, tensor in reversed(named)}
        self.recorder = _Recorder(self.name_of)

    def name_of(self, tensor: Tensor) -> str:
        """Path of a parameter or buffer; those of an offloaded module are other tensors while it runs."""
        for call in reversed(self._open):
            for name, own in (*call.module._parameters.items(), *call.module._buffers.items()):
                if own is tensor:
                    return f"{call.path}.{name}" if call.path else name
        return self._names.get(id(tensor), "")

    def failed(self, error: Exception, ids: Tensor) -> UnsupportedModelError:
        """The refusal of a model whose own code fails, with the module in which it did."""
        path = self._open[-1].path if self._open else ""
        words = next(iter(str(error).strip().splitlines()), "")
        said = f"{type(error).__name__}: {words}" if words else type(error).__name__
        if ids.is_meta:
            reason = f"without weights its code can't be followed in {path or 'the model'} ({said}); load them"
            return refusal("values are needed", reason, Place(module=path))
        return refusal(
            "a pass fails", f"a pass over text alone fails in {path or 'the model'} ({said})", Place(module=path)
        )

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record what runs in the body."""
        with ExitStack() as stack:
            for path, module in named_once(self.model):
                stack.callback(module.register_forward_pre_hook(self._before(path), with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(self._after).remove)
            stack.enter_context(self.recorder)
            yield

    def _before(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if threading.get_ident() != self._thread:
                return
            parent = self._open[-1] if self._open else None
            call = Call(path, module, len(self.recorder.values), len(self._open), parent, len(args))
            given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
            for key, item in given:
                for at, tensor in _tensors(item, key):
                    value = self.recorder.value_of(tensor)
                    call.arguments.append((at, value))
                    value.into.append(Port(call, at))
            self.calls.append(call)
            self._open.append(call)

        return hook

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        call = self._open.pop()
        call.stop = len(self.recorder.values)
        for place, tensor in _outputs(output):
            value = self.recorder.value_of(tensor)
            call.outputs.append((place, value))
            value.out_of.append(Port(call, place))


def _tensors(item: Any, key: int | str) -> Iterator[tuple[Key, Tensor]]:
    if isinstance(item, Tensor):
        yield key, item
    elif isinstance(item, (list, tuple)):
        for place, one in enumerate(item):
            if isinstance(one, Tensor):
                yield (key, place), one


def _outputs(output: Any) -> list[tuple[int, Tensor]]:
    if isinstance(output, Tensor):
        return [(-1, output)]
    items = output.to_tuple() if hasattr(output, "to_tuple") else output
    if not isinstance(items, (list, tuple)):
        return []
    return [(place, item) for place, item in enumerate(items) if isinstance(item, Tensor)]


def record(model: nn.Module, ids: Tensor) -> Graph:
    """Record one pass.

    Args:
        model: with its modes as they should be.
        ids: tokens, ``[batch, pos]``.

    Raises:
        UnsupportedModelError: where the model's own code fails on text alone.
    """
    calls = _Calls(model)
    with calls.recorded():
        tokens = calls.recorder.value_of(ids)
        tokens.of_tokens = True
        try:
            output = run(model, ids)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise calls.failed(error, ids) from error
        logits = getattr(output, "logits", None)
        last = calls.recorder.value_of(logits) if isinstance(logits, Tensor) else None
    return Graph(calls.recorder.values, calls.calls, last, (ids.shape[0], ids.shape[1]))
