"""`python -m tests.bench.grow`: time and memory of growing a large model, beside copying the file it writes.

A `vit_large_patch16_224` (304 million parameters, 1.2 GB in float32) grows to depth 36 with `zero_out`, to 1.25 of its
width with `centre_zero`, and to twice its hidden units with `tile`, `net2net` and `mixture`. Every figure comes from a
process of its own. Takes 5 GB of disk for some minutes.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

PLANS = {
    "depth 24 -> 36, zero_out": {"target": {"model_args": {"depth": 36}}, "depth": {"operator": "zero_out"}},
    "width x 1.25, centre_zero": {
        "target": {"model_args": {"embed_dim": 1280, "num_heads": 20}},
        "width": {"operator": "centre_zero"},
    },
    **{
        f"hidden units x 2, {operator}": {"target": {"model_args": {"mlp_ratio": 8}}, "width": {"operator": operator}}
        for operator in ("tile", "net2net", "mixture")
    },
}
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Measured:
    """Medians over the repetitions: seconds, and bytes of the process at its peak."""

    seconds: float
    peak_bytes: float


def measure(
    kind: str, *arguments: Path, repeat: int = 1, cold: Path | None = None, clear: Path | None = None
) -> Measured:
    """Run one kind of measurement.

    Args:
        kind: of `tests.bench.measure`.
        arguments: for it.
        repeat: how often.
        cold: a file to drop from the page cache first.
        clear: an output to remove first.
    """
    found = []
    for _ in range(repeat):
        if clear is not None:
            remove(clear)
        os.sync()
        if cold is not None:
            drop_from_cache(cold)
        command = [sys.executable, "-m", "tests.bench.measure", kind, *map(str, arguments)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return Measured(*(statistics.median(run[key] for run in found) for key in ("seconds", "peak_bytes")))


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def drop_from_cache(path: Path) -> None:
    """Ask the system to forget the pages of a file that is on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def largest_tensor(weights: Path) -> int:
    """Bytes of the largest tensor of a file."""
    from growtool.checkpoint import read_header

    return max(info.nbytes for info in read_header(weights)[0].values())


def rows(folder: Path, source: Path, name: str, plan: dict, repeat: int) -> Iterator[str]:
    """The lines of one plan."""
    out, copied = folder / "out", folder / "copy.safetensors"
    unchecked, checked = folder / "unchecked.yaml", folder / "checked.yaml"
    unchecked.write_text(json.dumps(plan | {"verify": False}))
    checked.write_text(json.dumps(plan))
    baseline = measure("imports", repeat=repeat)
    resolved = measure("resolve", source, unchecked)
    cold = measure("grow", source, unchecked, out, cold=source / WEIGHTS, clear=out)
    verified = measure("grow", source, checked, out, clear=out)
    grown = measure("grow", source, unchecked, out, repeat=repeat, clear=out)
    weights = out / WEIGHTS
    largest, nbytes = largest_tensor(weights), weights.stat().st_size
    copy_cold = measure("copy", weights, copied, cold=weights, clear=copied)
    copy = measure("copy", weights, copied, repeat=repeat, clear=copied)
    library = measure("library", weights, copied, clear=copied)
    remove(out), remove(copied)
    for what, found, against in (
        ("copy of the output, warm", copy, copy),
        ("copy of the output, cold", copy_cold, copy_cold),
        ("load_file + save_file of the output", library, copy),
        ("grow without verification, warm", grown, copy),
        ("grow without verification, cold", cold, copy_cold),
        ("grow and verify, warm", verified, copy),
        ("resolve alone", resolved, copy),
    ):
        above = max(found.peak_bytes - baseline.peak_bytes, 0)
        ratio = f"{found.seconds / against.seconds:.2f}"
        yield (
            f"| {name} ({nbytes / 1e9:.2f} GB) | {what} | {found.seconds:.1f} s | {ratio} | {above / 1e6:.0f} MB "
            f"| {above / largest:.1f} |"
        )


def help_seconds() -> float:
    """Median wall time of `growtool --help`, five runs."""
    script = (
        "import subprocess, sys, time; t = time.perf_counter(); "
        "subprocess.run([sys.executable, '-m', 'growtool', '--help'], stdout=subprocess.DEVNULL, check=True); "
        "print(time.perf_counter() - t)"
    )
    return statistics.median(
        float(subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True).stdout)
        for _ in range(5)
    )


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "safetensors", "growtool"))
    return f"{os.cpu_count()} cores, {memory:.0f} GiB of memory, Python {platform.python_version()}, {versions}"


@contextlib.contextmanager
def scratch(parent: Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="growtool-bench.", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.grow", description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3, help="runs of each warm measurement; the median counts")
    parser.add_argument("--scratch", type=Path, default=None, help="a folder on the disk to measure (default: TMPDIR)")
    options = parser.parse_args()
    print(f"{machine()}\n", flush=True)
    print("| growth (output) | what | time | against the copy | memory above the imports | in largest tensors |")
    print("| --- | --- | ---: | ---: | ---: | ---: |", flush=True)
    with scratch(options.scratch) as folder:
        measure("write_model", folder / "source")
        for name, plan in PLANS.items():
            for line in rows(folder, folder / "source", name, plan, options.repeat):
                print(line, flush=True)
    print(f"\n`growtool --help`: {help_seconds():.2f} s")


if __name__ == "__main__":
    main()
