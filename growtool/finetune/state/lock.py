"""One process at a time writes into a folder.

The lock is the operating system's and goes with its process, however that ends, so that none is ever left behind. It is
of the POSIX kind, which NFS knows and which processes that were forked to read images do not inherit. (`filelock` takes
one of the BSD kind, which they inherit, and does not tell who holds it.)
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from growtool.checkpoint.staging import made
from growtool.errors import PlanError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_HELD = (errno.EACCES, errno.EAGAIN)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold `folder` while this is open; it is made where it is not there, and goes again if nothing was put into it.

    Yields:
        Whether there is a lock; some systems and file systems know none.

    Raises:
        PlanError: another process holds it, or there is a file of this name.
    """
    if folder.exists() and not folder.is_dir():
        raise PlanError(f"--output {folder}: found a file, expected to write a folder; choose another place")
    with made(folder):
        path = folder / LOCK
        descriptor = _acquire(path)
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                with suppress(FileNotFoundError):
                    path.unlink()
                os.close(descriptor)


def _acquire(path: Path) -> int | None:
    """The open file that is locked; closing it, or any other descriptor of it, gives the lock back."""
    if fcntl is None:
        return None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return descriptor
        except OSError as error:
            holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
            os.close(descriptor)
            if error.errno not in _HELD:
                path.unlink()
                return None
            raise PlanError(
                f"--output {path.parent}: {holder} is writing there, expected to be the only one; wait for it, "
                "stop it, or choose another place"
            ) from error
        os.close(descriptor)  # who held it has taken it away in between


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
