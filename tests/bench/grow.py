"""`python -m tests.bench.grow`: time and memory of growing a large model, beside copying the file it writes.

A `vit_large_patch16_224` (304 million parameters, 1.2 GB in float32) grows to depth 36 with `zero_out`, to 1.25 of its
width with `centre_zero`, to twice its hidden units with `tile` and `net2net`, and to twice its width with `mixture`.
`--sizes` takes ViTs of other sizes instead: those above 2 GB are sparse files of zeros, so that only what grows takes
room. Every figure comes from a process of its own. Takes twice the largest output of disk for some minutes.
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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench.measure import COPIED
from tests.bench.phases import PHASES

MODELS = {  # by GB in float32
    "0.3": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "1.2": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "5": {"embed_dim": 2048, "depth": 24, "num_heads": 16},
    "10": {"embed_dim": 2560, "depth": 32, "num_heads": 20},
}
WHOLE = 2.0  # GB up to which numbers are random, and the safetensors library loads the whole file
PLANS = {
    "depth": ("depth x 1.5, zero_out", {"depth": 1.5}, {"depth": {"operator": "zero_out"}}),
    "centre_zero": (
        "width x 1.25, centre_zero",
        {"embed_dim": 1.25, "num_heads": 1.25},
        {"width": {"operator": "centre_zero"}},
    ),
    "tile": ("hidden units x 2, tile", {"mlp_ratio": 2}, {"width": {"operator": "tile"}}),
    "net2net": ("hidden units x 2, net2net", {"mlp_ratio": 2}, {"width": {"operator": "net2net"}}),
    "mixture": ("width x 2, mixture", {"embed_dim": 2, "num_heads": 2}, {"width": {"operator": "mixture"}}),
}
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Measured:
    """Medians over the repetitions: seconds of the clock and of the processor, bytes at their highest, phases."""

    seconds: float
    processor: float
    own: float
    files: float
    phases: Mapping[str, float]


def measure(kind: str, *arguments: object, repeat: int = 1, clear: Path | None = None) -> Measured:
    """Run one kind of measurement.

    Args:
        kind: of `tests.bench.measure`.
        arguments: for it.
        repeat: how often.
        clear: an output to remove first.
    """
    found = []
    for _ in range(repeat):
        if clear is not None:
            remove(clear)
        os.sync()
        command = [sys.executable, "-W", "ignore", "-m", "tests.bench.measure", kind, *map(str, arguments)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))

    def median(of: Any) -> float:
        return statistics.median(of(run) for run in found)

    figures = (median(lambda run, key=key: run[key]) for key in ("seconds", "processor", "own", "files"))
    phases = {phase: median(lambda run, phase=phase: run["phases"].get(phase, 0.0)) for phase in PHASES}
    return Measured(*figures, phases)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def largest_tensor(weights: Path) -> int:
    """Bytes of the largest tensor of a file."""
    from growtool.checkpoint import read_header

    return max(info.nbytes for info in read_header(weights).tensors.values())


def plan_of(name: str, model: Mapping[str, int]) -> dict[str, Any]:
    """The plan of a growth for one of the models."""
    _, factors, section = PLANS[name]
    grown = {key: (model | {"mlp_ratio": 4})[key] * factor for key, factor in factors.items()}
    return {"target": {"model_args": {key: round(value) for key, value in grown.items()}}, **section}


def rows(folder: Path, size: str, name: str, base: Measured, repeat: int) -> tuple[list[str], list[str]]:
    """The lines of one growth: against the copy, and by phase."""
    source, out, copied = folder / size, folder / "out", folder / "copy.safetensors"
    plans = {verify: folder / f"{verify}.yaml" for verify in (False, True)}
    for verify, path in plans.items():
        path.write_text(json.dumps(plan_of(name, MODELS[size]) | ({} if verify else {"verify": False})))
    verified = measure("grow", source, plans[True], out, clear=out)
    grown = measure("grow", source, plans[False], out, repeat=repeat, clear=out)
    weights = out / WEIGHTS
    largest, nbytes = largest_tensor(weights), weights.stat().st_size
    copy = measure("copy", weights, copied, repeat=repeat, clear=copied)
    least = copy.seconds * max(1.0, nbytes / COPIED)
    runs = [("grow", grown), ("grow and verify", verified)]
    if float(size) < WHOLE:
        runs.append(("load_file + save_file of the output", measure("library", weights, copied, clear=copied)))
    remove(out), remove(copied)
    label = f"{size} GB, {PLANS[name][0]} ({nbytes / 1e9:.2f} GB)"
    against = [f"| {label} | copy of the output | {least:.1f} s | 1.00 | | | |"]
    for what, found in runs:
        own, files = (max(value, 0.0) for value in (found.own - base.own, found.files - base.files))
        against.append(
            f"| {label} | {what} | {found.seconds:.1f} s | {found.seconds / least:.2f} | {own / 1e6:.0f} MB "
            f"| {own / largest:.1f} | {files / 1e6:.0f} MB |"
        )
    by_phase = [
        f"| {label} | {what} | "
        + " | ".join(f"{found.phases[phase]:.1f}" for phase in PHASES)
        + f" | {found.seconds:.1f} | {found.processor:.1f} | {nbytes / found.seconds / 1e9:.2f} |"
        for what, found in runs[:2]
    ]
    return against, by_phase


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


def table(*titles: str) -> str:
    """The head of a table; the first two columns are words."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, ["---", "---", *["---:"] * (len(titles) - 2)]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.grow", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=MODELS, default=["1.2"], help="GB of the source; default 1.2")
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=list(PLANS), help="what grows; default all")
    parser.add_argument("--repeat", type=int, default=3, help="runs of what is not verified; the median counts")
    parser.add_argument("--scratch", type=Path, default=None, help="a folder on the disk to measure (default: TMPDIR)")
    options = parser.parse_args()
    print(f"{machine()}\n", flush=True)
    phases: list[str] = []
    memory = ("memory above the imports", "in largest tensors", "pages of files")
    print(table("source, growth (output)", "what", "time", "against the copy", *memory), flush=True)
    with scratch(options.scratch) as folder:
        base = measure("imports")
        looks = []
        for size in options.sizes:
            made = "write_model" if float(size) < WHOLE else "write_sparse"
            measure(made, folder / size, json.dumps(MODELS[size]))
            looks.append(f"`inspect` of {size} GB: {measure('inspect', folder / size).seconds:.1f} s above the imports")
            for name in options.plans:
                against, by_phase = rows(folder, size, name, base, options.repeat)
                print("\n".join(against), flush=True)
                phases += by_phase
            remove(folder / size)
    titles = (*(f"{phase}, s" for phase in PHASES), "whole, s", "of the processor, s", "GB/s written")
    print("", table("source, growth (output)", "what", *titles), *phases, "", *looks, sep="\n")
    print(f"`growtool --help`: {help_seconds():.2f} s")


if __name__ == "__main__":
    main()
