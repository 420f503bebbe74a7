"""The machine a run computes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch

from growtool.errors import PlanError
from growtool.finetune.parallel.distributed import World

_OUT_OF_MEMORY = (  # as torch's allocators, CUDA, cuBLAS, cuDNN and NCCL say it
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "alloc_failed",  # of cuBLAS, cuDNN, cuSOLVER, cuSPARSE and cuFFT
    "allocation_failed",  # of cuDNN 9
    "out_of_memory",  # of CUDA's driver
    "failed to cuda",  # malloc or calloc, of NCCL
    "unable to find an engine",  # of torch, where none of cuDNN's has room to work in
    "unable to find a valid cudnn algorithm",
)


def resolve_device(name: str, local_rank: int | None = None) -> torch.device:
    """The torch device of that name; `auto` is the CUDA device where there is one.

    Args:
        name: `auto`, or a torch device.
        local_rank: of several processes on this machine; each takes the CUDA device of its number.

    Raises:
        PlanError: no such device on this machine, or one for several processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local_rank is not None:
        name = f"cuda:{local_rank}"
    elif name.startswith("cuda:") and local_rank is not None:
        raise PlanError(
            f"--device: found {name!r} for several processes, which would all take it, expected cuda, of which each "
            "takes the device of its number; to choose devices, set CUDA_VISIBLE_DEVICES"
        )
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise PlanError(f"--device: found {name!r}, expected auto, cpu, cuda or cuda:N")
    here = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= here:
        raise PlanError(
            f"--device: found {name!r}, expected one of the {here} CUDA devices torch finds here; use --device cpu"
        )
    return device


def device_of(names: Iterable[str], world: World) -> torch.device:
    """The device whose processes of several runs, one after the other, must be able to talk: CUDA where one is.

    Raises:
        PlanError: no such device on this machine, or one for several processes.
    """
    found = [resolve_device(name, world.local_rank if world.size > 1 else None) for name in names]
    return next((device for device in found if device.type == "cuda"), torch.device("cpu"))


@contextmanager
def in_use(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """While open it is the CUDA device that torch takes where none is named (pinned memory, FSDP); restored after.

    Products run in TF32, and cuDNN searches for the fastest convolution, as in timm's train script. Peak memory is
    counted anew. Nothing changes where it is no CUDA device.

    Args:
        device: of the run.
        tf32: False turns both off, for products in full float32.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    put_back = _noted()
    with torch.cuda.device(device):
        forget_peak(device)
        cudnn.benchmark = cudnn.allow_tf32 = products.allow_tf32 = tf32
        try:
            yield
        finally:
            put_back()


def _noted() -> Callable[[], None]:
    """What puts cuDNN's search and TF32 back as they are now, under torch's old names and under its new ones."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    found: list[tuple[Any, str, Any]] = [(cudnn, "benchmark", cudnn.benchmark)]
    for holder in (cudnn, products):
        with suppress(RuntimeError):  # the old name, once only the new one was set
            found.append((holder, "allow_tf32", holder.allow_tf32))
    kinds = (products, cudnn.conv, cudnn.rnn)  # type: ignore[attr-defined]
    found += [(kind, "fp32_precision", kind.fp32_precision) for kind in kinds]

    def put_back() -> None:
        for holder, name, value in found:
            setattr(holder, name, value)

    return put_back


def mixed_precision(device: torch.device, autocast: str | None) -> AbstractContextManager[object]:
    """torch's autocast to the type of that name, or nothing."""
    return torch.autocast(device.type, dtype=getattr(torch, autocast)) if autocast else nullcontext()


def peak_memory(device: torch.device) -> int:
    """Bytes at the worst moment so far: allocated on the CUDA device, or resident in this process; 0 where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak(device: torch.device) -> None:
    """Count the peak memory of a CUDA device anew; that of a process cannot be."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is how torch or Python says that memory has run out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)
