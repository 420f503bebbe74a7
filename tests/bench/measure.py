"""One measurement in its own process: `python -m tests.bench.measure KIND ARGUMENT...` prints time and peak memory.

Memory is what the process holds of its own at its peak (`RssAnon` on Linux, else `ru_maxrss`), and beside it the pages
of files that are mapped at the time, which the system drops when it needs memory.
"""

import contextlib
import importlib
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from growtool.algebra.memory import prepare_process
from tests.bench.phases import recorded

GROWS_WITH = ("growtool.growing", "growtool.plan", "growtool.recipe", "growtool.checkpoint", "timm", "torch", "numpy")
ARCHITECTURE = "vit_large_patch16_224"
COPIED = 2 * 10**9  # bytes that are copied at most
_EVERY = 0.005  # seconds between two looks at memory


def write_model(folder: str, arguments: str) -> None:
    """A ViT with random weights in float32."""
    import timm
    import torch
    from timm.models import save_for_hf

    torch.manual_seed(0)
    args = json.loads(arguments)
    save_for_hf(timm.create_model(ARCHITECTURE, **args), folder, model_args=args, safe_serialization=True)


def write_sparse(folder: str, arguments: str) -> None:
    """A ViT whose numbers are all zero, in a file that takes no room on the disk."""
    from growtool.checkpoint import CONFIG, WEIGHTS, ModelSpec, build, infos_of
    from growtool.checkpoint.folder import json_text
    from growtool.checkpoint.writer import encode_header
    from growtool.library import library_of

    spec, out = ModelSpec(ARCHITECTURE, json.loads(arguments)), Path(folder)
    model = build(spec)
    infos = infos_of(model.state_dict())
    header = encode_header(infos, {"format": "pt"})
    out.mkdir(parents=True)
    with (out / WEIGHTS).open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(info.nbytes for info in infos.values()))
    (out / CONFIG).write_text(json_text(library_of(spec).config(spec, model)))


def imports() -> None:
    """What every growing imports, and nothing else."""
    for name in GROWS_WITH:
        importlib.import_module(name)


def grow(source: str, plan: str, out: str) -> dict[str, float]:
    """All that `growtool grow` does but show it; returns seconds by phase."""
    import growtool.recipe
    from growtool.checkpoint import open_checkpoint
    from growtool.growing import grow
    from growtool.plan import load_plan

    with recorded() as phases:
        loaded, opened = load_plan(Path(plan)), open_checkpoint(source)
        opened.hash_ahead()
        grow(growtool.recipe.resolve(loaded.plan, opened), loaded, Path(out))
    return phases


def inspect(source: str) -> None:
    """All that `growtool inspect` does but show it."""
    from growtool.checkpoint import open_checkpoint
    from growtool.report.inspect import inspect_checkpoint

    inspect_checkpoint(open_checkpoint(source))


def copy(source: str, out: str) -> None:
    """The least that writing such a file costs: its bytes, or the first of them, in another place and on disk."""
    left = min(COPIED, Path(source).stat().st_size)
    with Path(source).open("rb") as read, Path(out).open("wb") as written:
        while left:
            left -= os.sendfile(written.fileno(), read.fileno(), None, left)
        os.fsync(written.fileno())


def library(source: str, out: str) -> None:
    """The file loaded and saved by the safetensors library, and on disk."""
    from safetensors.torch import load_file, save_file

    save_file(load_file(source), out, metadata={"format": "pt"})
    with Path(out).open("rb") as file:
        os.fsync(file.fileno())


KINDS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (write_model, write_sparse, imports, grow, inspect, copy, library)
}


@contextlib.contextmanager
def watched_memory() -> Iterator[dict[str, int]]:
    """Bytes at their highest: `own` memory, and pages of `files`."""
    peak, ended = {"own": 0, "files": 0}, threading.Event()

    def look() -> None:
        found = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        for key, name in (("own", "RssAnon"), ("files", "RssFile")):
            peak[key] = max(peak[key], 1024 * int(found[name].split()[0]))

    def watch() -> None:
        while not ended.wait(_EVERY):
            look()

    if not Path("/proc/self/status").exists():
        yield peak
        peak["own"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return
    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield peak
    finally:
        ended.set()
        watching.join()
        look()


def main(kind: str, *arguments: str) -> None:
    """Measure and print one JSON line; imports count as memory, not as time."""
    prepare_process()
    if kind in ("grow", "inspect", "library"):
        imports()
    start, busy = time.perf_counter(), time.process_time()
    with watched_memory() as peak:
        phases = KINDS[kind](*arguments)
    seconds, processor = time.perf_counter() - start, time.process_time() - busy
    print(json.dumps({"seconds": seconds, "processor": processor, **peak, "phases": phases or {}}))


if __name__ == "__main__":
    main(*sys.argv[1:])
