"""Memory of the process: large pages, blocks that go back to the system once they are free, few searches for cycles."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator

_LARGE = 1 << 21  # bytes; what is computed a part at a time is smaller, and its memory is used again
_KEPT = 1 << 24  # bytes; a few parts, which the system would else clear anew for each of them
_OF_GLIBC = 1 << 25  # bytes; the largest threshold that glibc comes to by itself; it then trims at the double of it
_NEW_OBJECTS = 1_000_000  # between two searches; torch and transformers alone are as many, and all of them stay
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def prepare_process() -> None:
    """Set what concerns memory in a process that is growtool's own, before it imports torch."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks for large pages, whose first use costs less
    gc.set_threshold(_NEW_OBJECTS)


@contextlib.contextmanager
def given_back() -> Iterator[None]:
    """While open, give the memory of a large tensor back to the system as it is freed, where the C library is glibc.

    By itself glibc keeps it for later blocks; as tensors of other sizes do not fit into it, that comes to several times
    the memory in use. A threshold that is set once is never adapted again, so leaving sets what glibc comes to by
    itself with large tensors.
    """
    _set_limits(_LARGE, _KEPT)
    try:
        yield
    finally:
        _set_limits(_OF_GLIBC, 2 * _OF_GLIBC)


def _set_limits(alone: int, kept: int) -> None:
    """Set from how many bytes on a block is mapped alone, and how many free bytes of other blocks are kept."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            library = ctypes.CDLL(None)
            library.mallopt(_MMAP_THRESHOLD, alone)
            library.mallopt(_TRIM_THRESHOLD, kept)
