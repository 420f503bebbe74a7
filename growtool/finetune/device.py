"""The machine a run computes on."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from growtool.errors import PlanError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def resolve_device(name: str, local_rank: int | None = None) -> torch.device:
    """The torch device of that name; `auto` is the CUDA device where there is one.

    Args:
        name: `auto`, or a torch device.
        local_rank: of several processes on this machine; each takes the CUDA device of its number.

    Raises:
        PlanError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local_rank is not None:
        name = f"cuda:{local_rank}"
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is how torch or Python says that memory has run out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
