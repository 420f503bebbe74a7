"""The header of a safetensors file: parsed, and checked against the size of the data behind it.

The file begins with 8 bytes, the length of the header as a little-endian integer. The header is JSON:
`{"__metadata__": {...}, NAME: {"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}, ...}`. The numbers of all
tensors follow without a gap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from growtool.checkpoint.foreign.remedy import PICKLE_ENDINGS, unpickling
from growtool.checkpoint.tensors import DTYPES, TensorInfo
from growtool.errors import CheckpointError

_MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors library
_COPY_AGAIN = "copy or download the file again"

_Entry = tuple[TensorInfo, int, int]
"""Shape and type of a tensor, and where its bytes begin and end, counted from the first byte after the header."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a safetensors file tells.

    Attributes:
        tensors: shape and type of every tensor.
        metadata: the strings.
        starts: the first byte of each tensor, counted from the beginning of the file; {} where it is not asked for.
    """

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    starts: Mapping[str, int] = field(default_factory=dict)


def read_header(path: Path) -> Header:
    """Return the header of a safetensors file.

    Raises:
        CheckpointError: the file is not a complete safetensors file.
    """
    text = _header_text(path)
    try:
        content = json.loads(text)
        held = content.pop("__metadata__", None)
        metadata = {} if held is None else {str(key): str(value) for key, value in held.items()}
        for value in metadata.values():
            value.encode()  # JSON can hold one half of a surrogate pair, which no file or terminal takes as text
        entries = {name: _entry(name, entry) for name, entry in content.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        finding = "nested too deeply" if isinstance(error, RecursionError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path}: damaged safetensors header ({finding}); {_COPY_AGAIN}") from error
    tensors = {name: info for name, (info, _, _) in entries.items()}
    require_known_types(str(path), tensors)
    data = 8 + len(text)  # the first byte after the header
    _check_layout(path, entries, data)
    return Header(tensors, metadata, {name: data + begin for name, (_, begin, _) in entries.items()})


def require_known_types(where: str, tensors: Mapping[str, TensorInfo]) -> None:
    """Check that growtool knows the type of every tensor; raise CheckpointError if not, which begins with `where`."""
    unknown = sorted({info.dtype for info in tensors.values() if info.dtype not in DTYPES})
    if unknown:
        raise CheckpointError(
            f"{where}: found the element types {', '.join(unknown)}, expected {', '.join(DTYPES)}; "
            "convert the tensors to one of these"
        )


def _entry(name: str, entry: Any) -> _Entry:
    """Return what a header says of one tensor.

    Raises:
        ValueError, KeyError, TypeError: the entry is not what the format asks for.
    """
    name.encode()  # a UnicodeEncodeError is a ValueError
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not isinstance(shape, list):
        raise TypeError(f"{name}: found dtype {dtype!r} and shape {shape!r}, expected a string and a list")
    dtype.encode()
    if not all(type(number) is int for number in (*shape, begin, end)):  # isinstance would take booleans, too
        raise TypeError(f"{name}: found shape {shape} and offsets {[begin, end]}, expected whole numbers")
    return TensorInfo(tuple(shape), dtype), begin, end


def _header_text(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(9)  # the length, and the brace that tells a header from the bytes of another format
        length = int.from_bytes(prefix[:8], "little")
        file.seek(8)
        text = file.read(length) if length <= _MAX_HEADER else b""
    if size == 0:
        raise CheckpointError(f"{path}: the file is empty, expected safetensors data; {_COPY_AGAIN}")
    if not prefix[8:].startswith(b"{"):
        raise CheckpointError(f"{path}: not a safetensors file: {_describe_foreign(path, prefix[:8])}")
    if length > _MAX_HEADER:
        raise CheckpointError(
            f"{path}: damaged: found a header of {length} bytes, expected at most {_MAX_HEADER}; {_COPY_AGAIN}"
        )
    if len(text) < length:
        raise CheckpointError(f"{path}: truncated: found {size} bytes, expected a header of {length}; {_COPY_AGAIN}")
    return text


def _check_layout(path: Path, entries: Mapping[str, _Entry], data: int) -> None:
    """Check that the bytes from `data` on fill the file to its end, each tensor with those of its shape and type.

    Raises:
        CheckpointError: it does not; one problem for each tensor that is amiss.
    """
    problems, position = [], 0
    for name, (info, begin, end) in sorted(entries.items(), key=lambda item: item[1][1:]):
        finding = f"{path}: {name}: found {end - begin} bytes for {list(info.shape)} of {info.dtype}"
        if min(info.shape, default=0) < 0:
            problems.append(f"{finding}, expected a shape without negative sizes; {_COPY_AGAIN}")
        elif end - begin != info.nbytes:
            problems.append(f"{finding}, expected {info.nbytes}; {_COPY_AGAIN}")
        elif begin != position:
            state = "overlaps the tensor before it" if begin < position else "leaves a hole before it"
            problems.append(f"{path}: {name}: {state}: found offset {begin}, expected {position}; {_COPY_AGAIN}")
        position = end
    if problems:
        raise CheckpointError(problems)
    size, expected = path.stat().st_size, data + position
    if size != expected:
        state = "truncated" if size < expected else "trailing bytes"
        raise CheckpointError(f"{path}: {state}: found {size} bytes, expected {expected}; {_COPY_AGAIN}")


def _describe_foreign(path: Path, prefix: bytes) -> str:
    if prefix.startswith((b"\x80", b"PK\x03\x04")) or path.suffix in PICKLE_ENDINGS:
        return f"found a PyTorch pickle, expected safetensors; {unpickling(path)}"
    return f"found the bytes {prefix!r}, expected a length and a JSON header; convert the file to safetensors"
