"""Memory: taken from the system in large pages, given back as soon as it is free, and rarely searched for cycles."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator

_LARGE = 1 << 21  # bytes; what is computed a part at a time is smaller, and its memory is used again
_OF_GLIBC = 1 << 25  # bytes; what glibc's own limit comes to where tensors are large
_NEW_OBJECTS = 1_000_000  # between two searches; torch and transformers alone are as many, and all of them stay
_MMAP_THRESHOLD = -3  # glibc's malloc.h


def prepare_process() -> None:
    """Settings of a process that is growtool's own, before it imports torch."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks for large pages, whose first use costs less
    gc.set_threshold(_NEW_OBJECTS)


@contextlib.contextmanager
def given_back() -> Iterator[None]:
    """While open, the memory of a large tensor goes back to the system with it, where the C library is glibc.

    It would else be kept for the next one, of which some do not fit: several times what is in use.
    """
    _set_limit(_LARGE)
    try:
        yield
    finally:
        _set_limit(_OF_GLIBC)


def _set_limit(nbytes: int) -> None:
    """Blocks from this size on are mapped one by one."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, nbytes)
