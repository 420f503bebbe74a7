"""SIGTERM as a request: finish the update, save, leave."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """Whether a signal asked the run to stop."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, *_: object) -> None:
        """Stop after the update that is under way."""
        self.asked = True


class Stopped(Exception):
    """A run was asked to stop, has saved, and can be resumed."""

    def __init__(self, step: int, checkpoint: str) -> None:
        super().__init__(f"stopped after update {step}, saved as {checkpoint}; continue with --resume auto")


@contextmanager
def stop_on_sigterm() -> Iterator[StopRequest]:
    """While open SIGTERM only asks, and what was asked within another such block is asked of that one, too.

    Signals belong to the main thread; elsewhere nothing is installed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = signal.signal(signal.SIGTERM, request.ask)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
        outer = getattr(before, "__self__", None)
        if request.asked and isinstance(outer, StopRequest):
            outer.ask()
