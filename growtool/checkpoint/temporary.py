"""Names for what is not complete yet. They tell whose it is, so that the next run clears away what a killed one left.

The operating system says whether a process still runs, where its number was given: on this machine, in this container.
What another machine left on a shared disk stays, since nothing here tells whether it is still being written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
from functools import cache
from pathlib import Path

TEMPORARY, ASIDE = ".tmp", ".old"  # what is being written or removed; what steps aside for a new output


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
