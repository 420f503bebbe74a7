"""`python -m tests.bench.templates`: a training step in template form beside the same step of the dense model.

A `resnet50` with random weights, decomposed; forward, backward and an SGD update on random images. CUDA where it is
there (batch 128, bfloat16 autocast, channels-last, with and without torch.compile), else one CPU thread (batch 8,
float32). The two models take turns, so that what else the machine does falls on both; medians are shown.
"""

import argparse
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import nn

from growtool.checkpoint import build, open_checkpoint
from growtool.finetune.parallel.device import in_use
from growtool.finetune.update.model import load_model, place
from growtool.library.timm import input_size
from growtool.templates.convert import write_decomposed
from growtool.templates.decompose import Request, decompose
from growtool.trace import trace_model


def models(architecture: str, request: Request, scratch: Path, **arguments: Any) -> tuple[nn.Module, nn.Module, str]:
    """The dense model, the same in template form, and what the latter shares."""
    torch.manual_seed(0)
    dense = timm.create_model(architecture, **arguments)
    save_for_hf(dense, scratch / "dense", model_args=arguments, safe_serialization=True)
    source = open_checkpoint(scratch / "dense")
    skeleton = build(source.spec)
    found = decompose(
        request, skeleton, trace_model(skeleton, input_size(skeleton)), source.tensors, source.read
    )  # fmt: skip
    write_decomposed(scratch / "templates", source, skeleton, found, exact=True)
    shared = f"{len(found.form.tensors)} tensors in {len(found.form.banks)} banks"
    return load_model(source), load_model(open_checkpoint(scratch / "templates")), shared


def step_of(
    model: nn.Module, device: torch.device, batch: int, size: int, *, backend: str | None
) -> Callable[[], None]:
    """One update on random images."""
    cuda = device.type == "cuda"
    model = place(model, device, channels_last=cuda).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    images = torch.randn(batch, 3, size, size, device=device)
    images = images.contiguous(memory_format=torch.channels_last) if cuda else images
    labels = torch.randint(model.num_classes, (batch,), device=device)
    forward = torch.compile(model, backend=backend) if backend else model

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            loss = nn.functional.cross_entropy(forward(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if cuda:
            torch.cuda.synchronize()

    return step


def medians(steps: list[Callable[[], None]], *, warm: int, count: int) -> list[float]:
    """Seconds of each kind of step, taken in turns."""
    seconds: list[list[float]] = [[] for _ in steps]
    for number in range(warm + count):
        for step, found in zip(steps, seconds, strict=True):
            start = time.perf_counter()
            step()
            if number >= warm:
                found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    cuda = torch.cuda.is_available()
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch", type=int, default=128 if cuda else 8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--count", type=int, default=50 if cuda else 5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    device = torch.device("cuda" if cuda else "cpu")
    where = torch.cuda.get_device_name() if cuda else f"{platform.machine()}, one thread"
    print(f"{where}; torch {torch.__version__}, timm {version('timm')}; {options.model}, batch {options.batch}")
    for request in (Request("raw"), Request("sub_block", parts=2)):
        for backend in (None, "inductor") if cuda else (None,):
            with tempfile.TemporaryDirectory() as scratch:
                dense, templates, shared = models(options.model, request, Path(scratch))
            torch.compiler.reset()
            with in_use(device, tf32=True):
                steps = [
                    step_of(model, device, options.batch, options.size, backend=backend) for model in (dense, templates)
                ]
                a, b = medians(steps, warm=10 if cuda else 1, count=options.count)
            name = f"{request.kind}{', compiled' if backend else ''} ({shared})"
            print(f"| {name} | {1e3 * a:.1f} ms | {1e3 * b:.1f} ms | {b / a - 1:+.1%} |", flush=True)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    main()
