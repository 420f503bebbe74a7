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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING

from growtool.checkpoint.staging import atomic_file
from growtool.checkpoint.tensors import DTYPES, Stored, TensorInfo, info_of

if TYPE_CHECKING:
    import torch

_PIECE = 1 << 20  # bytes of a write; one of a whole large tensor is several times slower on common file systems
_COPIED = 1 << 26  # bytes that the system copies in one call; between calls Python hears an interrupt
SYNCED = 1 << 26  # bytes that are written, at least, before the disk is asked to take them


def file_order(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Return the names in the order of the file: widest elements first, then by name, as the safetensors library."""
    ranks = {dtype: rank for rank, dtype in enumerate(DTYPES)}
    return sorted(tensors, key=lambda name: (ranks[tensors[name].dtype], name))


def encode_header(
    tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str], order: Sequence[str] | None = None
) -> bytes:
    """Return the header: its length in 8 bytes, little-endian, then JSON padded with spaces to a multiple of 8 bytes.

    Args:
        tensors: shape and type of every tensor.
        metadata: strings for `__metadata__`.
        order: the names in the order of the data; None is `file_order`.
    """
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
    return len(text).to_bytes(8, "little") + text


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
        produce: returns the tensor of a name, or yields the tensors in the order of the file. In place of a tensor it
            may yield a `Stored`: the bytes are then copied from that file, by the system if it can.
        metadata: strings for the header's `__metadata__`.
        order: names in the order of the file; None is `file_order`.

    Raises:
        ValueError: a produced tensor is not what `tensors` announced (a bug in the caller).
        OSError: the disk is full, the folder cannot be written or a file to copy from cannot be read; nothing is left
            behind.
    """
    with atomic_file(path) as file, _synced_meanwhile(file) as wrote:
        file.write(encode_header(tensors, metadata, order))
        for name in order or file_order(tensors):
            made = produce(name) if callable(produce) else next(produce)
            if info_of(made) != tensors[name]:
                raise ValueError(f"{name}: produced {info_of(made)}, announced {tensors[name]}")
            if isinstance(made, Stored):
                _copy(made, file)
            else:
                write_tensor(made, file)
            del made  # or it would stay in memory while the next tensor is made
            wrote()
        if not callable(produce) and next(produce, None) is not None:
            raise ValueError(f"produced more than the {len(tensors)} tensors that were announced")


def write_tensor(tensor: torch.Tensor, file: IO[bytes]) -> None:
    """Append the bytes of a tensor to a file."""
    raw = _raw_bytes(tensor)
    for start in range(0, len(raw), _PIECE):
        file.write(raw[start : start + _PIECE])


def _copy(stored: Stored, file: IO[bytes]) -> None:
    """Append a tensor of another file: by the system, without a copy in memory; the rest is read and written."""
    with stored.path.open("rb") as source:
        left = stored.info.nbytes - _copied_by_system(source, stored, file)
        source.seek(stored.start + stored.info.nbytes - left)
        while left:
            piece = source.read(min(left, _PIECE))
            if not piece:
                raise OSError(errno.EIO, f"{left:,} bytes are missing at its end", str(stored.path))
            left -= file.write(piece)


def _copied_by_system(source: IO[bytes], stored: Stored, file: IO[bytes]) -> int:
    """Let the system append the bytes of a tensor; return how many it has, which may be none."""
    if not hasattr(os, "copy_file_range"):  # Linux has it, macOS and Windows do not
        return 0
    file.flush()  # the system knows nothing of Python's buffer
    end, done = file.tell(), 0
    # The call fails for some file systems, and for two different ones. A full disk fails once more as `_copy` writes.
    with contextlib.suppress(OSError):
        while left := stored.info.nbytes - done:
            several = min(left, _COPIED)
            count = os.copy_file_range(source.fileno(), file.fileno(), several, stored.start + done, end + done)
            if not count:  # the source ends here, or its file system copies nothing without an error
                break
            done += count
    file.seek(end + done)  # a call with offsets leaves the positions of both files as they are
    return done


@contextlib.contextmanager
def _synced_meanwhile(file: IO[bytes]) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each write to `file`, which syncs it on a thread while the next tensor is made.

    Without it all bytes wait for the one `fsync` at the end, and the process with them.

    Raises:
        OSError: the disk did not take some bytes.
    """
    synced_to, syncing = file.tell(), list[Future[None]]()

    def wrote() -> None:
        nonlocal synced_to
        if file.tell() - synced_to < SYNCED or (syncing and not syncing[-1].done()):
            return
        raise_failures()
        file.flush()
        synced_to = file.tell()
        syncing.append(pool.submit(os.fsync, file.fileno()))

    def raise_failures() -> None:
        # Linux tells an error of write-back to one fsync of an open file alone. The fsync at the end would succeed, so
        # that every result has to be asked for.
        while syncing:
            syncing.pop().result()

    with ThreadPoolExecutor(max_workers=1) as pool:
        yield wrote
        raise_failures()


def _raw_bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    if tensor.numel() == 0:
        return memoryview(b"")
    # A tensor of one number counts as contiguous whatever its strides are, keeps them through `contiguous` and
    # `reshape`, and `view` of another type refuses them.
    flat = tensor.detach().contiguous().as_strided((tensor.numel(),), (1,))
    return flat.view(torch.uint8).numpy().data
