"""`python -m tests.gpu [--device cuda] [--minutes 8] [--tiny]`: what only a CUDA device can show, in order of worth.

Needs no network, nor an installed growtool where PYTHONPATH names its clone. Each check can fail alone. The report is
complete after every one of them; the exit code is 1 where one failed.
"""

import argparse
import gc
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from growtool.errors import GrowtoolError
from tests.gpu import kernels, large, ranks, speed, updates
from tests.gpu.checks import Check
from tests.gpu.material import Material
from tests.gpu.report import Entry, Report, Skip

PARTS = (updates, kernels, speed, large, ranks)


def main(words: Sequence[str] | None = None) -> int:
    """Run every check for which there is time; 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="a torch device")
    parser.add_argument("--minutes", type=float, default=8.0, help="no check begins after that")
    parser.add_argument("--tiny", action="store_true", help="tiny models, which a CPU core trains in a moment")
    parser.add_argument("--report", type=Path, default=Path("build/gpu"), help="folder of report.json and report.md")
    chosen = parser.parse_args(words)
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device: no CUDA device is there; --device cpu --tiny runs the script as far as a CPU can")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    report, deadline = Report(chosen.report, device, tiny=chosen.tiny), time.monotonic() + 60 * chosen.minutes
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        material = Material(device, chosen.tiny, Path(scratch), deadline)
        for part in PARTS:
            for check in part.checks(material):
                entry = made(check, material)
                report.add(entry)
                print(f"{entry.part}  {entry.status:7}  {entry.name}: {entry.found}  {entry.seconds:.1f} s", flush=True)
    print(f"{len(report.failed)} of {len(report.entries)} failed; report: {chosen.report / 'report.md'}")
    return 1 if report.failed else 0


def made(check: Check, material: Material) -> Entry:
    """What a check found; whatever it raises is its own failure."""
    start = time.monotonic()
    if material.left <= 0:
        return Entry(check.part, check.name, "skipped", "no time was left", 0.0)
    try:
        status, found = "passed", check.act()
    except Skip as skipped:
        status, found = "skipped", str(skipped)
    except Exception as error:
        known = isinstance(error, AssertionError | GrowtoolError)
        status, found = "failed", str(error) if known else f"{type(error).__name__}: {error}"
    gc.collect()
    if material.cuda:
        torch.cuda.empty_cache()
    return Entry(check.part, check.name, status, found[:600], time.monotonic() - start)


if __name__ == "__main__":
    raise SystemExit(main())
