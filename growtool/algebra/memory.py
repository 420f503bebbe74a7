"""Memory: taken from the system in large pages, given back as soon as it is free, and rarely searched for cycles."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator

_LARGE = 1 << 21  # bytes; what is computed a part at a time is smaller, and its memory is used again
_KEPT = 1 << 24  # bytes; a few parts, which would else be cleared by the system for each of them anew
_OF_GLIBC = 1 << 25  # bytes; what glibc's own limit comes to where tensors are large, of which it keeps the double
_NEW_OBJECTS = 1_000_000  # between two searches; torch and transformers alone are as many, and all of them stay
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def prepare_process() -> None:
    """Settings of a process that is growtool's own, before it imports torch."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks for large pages, whose first use costs less
    gc.set_threshold(_NEW_OBJECTS)


@contextlib.contextmanager
def given_back() -> Iterator[None]:
    """While open, the memory of a large tensor goes back to the system with it, where the C library is glibc.

    It would else be kept for the next one, of which some do not fit: several times what is in use.
    """
    _set_limits(_LARGE, _KEPT)
    try:
        yield
    finally:
        _set_limits(_OF_GLIBC, 2 * _OF_GLIBC)


def _set_limits(alone: int, kept: int) -> None:
    """Blocks from a size on are mapped one by one; of the others, so much stays once they are free."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            library = ctypes.CDLL(None)
            library.mallopt(_MMAP_THRESHOLD, alone)
            library.mallopt(_TRIM_THRESHOLD, kept)
