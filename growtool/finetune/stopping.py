"""SIGTERM, SIGHUP, SIGUSR1 and the first Ctrl-C as a request: finish the update, save, leave."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = tuple(
    found
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1")
    if (found := getattr(signal, name, None))  # Windows has one
)
"""What ends a process that is not asked by Ctrl-C: `kill`, a terminal that closes, a batch system's warning."""
_SIGNALS = (*ENDING, signal.SIGINT)


class StopRequest:
    """Whether a signal asked the run to stop.

    Args:
        patient: take a second Ctrl-C as one request more. Else it raises KeyboardInterrupt.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.patient = patient
        self.signal: int | None = None

    @property
    def asked(self) -> bool:
        """Stop after the update that is under way."""
        return self.signal is not None

    def ask(self, number: int, frame: FrameType | None = None) -> None:
        """The handler of a signal."""
        if number == signal.SIGINT and not self.patient:
            if self.signal == signal.SIGINT:
                raise KeyboardInterrupt
            if sys.stderr.isatty():  # by the descriptor: the signal may have come in the middle of another write
                os.write(sys.stderr.fileno(), b"\nstopping after this update; Ctrl-C again stops at once\n")
        self.signal = number


class Stopped(Exception):
    """A run was asked to stop and has saved.

    Attributes:
        step: updates done.
        checkpoint: what it saved.
        request: what asked.
    """

    def __init__(self, step: int, checkpoint: str, request: StopRequest, *, line: str) -> None:
        super().__init__(f"stopped after update {step}, saved as {checkpoint}; continue with\n{line}")
        self.step, self.checkpoint, self.request = step, checkpoint, request

    @property
    def code(self) -> int:
        """What to leave the process with, as a shell reports an end by the signal that asked."""
        return 128 + (self.request.signal or signal.SIGTERM)


@contextmanager
def continuing_with(line: str) -> Iterator[None]:
    """While open, whoever stops a run is told the command by which what the run is a part of goes on."""
    try:
        yield
    except Stopped as stopped:
        raise Stopped(stopped.step, stopped.checkpoint, stopped.request, line=line) from None


@contextmanager
def stop_on_signals(*, patient: bool = False) -> Iterator[StopRequest]:
    """While open these signals only ask, and what was asked of a block around this one is asked of this one, too,
    and the other way round.

    Signals belong to the main thread; elsewhere nothing is installed, nor for a signal that is ignored, as `nohup` has
    SIGHUP ignored and a shell Ctrl-C in the background.

    Args:
        patient: see `StopRequest`; for torchrun, which hands on the Ctrl-C that every process has had already.
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
    """For a process that reads images: what the whole group receives is the main process's to answer.

    SIGTERM is left to torch, which ends its workers by it.
    """
    for number in _SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
