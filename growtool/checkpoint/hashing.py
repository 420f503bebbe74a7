"""The SHA-256 of files: of each once in a process, and beside other work where it is known that somebody will ask."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

from growtool.checkpoint.tensors import cut_short

_Key = tuple[int, int, int, int]
PART = 1 << 26  # bytes hashed at a time: whoever runs Python meanwhile is asked for its turn after each
_begun: dict[_Key, Future[str]] = {}


def sha256_of(path: Path) -> str:
    """Hex digest of a file as it is now. Raises OSError where it cannot be read."""
    return hash_ahead([path])[0].result()


def hash_ahead(paths: Iterable[Path]) -> list[Future[str]]:
    """Begin to read files, one after the other; a process that ends does not wait for it."""
    wanted = {_key(path): path for path in paths}
    new = {key: path for key, path in wanted.items() if key not in _begun}
    _begun.update((key, Future()) for key in new)
    found = [_begun[key] for key in wanted]
    if new:
        Thread(target=_hash, args=(new,), daemon=True).start()
    return found


def _key(path: Path) -> _Key:
    """What changes with the content of a file."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _hash(files: Mapping[_Key, Path]) -> None:
    for key, path in files.items():
        try:
            _begun[key].set_result(_sha256(path))
        except Exception as error:  # whoever asks gets it, and would else wait for ever
            _begun.pop(key).set_exception(error)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for start in range(0, size, PART):
            try:
                part = mmap.mmap(file.fileno(), min(PART, size - start), access=mmap.ACCESS_READ, offset=start)
            except ValueError as error:  # how Python tells of a map beyond the end
                raise cut_short(path) from error
            with part:
                digest.update(part)
    return digest.hexdigest()
