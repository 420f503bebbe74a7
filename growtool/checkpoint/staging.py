"""Outputs that appear whole or not at all: written under a hidden name, synced, and renamed to their own.

A hidden name is `.NAME.HERE-PID-RANDOM.tmp`. HERE stands for the machine and the container, PID is the process that
writes. The next run that writes NAME removes what processes that are gone have left. Files of another machine on a
shared disk stay, since nothing tells here whether its processes still run.
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

TEMPORARY, ASIDE = ".tmp", ".old"  # endings of outputs that are being written, and of old ones that stepped aside


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write that becomes `path` once it is complete and synced; its mode follows the umask.

    Raises:
        OSError: the folder cannot be written, or the disk does not take the bytes; nothing is left behind.
    """
    try:
        clear_leftovers(path.parent, path.name)
        descriptor, temporary = tempfile.mkstemp(prefix=prefix_for(path.name), suffix=TEMPORARY, dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # the hidden name means nothing to the user
        raise
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # otherwise the name may lead to an empty file after a crash
        os.chmod(temporary, 0o666 & ~current_umask())  # noqa: PTH101 (mkstemp lets the owner alone read)
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:  # an interrupt, too, leaves nothing
        Path(temporary).unlink(missing_ok=True)
        raise


def current_umask() -> int:
    """Return the mode bits that a new file or folder must not have."""
    mask = os.umask(0)  # POSIX has no call that only reads the mask
    os.umask(mask)
    return mask


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `out`; on leaving it is removed unless it was renamed.

    Missing parents are created, and removed again if nothing appeared in them. Leftovers of killed processes for `out`
    are cleared first.
    """
    place = out.resolve()  # through a link, so that its target is replaced and the link stays
    with created_folder(place.parent) as parent:
        clear_leftovers(parent, place.name)
        try:
            folder = Path(tempfile.mkdtemp(prefix=prefix_for(place.name), suffix=TEMPORARY, dir=parent))
        except OSError as error:
            error.filename = str(out)  # the hidden name means nothing to the user
            raise
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def created_folder(folder: Path) -> Iterator[Path]:
    """Create a folder and its missing parents, and yield it; on leaving remove those of them that are empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        for path in missing:  # from the inside out
            with contextlib.suppress(OSError):  # rmdir refuses a folder that is not empty
                path.rmdir()


def take_place(folder: Path, out: Path) -> None:
    """Rename `folder` to `out`; an older output steps aside first, and comes back if the renaming fails.

    Raises:
        OSError: the renaming failed.
    """
    # A folder with something in it cannot be renamed over, so for a moment there is no `out`. If the process is killed
    # then, `clear_leftovers` of the next run gives the older output its name back.
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
    """Write a text as UTF-8 to `path`, whole or not at all."""
    with atomic_file(path) as file:
        file.write(text.encode())


def sync_folder(folder: Path) -> None:
    """Write the names in `folder` to disk: syncing a file does not sync its entry in the folder."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders, and keeps their entries itself
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def prefix_for(name: str) -> str:
    """Return what the hidden name of a file or folder begins with, while this process writes `name`."""
    return f".{name}.{_here()}-{os.getpid()}-"


def clear_leftovers(folder: Path, name: str) -> None:
    """Remove the hidden files and folders in `folder` that processes which are gone left of their work on `name`.

    An output that had stepped aside for a new one which never came takes its name back.
    """
    pattern = re.compile(rf"{re.escape(f'.{name}.{_here()}-')}(\d+)-[^.]*({TEMPORARY}|{ASIDE})")
    for path in folder.iterdir():
        hidden = pattern.fullmatch(path.name)
        if hidden is None or _runs(int(hidden[1])):
            continue
        with contextlib.suppress(OSError):  # it is another user's, or another process was faster
            if hidden[2] == ASIDE and not (folder / name).exists():
                path.rename(folder / name)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


@cache
def _here() -> str:
    """Return eight hex digits for the place where process numbers are counted: each container counts its own."""
    try:
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 (the link leads nowhere)
    except OSError:  # not Linux
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


def _runs(process: int) -> bool:
    """Return whether a process runs, or may run, on this machine."""
    if os.name != "posix":  # os.kill of Windows ends the process whatever the signal
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's, and so it runs
        return True
    return True
