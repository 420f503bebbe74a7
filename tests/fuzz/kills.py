"""Commands that are killed at random moments, as `kill -9`, the lack of memory and power cuts do it, and run again.

Half of the moments are moments in time, half are the n-th look at or change of the file system, as those in between a
few system calls are hardly met otherwise. Whatever the moment: the source stays as it was, what has a checkpoint's name
is whole, and the same command run again ends well, gives the same weights and leaves nothing hidden behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from growtool.checkpoint.staging import ASIDE, TEMPORARY

from .child import command, start
from .judge import loads, state
from .material import workshop

_TRAIN = "--data data --epochs 2 --batch-size 5 --workers 0 --device cpu --recovery-interval 1"
_CHANGES = frozenset(
    (
        "open os.rename os.remove os.mkdir os.rmdir os.chmod os.scandir os.listdir tempfile.mkdtemp tempfile.mkstemp"
    ).split()
)


@dataclass(frozen=True)
class Killed:
    """Attributes:

    line: the command.
    again: what is added to it where it runs again.
    output: what it writes.
    stands: whether a whole output of another command is there before, which `--force` replaces.
    """

    line: str
    again: str
    output: str
    stands: bool = False

    def words(self, *, again: bool = False) -> list[str]:
        return f"{self.line} {self.again if again else ''}".split()


COMMANDS = (
    Killed("grow resnet images.yaml -o out", "--force", "out"),
    Killed("grow resnet images.yaml -o out --force", "", "out", stands=True),
    Killed("grow vit.safetensors short.yaml -o out.safetensors", "--force", "out.safetensors"),
    Killed("grow templates short.yaml -o out", "--force", "out"),
    Killed("grow run/last images.yaml -o out", "--force", "out"),
    Killed(f"finetune resnet {_TRAIN} -o out", "--resume auto", "out"),
)


@dataclass(frozen=True)
class _Whole:
    """What an uninterrupted command needs and gives: seconds, looks at the file system, its files."""

    seconds: float
    events: int
    files: dict[str, str]


def kill(count: int, seed: int, kept: Path) -> int:
    """Kill at `count` moments; the exit code."""
    faults: Counter[str] = Counter()
    moments: Counter[str] = Counter()
    with workshop() as (material, place):
        whole = [_uninterrupted(each, material, place) for each in COMMANDS]
        began = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):
            for number in range(count):
                each, needs = COMMANDS[number % len(COMMANDS)], whole[number % len(COMMANDS)]
                killed, moment = _at_a_moment(each, needs, material, place, Random(f"{seed}/{number}"))
                for problem in _problems(each, needs, place):
                    faults[problem] += 1
                    if faults[problem] == 1:
                        shutil.copytree(place, kept / f"kill-{seed}-{number}", dirs_exist_ok=True, symlinks=True)
                        print(f"kill {seed}/{number} {moment}: {problem}\n  growtool {each.line}", flush=True)
                moments["in time" if killed else "too late"] += 1
        seconds = time.monotonic() - began
    done, late, found = moments.total(), moments["too late"], faults.total()
    print(f"{done} kills of seed {seed} in {seconds:.0f} s, {late} of them after the end; {found} faults")
    return 1 if faults else 0


def _fresh(each: Killed, material: Path, place: Path) -> Path:
    """A new folder with the material, and the output that stands there before."""
    shutil.rmtree(place, ignore_errors=True)
    root = place / "case"
    shutil.copytree(material, root)
    if each.stands:
        shutil.copytree(root / "grown", root / each.output)
    return root


def _uninterrupted(each: Killed, material: Path, place: Path) -> _Whole:
    root = _fresh(each, material, place)
    began = time.monotonic()
    done = command(each.words(), root, place / "seen.txt")
    seconds = time.monotonic() - began
    if done.code:
        raise RuntimeError(f"growtool {each.line}: exit code {done.code}\n{done.text}")
    files = _of_output(state(root), each)
    root, counter = _fresh(each, material, place), place / "events"
    _wait(start(lambda: _run(each.words(), counter=counter), root, place / "seen.txt"))
    return _Whole(seconds, counter.stat().st_size, files)


def _at_a_moment(each: Killed, whole: _Whole, material: Path, place: Path, random: Random) -> tuple[bool, str]:
    """Kill the command once; whether it was still running, and when that was."""
    root = _fresh(each, material, place)
    if random.random() < 0.5:
        event = random.randrange(1, whole.events + 1)
        process = start(lambda: _run(each.words(), last=event), root, place / "seen.txt")
        return _wait(process) == -signal.SIGKILL, f"at event {event} of {whole.events}"
    seconds = random.uniform(0, whole.seconds)
    process = start(lambda: _run(each.words()), root, place / "seen.txt")
    time.sleep(seconds)
    os.killpg(process, signal.SIGKILL) if _leads(process) else os.kill(process, signal.SIGKILL)
    return _wait(process) == -signal.SIGKILL, f"after {seconds:.2f} s of {whole.seconds:.2f}"


def _leads(process: int) -> bool:
    try:
        return os.getpgid(process) == process
    except ProcessLookupError:
        return False


def _wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _run(words: list[str], *, last: int = 0, counter: Path | None = None) -> None:
    """In the child: the command; its `last` look at the file system kills it; each leaves a byte in `counter`."""
    from growtool.cli.app import main

    seen = 0
    told = os.open(counter, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if counter else None

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event not in _CHANGES or ".py" in str(arguments[0]):
            return
        seen += 1
        if told is not None:
            os.write(told, b".")
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    sys.argv = ["growtool", *words]
    main()


def _of_output(found: dict[str, str], each: Killed) -> dict[str, str]:
    """The files of the output alone."""
    return {path: held for path, held in found.items() if path.split("/")[0] == each.output}


def _problems(each: Killed, whole: _Whole, place: Path) -> Iterator[str]:
    """What is wrong after a kill, and after the same command has run again."""
    root, material = place / "case", place.with_name("material")
    found = state(root)
    yield from _source(found, material)
    yield from _half(each, whole, root, found)
    there = (root / each.output).exists()
    trained = each.line.startswith("finetune")
    done = command(each.words(again=there or trained), root, place / "seen.txt")
    if done.code:
        yield f"the next run fails: {done.text[-300:]}"
        return
    found = state(root)
    yield from _source(found, material)
    yield from _half(each, whole, root, found)
    for path in found:
        if path.endswith((TEMPORARY, ASIDE, ".lock")):
            yield f"the next run leaves {Path(path).suffix} of {each.output}"
    weights = {path for path in whole.files if path.endswith("model.safetensors") or path == each.output}
    different = [path for path in sorted(weights) if found.get(path) != whole.files[path]]
    if different:
        yield f"the next run gives other weights: {different[0]}"


def _source(found: dict[str, str], material: Path) -> Iterator[str]:
    touched = [path for path, held in state(material).items() if found.get(path) != held]
    if touched:
        yield f"touched {touched[0]}"


def _half(each: Killed, whole: _Whole, root: Path, found: dict[str, str]) -> Iterator[str]:
    """What has the name of a checkpoint and is not one."""
    there = _of_output(found, each)
    for path in there:
        hidden = any(part.startswith(".") for part in Path(path).parts)
        if path.endswith(".safetensors") and "optimizer" not in path and not hidden:
            problem = loads(root, path)
            if problem:
                yield problem
    if each.output in there and each.line.startswith("grow"):
        missing = {path for path in whole.files if path not in there}
        if missing and not (each.stands and _same_as_before(there, found, each)):
            yield f"an output without {sorted(missing)[0]}"


def _same_as_before(there: dict[str, str], found: dict[str, str], each: Killed) -> bool:
    """Whether the output is the one that stood there."""
    before = {path.replace("grown", each.output, 1): held for path, held in found.items() if path.startswith("grown")}
    return there == before
