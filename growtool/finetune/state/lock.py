"""A lock on a run's folder, so that only one process writes into it.

The operating system holds the lock and releases it when the process ends, however it ends, so no stale lock is left
behind. It is a POSIX lock (`lockf`): NFS supports these, and child processes do not inherit them, so image workers that
outlive a killed run do not keep its folder locked. (The package `filelock` takes BSD locks (`flock`), which children
inherit, and its lock file does not say who holds it.)
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from growtool.checkpoint.staging import created_folder
from growtool.errors import PlanError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_HELD = (errno.EACCES, errno.EAGAIN)  # what lockf raises if another process has the lock; POSIX allows either


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of `folder` until the block ends.

    A folder that is missing is created, and removed again at the end if it is still empty.

    Yields:
        Whether the lock is held; False on systems and file systems without locks.

    Raises:
        PlanError: another process holds the lock, or `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise PlanError(f"--output {folder}: found a file, expected to write a folder; choose another place")
    with created_folder(folder):
        path = folder / LOCK
        descriptor = _acquire(path)
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                # Removed before it is unlocked, so that nobody can lock a file that is about to go.
                with suppress(FileNotFoundError):
                    path.unlink()
                os.close(descriptor)


def _acquire(path: Path) -> int | None:
    """Return the descriptor of the locked file, or None where there are no locks.

    POSIX releases the lock as soon as this process closes any descriptor of the file, not only this one.
    """
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
            if error.errno not in _HELD:  # the file system has no locks
                path.unlink()
                return None
            raise PlanError(
                f"--output {path.parent}: {holder} is writing there, expected to be the only one; wait for it, "
                "stop it, or choose another place"
            ) from error
        # The previous holder removed the file between our `open` and `lockf`: nobody else would see this lock.
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
