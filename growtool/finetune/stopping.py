"""SIGTERM, SIGHUP, SIGUSR1 and the first Ctrl-C as a request to stop: finish the update, save, exit."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = tuple(
    number
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1")
    if (number := getattr(signal, name, None))  # Windows has only the first
)
"""Signals besides Ctrl-C that ask a process to end: from `kill`, a terminal that closes, and batch systems."""
_SIGNALS = (*ENDING, signal.SIGINT)


class StopRequest:
    """A request to stop, made by a signal.

    Args:
        patient: whether a second Ctrl-C only repeats the request; otherwise it raises KeyboardInterrupt.

    Attributes:
        signal: number of the signal that made the request; None if there is no request.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.patient = patient
        self.signal: int | None = None

    @property
    def asked(self) -> bool:
        """Whether to stop after the current update."""
        return self.signal is not None

    def ask(self, number: int, frame: FrameType | None = None) -> None:
        """Make the request; this is the handler of the signals."""
        if number == signal.SIGINT and not self.patient:
            if self.signal == signal.SIGINT:
                raise KeyboardInterrupt
            # Not by `sys.stderr`: its buffer is not reentrant, and the signal may have come in the middle of a write.
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), b"\nstopping after this update; Ctrl-C again stops at once\n")
        self.signal = number


class Stopped(Exception):
    """Raised by a run that was asked to stop, once it is saved.

    Attributes:
        step: updates done.
        checkpoint: path of the checkpoint that was saved.
        request: what asked it to stop.
    """

    def __init__(self, step: int, checkpoint: str, request: StopRequest, *, line: str) -> None:
        super().__init__(f"stopped after update {step}, saved as {checkpoint}; continue with\n{line}")
        self.step, self.checkpoint, self.request = step, checkpoint, request

    @property
    def code(self) -> int:
        """Exit code for the process: 128 + the number of the signal, as shells report it."""
        return 128 + (self.request.signal or signal.SIGTERM)


@contextmanager
def continuing_with(line: str) -> Iterator[None]:
    """Let a run that is stopped in the block name the command `line` to continue, for the schedule it is a part of."""
    try:
        yield
    except Stopped as stopped:
        raise Stopped(stopped.step, stopped.checkpoint, stopped.request, line=line) from None


@contextmanager
def stop_on_signals(*, patient: bool = False) -> Iterator[StopRequest]:
    """Turn signals into a request to stop for the duration of the block.

    Blocks may be nested, such as a run in a schedule: a request to one of them is a request to the other as well.
    Signals that are ignored stay ignored: `nohup` ignores SIGHUP, and shells ignore Ctrl-C in the background. In other
    threads than the main one, which cannot handle signals, nothing is done.

    Args:
        patient: see `StopRequest`; for torchrun, which forwards the Ctrl-C that its processes got from the terminal.
    """
    request = StopRequest(patient=patient)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    taken = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in taken:
        signal.signal(number, request.ask)
    outer = getattr(before[signal.SIGTERM], "__self__", None)
    if isinstance(outer, StopRequest):
        request.signal = outer.signal
    try:
        yield request
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
        if request.signal is not None and isinstance(outer, StopRequest):
            outer.signal = request.signal


def leave_interrupts(worker: int) -> None:
    """Ignore the signals that a terminal or batch system sends to all processes, in a worker that reads images.

    The main process answers them. SIGTERM is not ignored, since torch ends its workers with it.
    """
    for number in _SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
