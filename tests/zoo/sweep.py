"""Measuring many models: each in a child process of its own, with limits on time and memory."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import pkgutil
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

import growtool

from .measure import measure

Measure = Callable[..., None]  # of an example, a record to fill, a function that keeps it, and seconds
SECONDS = 240  # of processor time, for one model
SINGLY = 15.0  # of these, for its arguments one by one
_MEMORY = 14 * 2**30  # bytes of address space of one child
_LONGEST = 1200  # seconds until a child that does not stop is killed


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """The last record of each model, by label."""
    if not path.exists():
        return {}
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return {record["label"]: record for record in records}


def options(prog: str, doc: str | None, only: str, small: str) -> argparse.ArgumentParser:
    """The options that sweeps have in common.

    Args:
        prog: how the sweep is called.
        doc: of its module, whose first line it says.
        only: what may be named.
        small: the models whose numbers are doubled.
    """
    parser = argparse.ArgumentParser(prog=prog, description=(doc or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"these {only}, measured anew")
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="K/N", help="one of N parts")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (a few GB each)")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the page from what is there")
    parser.add_argument("--numbers", action="store_true", help=f"double numbers and turn switches of {small} alone")
    return parser


def _part(text: str) -> tuple[int, int]:
    """`2/6` is (2, 6)."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    number, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= parts:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a part such as 2/6")
    return number, parts


def unmeasured(examples: Sequence[Any], path: Path, kept: Collection[str] = ()) -> bool:
    """Whether results of some examples are lacking, kept ones too, which it tells: no page is written of a part."""
    found = {*read_results(path), *kept}
    left = [example.label for example in examples if example.label not in found]
    if left:
        print(f"no page is written: {len(left)} models have no results, {left[0]} for one", file=sys.stderr)
    return bool(left)


def of_part(examples: Sequence[Any], part: tuple[int, int]) -> Sequence[Any]:
    """Every N-th example, so that like models are spread over the parts."""
    number, parts = part
    return examples[number - 1 :: parts]


def promised_falsely(record: Mapping[str, Any]) -> bool:
    """Whether an attempt of a record did not keep what was promised: a bug in each case."""
    found = (record.get(part, []) for part in ("width", "depth", "singly"))
    attempts = (made for part in found for made in ([part] if isinstance(part, Mapping) else part))
    return any(made["verdict"] == "FALSE PROMISE" for made in attempts)


def sweep(
    examples: Iterable[Any], results: Path, measured: Measure = measure, *, jobs: int = 1, singly: float = SINGLY
) -> Iterator[dict[str, Any]]:
    """Measure the examples and append one line each to `results`; yields the records as they come."""
    _load_growtool()
    torch.set_num_threads(1)
    waiting, running = list(examples), dict[int, tuple[Any, Path, float]]()
    while waiting or running:
        while waiting and len(running) < jobs:
            example = waiting.pop(0)
            scratch = results.with_suffix(f".{os.getpid()}.{len(waiting)}")
            running[_start(partial(measured, example, singly=singly), scratch)] = (example, scratch, time.monotonic())
        pid = _finished(running)
        example, scratch, _ = running.pop(pid)
        record = _collect(example, scratch)
        with results.open("a") as file:
            file.write(json.dumps(record) + "\n")
        yield record


def _load_growtool() -> None:
    """Import all of it: the children then share one state of the code, whatever happens to the files meanwhile."""
    for module in pkgutil.walk_packages(growtool.__path__, "growtool."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _start(measured: Callable[..., None], scratch: Path) -> int:
    pid = os.fork()
    if pid == 0:
        _child(measured, scratch)
    return pid


def _child(measured: Callable[..., None], scratch: Path) -> NoReturn:
    record: dict[str, Any] = {}

    def out_of_time(*_: object) -> None:
        raise TimeoutError(f"stopped after {SECONDS} s")

    signal.signal(signal.SIGPROF, out_of_time)  # processor time, so that a busy machine takes nothing away
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    try:
        measured(record, lambda: _write(scratch, record))
    except BaseException as error:
        record["problem"] = f"{type(error).__name__}: {error}"[:400]
        if not isinstance(error, TimeoutError):
            record["traceback"] = traceback.format_exc()[-2000:]
        _write(scratch, record)
    finally:
        os._exit(0)


def _write(scratch: Path, record: dict[str, Any]) -> None:
    scratch.write_text(json.dumps(record))


def _finished(running: dict[int, tuple[Any, Path, float]]) -> int:
    while True:
        for pid, (_, _, started) in running.items():
            if time.monotonic() - started > _LONGEST:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return pid
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return pid
        time.sleep(0.1)


def _collect(example: Any, scratch: Path) -> dict[str, Any]:
    record: dict[str, Any] = {"label": example.label, "family": example.family, "architecture": example.architecture}
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        record |= json.loads(scratch.read_text())
    scratch.unlink(missing_ok=True)
    if not record.get("complete") and "problem" not in record:
        record["problem"] = "the process died, out of memory or time"
    return record
