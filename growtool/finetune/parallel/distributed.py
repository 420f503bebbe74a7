"""Several processes on one run: who they are, what they tell each other, and how they share a model.

`torchrun` starts the processes and says by the environment which is which. A run of one process touches none of it.
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
        rank: this one's number.
        size: how many there are.
        local_rank: this one's number on its machine, and that of its CUDA device.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> World:
        """What torchrun says; one process without it."""
        found = [int(os.environ.get(name, default)) for name, default in _VARIABLES]
        return cls(*found)

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set anywhere; every process must ask. It goes through the CPU, so that no GPU waits."""
        if self.size == 1:
            return flag
        found = torch.tensor(int(flag))
        torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
        return bool(found)

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            torch.distributed.all_reduce(value)
        return value

    def gathered(self, value: Any) -> list[Any]:
        """Each process's `value`, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            torch.distributed.barrier()


_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[World]:
    """The processes can talk to each other while this is open; whoever has opened a group before keeps it."""
    if world.size == 1 or torch.distributed.is_initialized():
        yield world
        return
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    torch.distributed.init_process_group(backend, rank=world.rank, world_size=world.size)
    try:
        yield world
    finally:
        torch.distributed.destroy_process_group()


def shard(model: nn.Module, world: World, device: torch.device, autocast: str | None = None) -> None:
    """FSDP2: each process keeps its part of every parameter. Blocks are gathered one at a time, the rest together.

    Args:
        model: changed in place.
        world: the processes.
        device: of this one.
        autocast: `bfloat16` gathers blocks in it, so that no copy in it is kept for the backward pass; gradients are
            summed in float32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy, mesh = MixedPrecisionPolicy(), init_device_mesh(device.type, (world.size,))
    if autocast == "bfloat16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        # BatchNorm, whose statistics are in float32, takes no weights in bfloat16 beside them
        norms: list[nn.Module] = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.affine]
        if norms:
            fully_shard(norms, mesh=mesh, reshard_after_forward=False)
    blocks = [
        child
        for module in model.modules()
        if isinstance(module, nn.Sequential | nn.ModuleList)
        for child in module
        if any(True for _ in child.children()) and any(True for _ in child.parameters())
    ]
    for block in reversed(blocks):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def synchronised(model: nn.Module) -> nn.Module:
    """BatchNorm over the images of all processes; timm's layers keep the activation that is a part of them."""
    from timm.layers import convert_sync_batchnorm

    converted: nn.Module = convert_sync_batchnorm(model)
    return converted


def replicate(model: nn.Module, device: torch.device) -> nn.Module:
    """DDP: every process has the model, gradients are averaged as they are computed."""
    from torch.nn.parallel import DistributedDataParallel

    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices)


def without_exchange(forward: Callable[..., Any]) -> AbstractContextManager[object]:
    """Gradients stay in their process while this is open, for all but the last part of an accumulated update."""
    inner = getattr(forward, "_orig_mod", forward)  # what torch.compile wrapped
    if hasattr(inner, "set_requires_gradient_sync"):
        return _unsharded_gradients(inner)
    return inner.no_sync() if hasattr(inner, "no_sync") else nullcontext()


@contextmanager
def _unsharded_gradients(model: Any) -> Iterator[None]:
    """FSDP2's way of it."""
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


@torch.no_grad()
def average_statistics(model: nn.Module, world: World) -> None:
    """Running statistics of BatchNorm become their mean over the processes, as timm's `--dist-bn reduce` does."""
    if world.size == 1:
        return
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            world.total(buffer).div_(world.size)


def whole(tensor: Tensor) -> Tensor:
    """The full tensor; gathered from all processes where it is sharded, so all of them must ask."""
    return tensor.full_tensor() if _in_shards(tensor) else tensor


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 keeps its parameters in shards."""
    return any(_in_shards(parameter) for parameter in model.parameters())


def as_sharded(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor`, whole in every process, sharded as `like` is where both have the same shape."""
    if not _in_shards(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def _in_shards(tensor: Tensor) -> TypeIs[DTensor]:
    """Whether several processes share it; what tells it takes half a second to import, and one process has none."""
    if not torch.distributed.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
