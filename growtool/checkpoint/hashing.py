"""The SHA-256 of files, computed once for each file in a process, ahead of its use and beside other work."""

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
# Bytes hashed at a time. hashlib runs without the interpreter's lock and needs it after each part, which stops the
# threads that run Python meanwhile; large parts stop them seldom. A multiple of the page size, as maps begin there.
PART = 1 << 26
_begun: dict[_Key, Future[str]] = {}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as it is now, in hex; raise OSError if the file cannot be read."""
    return hash_ahead([path])[0].result()


def hash_ahead(paths: Iterable[Path]) -> list[Future[str]]:
    """Begin to hash files on a thread, one after the other; return a future of the hex digest for each."""
    wanted = {_key(path): path for path in paths}
    new = {key: path for key, path in wanted.items() if key not in _begun}
    _begun.update((key, Future()) for key in new)
    digests = [_begun[key] for key in wanted]
    if new:
        # Python waits at its end for all threads but daemons, and those of a ThreadPoolExecutor are none.
        Thread(target=_hash, args=(new,), daemon=True).start()
    return digests


def _key(path: Path) -> _Key:
    """Return device, inode, size and time of change: a key that is another one once the file has changed."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _hash(files: Mapping[_Key, Path]) -> None:
    for key, path in files.items():
        try:
            _begun[key].set_result(_sha256(path))
        except Exception as error:  # `result` raises it; without it, `result` would wait for ever
            _begun.pop(key).set_exception(error)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for start in range(0, size, PART):
            try:
                part = mmap.mmap(file.fileno(), min(PART, size - start), access=mmap.ACCESS_READ, offset=start)
            except ValueError as error:  # how Python tells of a map beyond the end of a file
                raise cut_short(path) from error
            with part:
                digest.update(part)
    return digest.hexdigest()
