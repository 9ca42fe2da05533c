"""Tensors of which each process holds a share: torch's ``DTensor``, as tensor parallelism and FSDP make them.

A process that shards nothing never imports ``torch.distributed.tensor``: every question here is a look at a type.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, cast

import torch
from torch import Tensor, nn

from steerkit.errors import SiteError, counted

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

_RUN_BY: Final = "transformers.distributed."


def is_sharded(value: object) -> bool:
    """Whether a tensor is one that several processes hold together."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def whole(value: Tensor) -> Tensor:
    """All of a tensor, in every process alike: each that holds a share has to ask. A plain one as it is."""
    return cast("DTensor", value).full_tensor() if is_sharded(value) else value


def share_of(value: Tensor) -> Tensor:
    """What of a tensor lies in this process, without a gradient; a plain one as it is."""
    if not is_sharded(value):
        return value
    with torch.no_grad():
        return cast("DTensor", value).to_local()


def beside(value: Tensor, like: Tensor) -> Tensor:
    """A value that every process has, as an operand for ``like``: on its device, in its dtype, sharded as little."""
    if not is_sharded(like):
        return value.to(like)
    return _in_each(value.to(share_of(like).device, like.dtype), cast("DTensor", like).device_mesh)


def placed_as(value: Tensor, like: Tensor) -> Tensor:
    """A sharded value cut as ``like`` is, with what processes have sums of added up. A plain one as it is."""
    if not is_sharded(value):
        return value
    return cast("DTensor", value).redistribute(placements=cast("DTensor", like).placements)


def placed_as_bias(value: Tensor, weight: Tensor) -> Tensor:
    """A bias that every process has, cut as what its weight ``[out, in]`` puts out is; all of it in each where the
    weight is cut along its input."""
    if not is_sharded(weight):
        return value
    from torch.distributed.tensor import Replicate, Shard

    sharded = cast("DTensor", weight)
    cut = [Shard(0) if one.is_shard(0) else Replicate() for one in sharded.placements]
    return cast("DTensor", _in_each(value, sharded.device_mesh)).redistribute(placements=cut)


def rows_of(table: Tensor, ids: Tensor) -> Tensor:
    """``table[ids]``, ``[*, width]``, in every process alike, of which none needs to hold the whole table."""
    if not is_sharded(table):
        return table[ids]
    return whole(nn.functional.embedding(_in_each(ids, cast("DTensor", table).device_mesh), table))


def _in_each(value: Tensor, mesh: DeviceMesh) -> Tensor:
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)


# What processes have in common


def mesh_of(model: nn.Module) -> DeviceMesh | None:
    """The processes that hold a model together; None where this one holds all of it."""
    found = next((one for one in model.parameters() if is_sharded(one)), None)
    return None if found is None else cast("DTensor", found).device_mesh


def of_each(value: Tensor, mesh: DeviceMesh) -> Tensor:
    """``[processes, *]``: a value of one shape that each process has, side by side, in every process alike."""
    from torch.distributed.tensor import DTensor, Shard

    given = value.detach()[None].contiguous().to(mesh.device_type)
    return DTensor.from_local(given, mesh, [Shard(0)] * mesh.ndim, run_check=False).full_tensor()


def in_every_process(model: nn.Module, holds: bool) -> bool:
    """Whether something holds in every process that has a share of a model. Each of them has to ask."""
    mesh = mesh_of(model)
    return holds if mesh is None else bool(of_each(torch.tensor(holds), mesh).all())


def shares_in_words(model: nn.Module) -> str:
    """How a model is cut over processes, for what is known by it; empty where it isn't."""
    named = [(name, one) for name, one in model.named_parameters() if is_sharded(one)]
    cuts = [f"{name} {cast('DTensor', one).placements} {cast('DTensor', one).device_mesh.shape}" for name, one in named]
    return "; ".join(cuts)


# How a module is sharded


def sharded_axis(module: nn.Module) -> int | None:
    """Along which axis of a module's weight, ``[out, in]``, processes have shares; None where each has all of it."""
    weight = module._parameters.get("weight")
    if weight is None or not is_sharded(weight):
        return None
    axes = _axes(cast("DTensor", weight))
    return axes[0] % weight.ndim if axes else None


def _axes(value: DTensor) -> list[int]:
    """Along which axes a tensor is cut."""
    return [axis for one in value.placements if isinstance(axis := getattr(one, "dim", None), int)]


def runs_in_parallel(module: nn.Module) -> bool:
    """Whether transformers' tensor parallelism runs a module: its ``forward`` is the module's own, on its share."""
    return str(getattr(vars(module).get("forward"), "__module__", "")).startswith(_RUN_BY)


def is_fully_sharded(model: nn.Module, path: str) -> bool:
    """Whether FSDP (``fully_shard``) gathers the parameters of a module for each pass, or of one around it."""
    module = sys.modules.get("torch.distributed.fsdp")
    if module is None:
        return False
    parts = path.split(".") if path else []
    around = (".".join(parts[:depth]) for depth in range(len(parts) + 1))
    return any(isinstance(model.get_submodule(one), module.FSDPModule) for one in around)


def cut_in_words(value: Tensor) -> str:
    """How processes share a tensor: ``cut along axis 1 over 3 processes``."""
    sharded = cast("DTensor", value)
    axes = list(map(str, _axes(sharded)))
    cut = f"cut along axis {' and '.join(axes)}" if axes else "a copy in each"
    return f"{cut} over {counted(sharded.device_mesh.size(), 'process', 'processes')}"


def why_cut_otherwise(value: Tensor, path: str) -> str:
    """Why a parameter isn't cut in one piece for each process, or is no plain numbers; empty where it is both."""
    if not is_sharded(value):
        return "" if type(value.data) is Tensor and value.is_floating_point() else f"{path} is of {value.dtype}"
    from torch.distributed.tensor import Replicate, Shard

    sharded = cast("DTensor", value)
    if not all(type(one) in (Replicate, Shard) for one in sharded.placements):
        told = ", ".join(map(str, sharded.placements))
        return f"processes have pieces of {path} that don't lie side by side ({told})"
    local = share_of(value)
    return (
        ""
        if type(local) is Tensor and local.is_floating_point()
        else f"{path} is a {type(local).__name__} of {local.dtype}"
    )


# Values that a process has a share of


class Input:
    """The input of a module of which each process is given a share of the last axis, as one whole value.

    Args:
        module: a linear module whose weight is cut along its input.
    """

    def __init__(self, module: nn.Module) -> None:
        self._weight = cast("DTensor", module._parameters["weight"])
        axis = self._weight.ndim - 1
        cut = [place for place, one in enumerate(self._weight.placements) if one.is_shard(axis)]
        mesh = self._weight.device_mesh
        self._mesh = mesh if mesh.ndim == 1 else mesh[cast("tuple[str, ...]", mesh.mesh_dim_names)[cut[0]]]
        self.width = self._weight.shape[axis]

    @property
    def processes(self) -> int:
        """How many have a share."""
        return self._mesh.size()

    @property
    def rank(self) -> int:
        """Which share this process has."""
        return self._mesh.get_local_rank()

    def gathered(self, value: Tensor) -> Tensor:
        """``[*, width]`` from this process's ``[*, share]``, in every process alike; gradients go back to shares."""
        if value.shape[-1] == self.width:
            return value
        if value.shape[-1] * self.processes != self.width:
            raise SiteError(
                f"A process is given {value.shape[-1]} of a token's {counted(self.width, 'value')}, of "
                f"{counted(self.processes, 'process', 'processes')}: shares of unequal size can't be put together. Use "
                "another number of processes."
            )
        return self.side_by_side(value, -1)

    def side_by_side(self, value: Tensor, axis: int) -> Tensor:
        """Shares of equal size of all processes along an axis, in every process alike."""
        from torch.distributed.tensor import DTensor, Shard

        return DTensor.from_local(value, self._mesh, [Shard(axis)], run_check=False).full_tensor()

    def share(self, value: Tensor, like: Tensor) -> Tensor:
        """This process's share of a whole value, as wide as ``like``."""
        from torch.distributed.tensor import DTensor, Replicate, Shard

        if like.shape[-1] == self.width:
            return value
        spread = DTensor.from_local(value, self._mesh, [Replicate()], run_check=False)
        return spread.redistribute(placements=[Shard(-1)]).to_local()


def sharded_input(module: nn.Module) -> Input | None:
    """The input of a module that is given a share of each token's values; None where it is given all of them."""
    return Input(module) if sharded_axis(module) == 1 and runs_in_parallel(module) else None
