"""Several processes on one run: their ranks, their collective operations, and how they share a model.

`torchrun` starts the processes and tells each one its rank by environment variables. In a run of a single process no
function here touches `torch.distributed`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run.

    Attributes:
        rank: number of this process.
        size: number of processes.
        local_rank: number of this process on its machine, and of its CUDA device.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> World:
        """Return the world that torchrun's environment variables describe; a single process without them."""
        return cls(*(int(os.environ.get(name, default)) for name, default in _VARIABLES))

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true in any process; every process must call this."""
        if self.size == 1:
            return flag
        result = torch.tensor(int(flag))  # on the CPU, so that the answer does not have to wait for a GPU
        torch.distributed.all_reduce(result, op=torch.distributed.ReduceOp.MAX)
        return bool(result)

    def total(self, value: Tensor) -> Tensor:
        """Sum `value` over all processes, in place, and return it; every process must call this."""
        if self.size > 1:
            torch.distributed.all_reduce(value)
        return value

    def gathered(self, value: Any) -> list[Any]:
        """Return the `value` of each process in the order of ranks; every process must call this."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.size > 1:
            torch.distributed.barrier()


_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))  # by World's fields, and their defaults


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[World]:
    """Join the processes in a process group while open; if there is a group already, it is used and left open."""
    if world.size == 1 or torch.distributed.is_initialized():
        yield world
        return
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"  # flags and objects go through the CPU
    torch.distributed.init_process_group(backend, rank=world.rank, world_size=world.size)
    try:
        yield world
    finally:
        torch.distributed.destroy_process_group()


def shard(model: nn.Module, world: World, device: torch.device, autocast: str | None = None) -> None:
    """Shard the model by FSDP2: each process keeps its part of every parameter.

    The forward and backward passes gather one block at a time. The parameters outside of blocks are gathered together.

    Args:
        model: changed in place.
        autocast: `bfloat16` gathers parameters in that type, so that autocast keeps no copies for the backward pass;
            gradients are summed in float32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy, mesh = MixedPrecisionPolicy(), init_device_mesh(device.type, (world.size,))
    if autocast == "bfloat16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        # BatchNorm, whose statistics are in float32, takes no weights in bfloat16 beside them. So all norms form one
        # unit of their own, without the policy.
        norms: list[nn.Module] = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.affine]
        if norms:
            fully_shard(norms, mesh=mesh, reshard_after_forward=False)
    # Blocks are the children of sequences that have children themselves; a bare layer or activation is none.
    blocks = [
        child
        for module in model.modules()
        if isinstance(module, nn.Sequential | nn.ModuleList)
        for child in module
        if any(True for _ in child.children()) and any(True for _ in child.parameters())
    ]
    for block in reversed(blocks):  # inner ones first: a unit takes the parameters that no unit within it has taken
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def synchronised(model: nn.Module) -> nn.Module:
    """Return the model with every BatchNorm replaced by one over the images of all processes."""
    from timm.layers import convert_sync_batchnorm

    converted: nn.Module = convert_sync_batchnorm(model)  # torch's own would drop the activation of timm's BatchNormAct
    return converted


def replicate(model: nn.Module, device: torch.device) -> nn.Module:
    """Wrap the model in DDP: every process holds all of it, and gradients are averaged as they are computed."""
    from torch.nn.parallel import DistributedDataParallel

    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices)


def without_exchange(forward: Callable[..., Any]) -> AbstractContextManager[object]:
    """Return a context in which processes do not exchange gradients, for all but the last part of an update."""
    inner = getattr(forward, "_orig_mod", forward)  # the module that torch.compile wraps
    if hasattr(inner, "set_requires_gradient_sync"):  # FSDP2
        return _unsharded_gradients(inner)
    return inner.no_sync() if hasattr(inner, "no_sync") else nullcontext()  # DDP, or a single process


@contextmanager
def _unsharded_gradients(model: Any) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


@torch.no_grad()
def average_statistics(model: nn.Module, world: World) -> None:
    """Replace BatchNorm's running statistics by their mean over the processes, as timm's `--dist-bn reduce` does."""
    if world.size == 1:
        return
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            world.total(buffer).div_(world.size)


def whole(tensor: Tensor) -> Tensor:
    """Return the full tensor; a sharded one is gathered from all processes, every one of which must call this."""
    return tensor.full_tensor() if _in_shards(tensor) else tensor


def is_sharded(model: nn.Module) -> bool:
    """Return whether FSDP2 keeps parameters of the model in shards."""
    return any(_in_shards(parameter) for parameter in model.parameters())


def as_sharded(tensor: Tensor, like: Tensor) -> Tensor:
    """Shard `tensor`, whole in every process, as `like` is sharded.

    Returns:
        `tensor` itself if `like` is not sharded, or has another shape (as an optimizer's count of steps has).
    """
    if not _in_shards(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def _in_shards(tensor: Tensor) -> TypeIs[DTensor]:
    """Return whether several processes hold parts of the tensor."""
    if not torch.distributed.is_initialized():  # a single process need not wait for the import, half a second
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
