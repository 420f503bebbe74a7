"""`python -m tests.bench.llama`: seconds and memory of whole commands that double the width of a Llama.

    python -m tests.bench.llama [--hidden 768 --blocks 12] [--repeat N]
    PYTHONPATH=SOMEWHERE python -m tests.bench.llama      # beside apple/ml-hypercloning

Weights are random. Commands take turns; their time begins with Python and its imports and ends when the process is gone
and the disk has what it wrote. Beside growtool stand a copy of what it writes, an import of the model's class, and,
where `hypercloning` can be imported, a script that loads the source with transformers, clones it and saves the clone.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

IMPORT = "from transformers import LlamaForCausalLM"
PEER = """
import sys
from hypercloning import cloneModel
from transformers import AutoModelForCausalLM
source, out, noise = sys.argv[1:]
options = {"snr_db": 10} if noise == "noise" else {}
grown = cloneModel(AutoModelForCausalLM.from_pretrained(source), 2, 2, **options)
grown.eval().save_pretrained(out)
"""
PLAN = "target: {{scale: {{width: 2}}}}\nwidth: {{operator: tile{}}}\nverify: false\n"


def main() -> None:
    """Print a row of Markdown for each command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.llama", description=__doc__.partition("\n")[0])
    parser.add_argument("--hidden", type=int, default=1024, help="hidden size, a multiple of 64")
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--repeat", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with ProcessPoolExecutor(1) as pool:  # torch would count as memory of each command that this process starts
            parameters = pool.submit(write_source, folder / "source", chosen.hidden, chosen.blocks).result()
        print(f"{parameters / 1e6:.0f} million parameters\n\n| command | seconds | memory, GB |\n| --- | ---: | ---: |")
        taken = defaultdict[str, list[tuple[float, float]]](list)
        for _ in range(chosen.repeat):
            for name, command in commands(folder).items():
                taken[name].append(measured(command, folder / "out"))
                if name == "growtool, copies":
                    shutil.rmtree(folder / "kept", ignore_errors=True)
                    (folder / "out").rename(folder / "kept")
    for name, runs in taken.items():
        seconds = ", ".join(f"{wall:.1f}" for wall, _ in runs)
        print(f"| {name} | {seconds} | {statistics.median(peak for _, peak in runs):.1f} |")


def write_source(out: Path, hidden: int, blocks: int) -> int:
    """A Llama as transformers initialises it; the number of its parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    inner, heads = hidden * 8 // 3 // 256 * 256, hidden // 64
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": heads, "vocab_size": 32000}
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=blocks, **sizes))
    model.save_pretrained(out)
    return model.num_parameters()


def commands(folder: Path) -> dict[str, list[str]]:
    """What takes turns; plans are written for it."""
    source, out = str(folder / "source"), str(folder / "out")
    found = {"import": [sys.executable, "-c", IMPORT]}
    for name, split in (("copies", ", split: equal"), ("noise", "")):
        plan = folder / f"{name}.yaml"
        plan.write_text(PLAN.format(split))
        found[f"growtool, {name}"] = [sys.executable, "-m", "growtool", "grow", source, str(plan), "-o", out]
        if importlib.util.find_spec("hypercloning") is not None:
            found[f"hypercloning, {name}"] = [sys.executable, "-c", PEER, source, out, name]
    return found | {"copy of the output": ["cp", "-r", str(folder / "kept"), out]}


def measured(command: list[str], out: Path) -> tuple[float, float]:
    """Seconds of the clock, and the most memory that was resident, in GB."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    os.sync()
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
