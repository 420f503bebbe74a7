"""The device that a run computes on: choosing it, setting it up, and its memory."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch

from growtool.errors import PlanError
from growtool.finetune.parallel.distributed import World

_OUT_OF_MEMORY = (  # in the messages of torch's allocators, CUDA, cuBLAS, cuDNN and NCCL, in lower case
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


def resolve_device(name: str, world: World | None = None) -> torch.device:
    """Return the torch device of that name; `auto` is a CUDA device if there is one, else the CPU.

    Args:
        name: `auto`, or a torch device.
        world: the processes of the run, by default one; each of several takes the CUDA device of its number.

    Raises:
        PlanError: this machine has no such device, or the name is that of one CUDA device for several processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    world = world or World()
    if name == "cuda" and world.size > 1:
        name = f"cuda:{world.local_rank}"
    elif name.startswith("cuda:") and world.size > 1:
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
    available = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= available:
        raise PlanError(
            f"--device: found {name!r}, expected one of the {available} CUDA devices torch finds here; use --device cpu"
        )
    return device


def joining_device(names: Iterable[str], world: World) -> torch.device:
    """Return the device by which to join the processes once for several runs: a CUDA device if a run uses one.

    Args:
        names: `--device` of each run.

    Raises:
        PlanError: see `resolve_device`.
    """
    devices = [resolve_device(name, world) for name in names]
    return next((device for device in devices if device.type == "cuda"), torch.device("cpu"))


@contextmanager
def in_use(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """Make `device` torch's current CUDA device while open, and set TF32 and cuDNN's search; restore all of it after.

    Pinned memory and FSDP take the current device. Peak memory is counted anew. On the CPU nothing changes.

    Args:
        tf32: whether products run in TF32 and cuDNN searches for the fastest convolution, as in timm's train script;
            False turns both off, for products in full float32.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = _backend_settings()
    with torch.cuda.device(device):
        forget_peak(device)
        cudnn.benchmark = cudnn.allow_tf32 = products.allow_tf32 = tf32
        try:
            yield
        finally:
            for holder, name, value in before:
                setattr(holder, name, value)


def _backend_settings() -> list[tuple[Any, str, Any]]:
    """Return cuDNN's search and TF32 as they are set: for each the object, the attribute and its value."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    settings: list[tuple[Any, str, Any]] = [(cudnn, "benchmark", cudnn.benchmark)]
    # torch has an old and a new name for TF32, and keeps both: each is restored under the name that it was set by.
    for holder in (cudnn, products):
        with suppress(RuntimeError):  # reading the old name fails once only the new one was set
            settings.append((holder, "allow_tf32", holder.allow_tf32))
    holders = (products, cudnn.conv, cudnn.rnn)  # type: ignore[attr-defined]
    return settings + [(holder, "fp32_precision", holder.fp32_precision) for holder in holders]


def mixed_precision(device: torch.device, autocast: str | None) -> AbstractContextManager[object]:
    """Return torch's autocast to the type of that name, or an empty context for None."""
    return torch.autocast(device.type, dtype=getattr(torch, autocast)) if autocast else nullcontext()


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: allocated on a CUDA device, or resident in this process; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, Linux in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak(device: torch.device) -> None:
    """Restart the count of peak memory on a CUDA device; that of a process cannot be restarted."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch or Python reports by this error that memory has run out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)
