"""A command in a fork of this process, which has imported everything once; it never trains or runs a model itself."""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from PIL import Image

import growtool

for _module in pkgutil.walk_packages(growtool.__path__, "growtool."):
    if not _module.name.endswith("__main__"):
        importlib.import_module(_module.name)
for _name in ("timm.optim", "timm.loss", "timm.scheduler", "rich.table", "rich.progress", "torch.utils.data"):
    importlib.import_module(_name)
Image.init()
gc.collect()
gc.freeze()  # each full collection of each child would walk through torch and timm, and so copy them

PROCESSOR_SECONDS, WALL_SECONDS, MEMORY = 20, 150, 12 << 30


@dataclass(frozen=True)
class Done:
    """Attributes:

    code: the exit code, negative where a signal ended it.
    text: what it wrote to stdout and stderr.
    hung: whether it was ended because of its time.
    """

    code: int
    text: str
    hung: bool = False


def command(words: Sequence[str], folder: Path, seen: Path) -> Done:
    """Run `growtool *words` in `folder`; what it says goes to the file `seen`."""

    from growtool.cli.app import main

    def run() -> None:
        sys.argv = ["growtool", *words]
        main()

    return forked(run, folder, seen)


def forked(run: Callable[[], None], folder: Path, seen: Path) -> Done:
    """Run a function in a fork, in `folder`."""
    process = start(run, folder, seen)
    began, hung = time.monotonic(), False
    try:
        while not (ended := os.waitpid(process, os.WNOHANG))[0]:
            if time.monotonic() - began > WALL_SECONDS:
                hung = True
                os.killpg(process, signal.SIGKILL)
            time.sleep(0.005)
    except KeyboardInterrupt:
        os.killpg(process, signal.SIGKILL)
        raise
    status = ended[1]
    code = os.waitstatus_to_exitcode(status)
    hung = hung or code in (-signal.SIGXCPU, -signal.SIGALRM)
    return Done(code, seen.read_text(errors="replace"), hung)


def start(run: Callable[[], None], folder: Path, seen: Path) -> int:
    """Fork, and give the child's id to who waits for it."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        _become(run, folder, seen)
    return process


def _become(run: Callable[[], None], folder: Path, seen: Path) -> NoReturn:
    """In the child: its own session and streams, limits, then the function; exits as Python would."""
    code = 70
    try:
        os.setsid()
        opened = os.open(seen, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), opened, opened)):
            os.dup2(descriptor, number)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        faulthandler.enable(sys.stderr)
        resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS + 5))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        torch.set_num_threads(1)
        run()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
