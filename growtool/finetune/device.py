"""The machine a run computes on."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from growtool.errors import PlanError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def resolve_device(name: str) -> torch.device:
    """The torch device of that name; `auto` is the CUDA device where there is one.

    Raises:
        PlanError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
