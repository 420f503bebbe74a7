"""`python -m tests.gpu [--device cuda] [--minutes 8] [--images FILE] [--tiny]`: what only a CUDA device can show.

The checks come in order of worth. Needs no network, nor an installed growtool where PYTHONPATH names its clone. Each
check can fail alone. The report is complete after every one of them; the exit code is 1 where one failed. A check for
which too little time is left does not begin, and one that runs past the minutes fails.
"""

import argparse
import gc
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from growtool.errors import GrowtoolError
from tests.gpu import BEGUN, kernels, large, ranks, speed, updates
from tests.gpu.checks import Check
from tests.gpu.material import Material
from tests.gpu.report import Entry, Report, Skip

PARTS = (
    updates.checks,
    kernels.checks,
    speed.checks,
    large.checks,
    ranks.checks,
    speed.compiled_checks,  # of (g) and (h), after all others: to compile takes most of their time
    ranks.campaign,
)


def main(words: Sequence[str] | None = None) -> int:
    """Run every check for which there is time; 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="a torch device")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all of it, the start of Python included")
    parser.add_argument("--tiny", action="store_true", help="tiny models, which a CPU core trains in a moment")
    parser.add_argument(
        "--images", type=Path, help="for the campaign, as `python -m tests.campaign --pack` writes them"
    )
    parser.add_argument("--report", type=Path, default=Path("build/gpu"), help="folder of report.json and report.md")
    chosen = parser.parse_args(words)
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device: no CUDA device is there; --device cpu --tiny runs the script as far as a CPU can")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    report, deadline = Report(chosen.report, device, tiny=chosen.tiny), BEGUN + 60 * chosen.minutes
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        material = Material(device, chosen.tiny, Path(scratch), deadline, chosen.report, chosen.images)
        for part in PARTS:
            for check in part(material):
                entry = made(check, material)
                report.add(entry)
                print(f"{entry.part}  {entry.status:7}  {entry.name}: {entry.found}  {entry.seconds:.1f} s", flush=True)
    print(f"{len(report.failed)} of {len(report.entries)} failed; report: {chosen.report / 'report.md'}")
    return 1 if report.failed else 0


def made(check: Check, material: Material) -> Entry:
    """What a check found; whatever it raises is its own failure."""
    start = time.monotonic()
    needed = check.seconds if material.cuda and not material.tiny else 0.0
    if material.left <= needed:
        why = f"takes {needed:.0f} s, {max(material.left, 0):.0f} s were left" if needed else "no time was left"
        return Entry(check.part, check.name, "skipped", why, 0.0)
    try:
        with _ended_after(material.left):
            status, found = "passed", check.act()
        tidy(material)  # an error of the device itself shows here at the latest
    except Skip as skipped:
        status, found = "skipped", str(skipped)
    except Exception as error:
        known = isinstance(error, AssertionError | GrowtoolError)
        status, found = "failed", str(error) if known else f"{type(error).__name__}: {error}"
    with suppress(RuntimeError):  # of a device that answers no more: each check to come says so itself
        tidy(material)
    return Entry(check.part, check.name, status, found[:600], time.monotonic() - start)


def tidy(material: Material) -> None:
    """Free what a check held on the CUDA device."""
    if material.cuda:
        gc.collect()
        torch.cuda.synchronize(material.device)
        torch.cuda.empty_cache()


@contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """While open, `TimeoutError` is raised once so many seconds have passed."""

    def end(number: int, frame: object) -> None:
        raise TimeoutError("the minutes are over")

    if seconds == float("inf"):
        yield
        return
    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    raise SystemExit(main())
