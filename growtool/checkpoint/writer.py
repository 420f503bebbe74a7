"""A safetensors file written tensor by tensor.

The library's own writer wants every tensor in memory, orders metadata at random and leaves files readable by their
owner alone. This one writes the header first, asks for each tensor when its turn comes, gives equal bytes for equal
inputs, and lets the file appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING

from growtool.checkpoint.staging import atomic_file
from growtool.checkpoint.tensors import Stored, TensorInfo, dtype_name, file_rank

if TYPE_CHECKING:
    import torch

_PIECE = 1 << 20  # bytes; one write of a whole large tensor is several times slower on common file systems
_COPIED = 1 << 26  # bytes that the system copies at a time, so that an interrupt is heard
SYNCED = 1 << 26  # bytes that the disk is told of at a time, at least


def file_order(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Names in the order of the file: widest elements first, then by name (the order of the safetensors library)."""
    return sorted(tensors, key=lambda name: (file_rank(tensors[name].dtype), name))


def encode_header(
    tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str], order: Sequence[str] | None = None
) -> bytes:
    """The length-prefixed header: 8 bytes little-endian size, then JSON padded with spaces to a multiple of 8 bytes."""
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in order or file_order(tensors):
        info = tensors[name]
        header[name] = {
            "dtype": info.dtype, "shape": list(info.shape), "data_offsets": [offset, offset + info.nbytes]
        }  # fmt: skip
        offset += info.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_safetensors(
    path: Path,
    tensors: Mapping[str, TensorInfo],
    produce: Callable[[str], torch.Tensor] | Iterator[torch.Tensor | Stored],
    metadata: Mapping[str, str],
    order: Sequence[str] | None = None,
) -> None:
    """Write `tensors` to `path`, holding one of them in memory at a time.

    Args:
        path: replaced if it exists, once the new file is complete and on disk.
        tensors: every tensor of the file; shapes and types are known before any is computed.
        produce: gives the tensor of a name, or yields the tensors in `file_order`; or where another file holds the
            bytes of one, which the system copies where it can.
        metadata: strings for the header's `__metadata__`.
        order: of the tensors in the file, where `produce` yields them in another than `file_order`.

    Raises:
        ValueError: a produced tensor is not what `tensors` announced (a bug in the caller).
        OSError: the disk is full, the folder cannot be written or a file to copy from cannot be read; nothing is left
            behind.
    """
    with atomic_file(path) as file, _synced_meanwhile(file) as wrote:
        file.write(encode_header(tensors, metadata, order))
        for name in order or file_order(tensors):
            made = produce(name) if callable(produce) else next(produce)
            found = made.info if isinstance(made, Stored) else TensorInfo(tuple(made.shape), dtype_name(made.dtype))
            if found != tensors[name]:
                raise ValueError(f"{name}: produced {found}, announced {tensors[name]}")
            if isinstance(made, Stored):
                _copy(made, file)
            else:
                write_tensor(made, file)
            del made  # before the next one is made
            wrote()
        if not callable(produce) and next(produce, None) is not None:
            raise ValueError(f"produced more than the {len(tensors)} tensors that were announced")


def write_tensor(tensor: torch.Tensor, file: IO[bytes]) -> None:
    """Append the bytes of a tensor."""
    raw = _raw_bytes(tensor)
    for start in range(0, len(raw), _PIECE):
        file.write(raw[start : start + _PIECE])


def _copy(stored: Stored, file: IO[bytes]) -> None:
    """Append bytes of another file: by the system, without a copy in memory, or read and written where it cannot."""
    with stored.path.open("rb") as source:
        left = stored.info.nbytes - _copied_by_system(source, stored, file)
        source.seek(stored.start + stored.info.nbytes - left)
        while left:
            piece = source.read(min(left, _PIECE))
            if not piece:
                raise OSError(errno.EIO, f"{left:,} bytes are missing at its end", str(stored.path))
            left -= file.write(piece)


def _copied_by_system(source: IO[bytes], stored: Stored, file: IO[bytes]) -> int:
    """How many of the bytes the system has appended; it need not know how to, or not between these two files."""
    if not hasattr(os, "copy_file_range"):  # Linux has it
        return 0
    file.flush()
    end, done = file.tell(), 0
    with contextlib.suppress(OSError):  # one that matters comes again as the bytes are written
        while left := stored.info.nbytes - done:
            several = min(left, _COPIED)
            count = os.copy_file_range(source.fileno(), file.fileno(), several, stored.start + done, end + done)
            if not count:
                break
            done += count
    file.seek(end + done)
    return done


@contextlib.contextmanager
def _synced_meanwhile(file: IO[bytes]) -> Iterator[Callable[[], None]]:
    """Yields what is called after each write to `file`: it has the disk take what there is, and does not wait for it.

    Raises:
        OSError: the disk did not take it, as `os.fsync` tells: once by file, and so not again at the end.
    """
    told, syncing = file.tell(), list[Future[None]]()

    def wrote() -> None:
        nonlocal told
        if file.tell() - told < SYNCED or (syncing and not syncing[-1].done()):
            return
        raised()
        file.flush()
        told = file.tell()
        syncing.append(pool.submit(os.fsync, file.fileno()))

    def raised() -> None:
        while syncing:
            syncing.pop().result()

    with ThreadPoolExecutor(max_workers=1) as pool:
        yield wrote
        raised()


def _raw_bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    if tensor.numel() == 0:
        return memoryview(b"")
    # a tensor of one number is contiguous whatever its strides are, and would keep them
    flat = tensor.detach().contiguous().as_strided((tensor.numel(),), (1,))
    return flat.view(torch.uint8).numpy().data
