"""Processes for tests: born of a server that has imported torch once and used nothing of it, never of the test itself.

A process that is forked from one that has computed gradients inherits threads that are not there, and CUDA forbids it.
What a process is to do must therefore be importable: a function of a module, or a `partial` of one.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable

from torch.distributed import TCPStore

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["tests", "torch", "timm", "growtool.cli.app", "growtool.finetune.run", "growtool.growing"]
)
_LONGEST = 120  # seconds that any of them may take


def in_processes(count: int, act: Callable[[int], object]) -> None:
    """Call `act(rank)` in `count` processes that find each other as torchrun's do, by a store that outlives groups."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    children = [FORKS.Process(target=_as_rank, args=(rank, count, store.port, act)) for rank in range(count)]
    for child in children:
        child.start()
    try:
        for child in children:
            child.join(_LONGEST)
    finally:
        for child in children:
            child.kill()  # one that waits for another that has failed
    assert [child.exitcode for child in children] == [0] * count


def _as_rank(rank: int, count: int, port: int, act: Callable[[int], object]) -> None:
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
    os.environ.update({name: str(value) for name, value in told.items()})
    act(rank)


def killed(act: Callable[[], object]) -> None:
    """Call `act` in a process that SIGKILL ends."""
    child = FORKS.Process(target=act)
    child.start()
    child.join(_LONGEST)
    assert child.exitcode == -signal.SIGKILL


def kill_this() -> None:
    """SIGKILL to the process that calls it."""
    os.kill(os.getpid(), signal.SIGKILL)
