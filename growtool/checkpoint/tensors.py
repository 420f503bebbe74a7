"""Shapes and element types of stored tensors, and the tensors themselves as they are read and rounded."""

from __future__ import annotations

import errno
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from growtool.errors import CheckpointError, PlanError

if TYPE_CHECKING:
    import torch

# The types that growtool reads and writes, as safetensors names them: (torch name, bytes). They stand in the order in
# which the safetensors library lays types out in a file: wide ones first, so that every tensor begins at a multiple of
# the size of its elements.
DTYPES = {
    "U64": ("uint64", 8), "I64": ("int64", 8), "F64": ("float64", 8), "C64": ("complex64", 8),
    "F32": ("float32", 4), "U32": ("uint32", 4), "I32": ("int32", 4),
    "BF16": ("bfloat16", 2), "F16": ("float16", 2), "U16": ("uint16", 2), "I16": ("int16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1), "F8_E5M2": ("float8_e5m2", 1), "I8": ("int8", 1), "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Shape and element type of one stored tensor; `dtype` is safetensors' name (`F32`, `BF16`, `I64`, ...)."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes in the file."""
        return self.numel * DTYPES[self.dtype][1]

    @property
    def torch_dtype(self) -> torch.dtype:
        """The element type as torch names it."""
        return _torch_dtypes()[self.dtype]

    @property
    def is_float(self) -> bool:
        """Whether the elements are real floating-point numbers; counters and indices are copied, never mixed."""
        return self.dtype.startswith(("F", "BF"))

    def empty(self) -> torch.Tensor:
        """Return a tensor of this shape and type on the meta device, which holds no values."""
        import torch

        return torch.empty(self.shape, dtype=self.torch_dtype, device="meta")


@dataclass(frozen=True, slots=True)
class Stored:
    """The bytes of a tensor in a file, from `start` on."""

    path: Path
    start: int
    info: TensorInfo

    def read(self) -> torch.Tensor:
        """Return the tensor in memory of its own.

        Raises:
            OSError: the file cannot be read, or ends before the tensor does.
        """
        import torch

        if self.info.numel == 0:  # torch.frombuffer refuses an empty buffer
            return torch.empty(self.info.shape, dtype=self.info.torch_dtype)
        raw = bytearray(self.info.nbytes)  # writable, as torch.frombuffer warns of buffers that are not
        with self.path.open("rb") as file:
            file.seek(self.start)
            if file.readinto(raw) < len(raw):  # zeros stand where the file has no bytes
                raise cut_short(self.path)
        return torch.frombuffer(raw, dtype=self.info.torch_dtype).reshape(self.info.shape)

    def mapped(self) -> torch.Tensor:
        """Return the tensor on the pages of the file, which the system reads as they are needed and may drop again.

        Writing to the tensor leaves the file as it is. `start` has to be a multiple of the size of an element.

        Raises:
            OSError: the file cannot be read, or ends before the tensor does.
        """
        import torch

        # A map begins at a multiple of the page size, so at most a page too early.
        before = self.start % mmap.ALLOCATIONGRANULARITY
        count = self.info.nbytes
        with self.path.open("rb") as file:
            try:
                pages = mmap.mmap(file.fileno(), before + count, access=mmap.ACCESS_COPY, offset=self.start - before)
            except ValueError as error:  # how Python tells of a map beyond the end of a file
                raise cut_short(self.path) from error
        # torch keeps the map open for as long as the tensor lives. It takes bytes for wider numbers only where they
        # begin at a multiple of the numbers' size: page sizes are multiples of it, so `before` is one if `start` is.
        flat = torch.frombuffer(pages, dtype=torch.uint8)[before:].view(self.info.torch_dtype)
        return flat.reshape(self.info.shape)


def cut_short(path: Path) -> OSError:
    """Return the error that tells of a file that somebody made shorter while it was read."""
    return OSError(errno.EIO, "became shorter while it was read", str(path))


@cache
def _torch_dtypes() -> dict[str, torch.dtype]:
    import torch

    return {name: getattr(torch, torch_name) for name, (torch_name, _) in DTYPES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """Return the safetensors name of a torch element type."""
    return next(name for name, candidate in _torch_dtypes().items() if candidate == dtype)


def arithmetic_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """Return the type to compute in with values of these types: float64 if one of them is float64, else float32."""
    import torch

    return torch.float64 if torch.float64 in dtypes else torch.float32


def is_finite(tensor: torch.Tensor) -> torch.Tensor:
    """Return where a tensor holds finite numbers, as booleans of its shape."""
    # Some versions of torch have no `isfinite` for float8.
    return tensor.to(arithmetic_dtype(tensor.dtype)).isfinite()


def require_finite(where: str, values: Mapping[str, torch.Tensor], built: Mapping[str, torch.Tensor]) -> None:
    """Check that tensors hold finite numbers alone; raise CheckpointError if not, as after a training that diverged.

    Args:
        where: the file, for the message.
        values: the tensors of the file.
        built: buffers as the model's constructor fills them. They may hold infinity, as masks of attention do.

    Raises:
        CheckpointError: a tensor holds a number that is not finite.
    """
    import torch

    def as_built(name: str) -> bool:
        return name in built and torch.equal(values[name], built[name].to(values[name].dtype))

    first_bad = {
        name: tensor[~finite][0].item()
        for name, tensor in values.items()
        if not (finite := is_finite(tensor)).all() and not as_built(name)
    }
    if first_bad:
        name, value = next(iter(first_bad.items()))
        more = f" ({len(first_bad) - 1} more tensors likewise)" if len(first_bad) > 1 else ""
        raise CheckpointError(
            f"{where}: {name} holds {value}{more}, expected finite numbers; where the training diverged, take a "
            "checkpoint from before"
        )


def in_type(name: str, tensor: torch.Tensor, dtype: torch.dtype, *, remedy: str = "") -> torch.Tensor:
    """Return a tensor in the element type in which a file is to hold it.

    Args:
        name: the tensor's, for the message.
        tensor: its values.
        dtype: the type.
        remedy: how the user asks for another type; empty if there is no way.

    Raises:
        PlanError: a finite value is beyond what the type can hold.
    """
    import torch

    rounded = tensor.to(dtype)
    if tensor.dtype == dtype or not (tensor.is_floating_point() and dtype.is_floating_point):
        return rounded
    not_finite = ~is_finite(rounded)
    overflowed = not_finite & is_finite(tensor) if bool(not_finite.any()) else not_finite
    if not bool(overflowed.any()):
        return rounded
    value = float(tensor.to(arithmetic_dtype(tensor.dtype))[overflowed].abs().max())
    enough = [wide for wide in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
              if value <= torch.finfo(wide).max]  # fmt: skip
    *others, last = (str(wide).removeprefix("torch.") for wide in enough)
    wider = f"{', '.join(others)} or {last}" if others else last
    raise PlanError(
        f"{name}: found {value:.6g}, beyond {torch.finfo(dtype).max:.6g}, the largest number of "
        f"{str(dtype).removeprefix('torch.')}; {wider} would hold it{f': {remedy}' if remedy else ''}"
    )


def all_in_type(
    tensors: Mapping[str, torch.Tensor], infos: Mapping[str, TensorInfo], *, remedy: str = ""
) -> dict[str, torch.Tensor]:
    """Return each tensor in the type that `infos` has for it.

    Raises:
        PlanError: as `in_type` does, one problem for each tensor.
    """
    rounded: dict[str, torch.Tensor] = {}
    problems: list[str] = []
    for name, tensor in tensors.items():
        try:
            rounded[name] = in_type(name, tensor, infos[name].torch_dtype, remedy=remedy)
        except PlanError as error:
            problems += error.problems
    if problems:
        raise PlanError(problems)
    return rounded


def info_of(tensor: torch.Tensor | Stored) -> TensorInfo:
    """Return the shape and type that the header of a file with this tensor would tell."""
    return tensor.info if isinstance(tensor, Stored) else TensorInfo(tuple(tensor.shape), dtype_name(tensor.dtype))


def infos_of(state: Mapping[str, torch.Tensor | Stored]) -> dict[str, TensorInfo]:
    """Return the shapes and types that the header of a file with these tensors would tell."""
    return {name: info_of(tensor) for name, tensor in state.items()}
