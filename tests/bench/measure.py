"""One measurement in its own process: `python -m tests.bench.measure KIND ARGUMENT...` prints time and peak memory.

Peak memory is that of the whole process (`ru_maxrss`), so that nothing measured before or after counts.
"""

import importlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from growtool.algebra.memory import prefer_large_pages

GROWS_WITH = ("growtool.growing", "growtool.plan", "growtool.recipe", "growtool.checkpoint", "timm", "torch", "numpy")


def write_model(folder: str) -> None:
    """A `vit_large_patch16_224` with random weights in float32."""
    import timm
    import torch
    from timm.models import save_for_hf

    torch.manual_seed(0)
    save_for_hf(timm.create_model("vit_large_patch16_224"), folder, safe_serialization=True)


def imports() -> None:
    """What every growing imports, and nothing else."""
    for name in GROWS_WITH:
        importlib.import_module(name)


def resolve(source: str, plan: str) -> None:
    """A dry run without its figures."""
    from growtool.checkpoint import open_checkpoint
    from growtool.plan import load_plan
    from growtool.recipe import resolve

    resolve(load_plan(Path(plan)).plan, open_checkpoint(source))


def grow(source: str, plan: str, out: str) -> None:
    """All that `growtool grow` does but show it."""
    from growtool.checkpoint import open_checkpoint
    from growtool.growing import grow
    from growtool.plan import load_plan
    from growtool.recipe import resolve

    loaded = load_plan(Path(plan))
    grow(resolve(loaded.plan, open_checkpoint(source)), loaded, Path(out))


def copy(source: str, out: str) -> None:
    """The least that writing such a file costs: its bytes from one place to another, and on disk."""
    shutil.copyfile(source, out)
    with Path(out).open("rb") as file:
        os.fsync(file.fileno())


def library(source: str, out: str) -> None:
    """The file loaded and saved by the safetensors library, and on disk."""
    from safetensors.torch import load_file, save_file

    save_file(load_file(source), out, metadata={"format": "pt"})
    with Path(out).open("rb") as file:
        os.fsync(file.fileno())


KINDS: dict[str, Callable[..., None]] = {
    function.__name__: function for function in (write_model, imports, resolve, grow, copy, library)
}


def main(kind: str, *arguments: str) -> None:
    """Measure and print one JSON line; imports count as memory, not as time."""
    prefer_large_pages()
    if kind in ("grow", "resolve", "library"):
        imports()
    start = time.perf_counter()
    KINDS[kind](*arguments)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "peak_bytes": peak * (1 if sys.platform == "darwin" else 1024)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
