"""The command as a terminal, a pipe and a dumb terminal without colour see it; for tests of what people look at."""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyte

from tests.support.processes import FORKS

COLUMNS, LINES = 80, 24
_TALL = 1000  # lines that the emulated terminal remembers
_NOT_INHERITED = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "GROWTOOL_DEBUG", "TERM", "COLORTERM", "CI")


_COLOURS = re.compile(r"\x1b\[[\d;?]*[a-zA-Z]")


@dataclass(frozen=True)
class Seen:
    """What a command left: its exit code, all bytes by stream, and the lines that a terminal shows in the end."""

    code: int
    streams: Mapping[str, str]
    lines: tuple[str, ...]

    def longest(self) -> str:
        """The longest line that the command wrote to the terminal, whatever that made of it."""
        return max(_COLOURS.sub("", self.streams["screen"]).splitlines(), key=len)

    def words(self) -> set[str]:
        """Whatever stands between blanks, without punctuation around it, but for rules."""
        found = (word.strip(".,:;()") for line in self.lines for word in line.split())
        return {word for word in found if word and not set(word) <= set("─━-")}


def in_terminal(words: Sequence[object], folder: Path, columns: int = COLUMNS, **environment: str) -> Seen:
    """Run `growtool *words` in `folder`, in a pseudo-terminal of so many columns and 24 lines."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
    name = os.ttyname(slave)
    settings = {"TERM": "xterm-256color", **environment}
    code, (raw,) = _run(words, folder, settings, [name] * 3, {"screen": master}, close=[slave])
    screen = pyte.Screen(columns, _TALL)
    pyte.Stream(screen).feed(raw)
    shown = [line.rstrip() for line in screen.display]
    return Seen(code, {"screen": raw}, tuple(shown[: max((n + 1 for n, line in enumerate(shown) if line), default=0)]))


def in_pipe(words: Sequence[object], folder: Path) -> Seen:
    """Run `growtool *words` in `folder`, stdout and stderr in a pipe each, as in a batch job."""
    places = {name: folder / f".{name}.fifo" for name in ("stdout", "stderr")}
    for place in places.values():
        place.unlink(missing_ok=True)
        os.mkfifo(place)
    ends = {name: os.open(place, os.O_RDONLY | os.O_NONBLOCK) for name, place in places.items()}
    for end in ends.values():
        os.set_blocking(end, True)
    code, (out, err) = _run(words, folder, {}, [os.devnull, *map(str, places.values())], ends)
    for place in places.values():
        place.unlink()
    lines = ["stdout:", *out.splitlines(), "stderr:", *err.splitlines()]
    return Seen(code, {"stdout": out, "stderr": err}, tuple(lines))


def _run(
    words: Sequence[object],
    folder: Path,
    environment: Mapping[str, str],
    files: Sequence[str],
    ends: Mapping[str, int],
    close: Sequence[int] = (),
) -> tuple[int, list[str]]:
    """Exit code, and what came out of each of `ends`."""
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    child = FORKS.Process(target=_become, args=([*map(str, words)], folder, {**inherited, **environment}, files))
    child.start()
    found, ended = {name: bytearray() for name in ends}, threading.Event()
    readers = [threading.Thread(target=_read, args=(end, found[name], ended)) for name, end in ends.items()]
    for reader in readers:
        reader.start()
    child.join(120)
    if child.exitcode is None:
        child.kill()
    ended.set()
    for reader in readers:
        reader.join()
    for end in (*ends.values(), *close):
        os.close(end)
    return child.exitcode or 0, [bytes(text).decode() for text in found.values()]


def _read(end: int, into: bytearray, ended: threading.Event) -> None:
    """Everything that comes until the command has ended and nothing is left."""
    while True:
        ready, _, _ = select.select([end], [], [], 0.05)
        found = os.read(end, 65536) if ready else b""
        into += found
        if not found and ended.is_set():
            return
        if ready and not found:  # nobody has opened the other side yet
            time.sleep(0.01)


def _become(words: list[str], folder: Path, environment: dict[str, str], files: Sequence[str]) -> None:
    """In the child: the standard streams are `files`; then the command."""
    from growtool.cli.app import main

    os.setsid()  # so that a terminal opened next is this process's own
    for number, name in enumerate(files):
        opened = os.open(name, os.O_RDWR if name.startswith("/dev/") else os.O_WRONLY)
        os.dup2(opened, number)
    sys.stdin, sys.stdout, sys.stderr = (open(n, mode, closefd=False) for n, mode in enumerate("rww"))  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["growtool", *words]
    main()


_VARIES = (
    (r"(?<=images/s  )\d[\d.]* \w+", "#"),  # memory
    (r"\d[\d.]* \w+(?=, written in)", "#"),  # sizes of checkpoints, which hold paths
    (r"\d[\d,.]*(e[-+]\d+)?(?= ?(s|images/s|ms)\b)", "#"),  # durations and speeds
    (r"\d\.\d+e-\d\d", "#"),  # differences
    (r"\d+\.\d\d ?%", "# %"),
    (r"loss +\d[\d.]*", "loss #"),
    (r"(?<![-\w.,])\d+\.\d\d(?=  |$)", "#"),  # accuracies in tables
    (r"(?<![-\w.,])(\d+(?= +# %)|\d+(?= +-$))", "#"),  # seconds in tables
    (r"[0-9a-f]{16,}…?", "#"),
    (r"(?<=growtool) +\d+\.\d+\.\d+", " #"),  # the version
)
# how far a run is, of which a slow machine alone tells
_NEWS = re.compile(r"\S+ for [\d,]+ updates?, seed \d+: (reading images and checkpoint|update \d.*)")


def steady(lines: Sequence[str]) -> str:
    """The lines without what differs between machines: durations, memory, rounding, accuracies of random networks."""
    found = []
    for line in lines:
        if _NEWS.fullmatch(line.strip()):
            continue
        shown = re.sub("[─━]{4,}", "────", line.rstrip())
        for pattern, place in _VARIES:
            shown = re.sub(pattern, place, shown)
        if "#" in shown or "────" in shown:
            shown = re.sub(" {2,}", "  ", shown)
        found.append(shown)
    return "\n".join(found) + "\n"
