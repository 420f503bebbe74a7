"""Seconds by phase of one growth: while it runs, the time that functions of growtool take is added up.

What a function waits for another one of these counts for that one alone. Phases run beside each other on several
threads, so that together they may take longer than the whole. Pages of the source are read as they are used, whatever
the phase: `read` is what opening them takes, and reading small tensors.
"""

import contextlib
import functools
import importlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

PHASES = ("resolve", "read", "compute", "hash", "write", "prove")
_WHERE = (
    ("resolve", "growtool.recipe", "resolve"),
    ("read", "growtool.checkpoint.reader", "Checkpoint.read_stored"),
    ("compute", "growtool.growing.execute", "make_tensor"),
    ("compute", "growtool.growing.execute", "_coefficients"),
    ("hash", "growtool.checkpoint.hashing", "_hash"),
    ("write", "growtool.checkpoint.writer", "write_tensor"),
    ("write", "growtool.checkpoint.writer", "_copy"),
    ("write", "os", "fsync"),
    ("prove", "growtool.growing.grow", "prove"),
)


@contextlib.contextmanager
def recorded() -> Iterator[dict[str, float]]:
    """Seconds of the clock of each phase, complete once this is left."""
    found: dict[str, float] = defaultdict(float)
    lock, nested = threading.Lock(), threading.local()

    def timed(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            outer, nested.seconds = getattr(nested, "seconds", 0.0), 0.0
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                whole = time.perf_counter() - start
                with lock:
                    found[phase] += whole - nested.seconds
                nested.seconds = outer + whole

        return run

    with contextlib.ExitStack() as patches:
        for phase, module, path in _WHERE:
            *owners, name = path.split(".")
            owner = functools.reduce(getattr, owners, importlib.import_module(module))
            patches.enter_context(patch.object(owner, name, timed(phase, getattr(owner, name))))
        yield found
