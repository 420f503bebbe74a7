"""Outputs that appear whole: put together beside their place, and renamed once everything in them is on disk.

What is not complete yet has a name that tells whose it is, so that the next run clears away what a killed one left. The
operating system says whether a process still runs, where its number was given: on this machine, in this container. What
another machine left on a shared disk stays, since nothing here tells whether it is still being written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO

TEMPORARY, ASIDE = ".tmp", ".old"  # what is being written or removed; what steps aside for a new output


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file beside `path` that takes its name only once it is complete and synced; its mode follows the umask."""
    try:
        clear_leftovers(path.parent, path.name)
        descriptor, temporary = tempfile.mkstemp(prefix=prefix_for(path.name), suffix=TEMPORARY, dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # the hidden name means nothing to whom the message is for
        raise
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~current_umask())  # noqa: PTH101
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def current_umask() -> int:
    """The mode bits a new file or folder must not have; the system tells them only while they are set anew."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out`, gone on leaving unless renamed; so are parents that were created in vain.

    What earlier processes left there when they were killed goes first.
    """
    place = out.resolve()
    with made(place.parent) as parent:
        clear_leftovers(parent, place.name)
        try:
            folder = Path(tempfile.mkdtemp(prefix=prefix_for(place.name), suffix=TEMPORARY, dir=parent))
        except OSError as error:
            error.filename = str(out)  # the hidden name means nothing to whom the message is for
            raise
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def made(folder: Path) -> Iterator[Path]:
    """The folder, created with its parents where they are missing; those created in vain go again on leaving."""
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        for empty in created:
            with contextlib.suppress(OSError):
                empty.rmdir()


def take_place(folder: Path, out: Path) -> None:
    """Rename `folder` to `out`; an older output steps aside first and comes back should the renaming fail."""
    aside = folder.with_suffix(ASIDE)
    if out.exists():
        out.rename(aside)
    try:
        folder.rename(out)
    except OSError:
        if aside.exists():
            aside.rename(out)
        raise
    sync_folder(out.parent)
    if aside.exists():
        shutil.rmtree(aside)


def write_text(path: Path, text: str) -> None:
    """Write `path` whole or not at all."""
    with atomic_file(path) as file:
        file.write(text.encode())


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable; where folders cannot be opened (Windows) the system sees to it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def prefix_for(name: str) -> str:
    """What the name of something hidden beside `name` begins with, while this process works on it."""
    return f".{name}.{_here()}-{os.getpid()}-"


def clear_leftovers(folder: Path, name: str) -> None:
    """Remove what processes that are gone left in `folder` of their work on `name`.

    An output that had stepped aside for one that never came takes its name back.
    """
    pattern = re.compile(rf"{re.escape(f'.{name}.{_here()}-')}(\d+)-[^.]*({TEMPORARY}|{ASIDE})")
    for path in folder.iterdir():
        found = pattern.fullmatch(path.name)
        if found is None or _runs(int(found[1])):
            continue
        with contextlib.suppress(OSError):  # another user's, or another process was faster
            if found[2] == ASIDE and not (folder / name).exists():
                path.rename(folder / name)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


@cache
def _here() -> str:
    """Eight digits for where process numbers are counted: containers on one machine count on their own."""
    try:
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 (the link leads nowhere)
    except OSError:  # not Linux
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


def _runs(process: int) -> bool:
    if os.name != "posix":  # asking would end the process there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
