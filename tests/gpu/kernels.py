"""(e) compiled without compiling again and again, (f) out of memory, the advice, and going on."""

import gc
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from growtool.errors import PlanError
from growtool.finetune.config import RunConfig
from growtool.finetune.parallel.device import in_use, peak_memory
from growtool.finetune.run import finetune
from growtool.finetune.update.loop import Trainer
from tests.gpu.checks import Check
from tests.gpu.material import Material, batches_of, begun

_TRIES = 6


def checks(material: Material) -> Iterator[Check]:
    """The checks of these parts."""
    for kind in ("vit",) if material.tiny else ("resnet", "vit"):
        yield Check("e", f"{kind} compiled", partial(_compiled, material, kind), 40)
    yield Check("f", "out of memory", partial(_out_of_memory, material), 15)


def _compiled(material: Material, kind: str) -> str:
    from torch._dynamo import reset
    from torch._dynamo.utils import counters

    def graphs() -> int:
        return int(counters["stats"]["unique_graphs"])

    reset()
    counters.clear()
    backend = "inductor" if material.cuda else "eager"
    with in_use(material.device, tf32=True):
        job = begun(material.config(material.model(kind), torchcompile=backend, amp=True, model_ema=True))
        first, *rest = batches_of(job, 6)
        job.trainer.update(*first)
        after_one = graphs()
        for batch in rest:
            job.trainer.update(*batch)
        after_six = graphs()
        assert math.isfinite(job.evaluate().loss)
        evaluated = graphs()
        job.evaluate()
    assert after_one == after_six, f"{after_one} graphs after an update, {after_six} after six"
    assert graphs() == evaluated, "a second evaluation was compiled anew"
    reset()
    return f"{backend}: {after_one} graphs in training, {evaluated - after_six} more in evaluation, none after that"


def _out_of_memory(material: Material) -> str:
    """A run that does not fit; what it advises, again and again, until it does."""
    config = partial(_large_batches, material, output=material.scratch / "memory", epochs=None, steps=2)
    parts, tried = 1, []
    with _little_memory(material):
        for _ in range(_TRIES):
            try:
                finetune(config(grad_accum_steps=parts, resume="auto"))
                break
            except PlanError as error:
                advised = re.search(r"--resume auto --grad-accum-steps (\d+)", str(error))
                assert "memory of" in str(error) and advised, str(error)
                tried.append(parts)
                parts = int(advised[1])
            gc.collect()  # what the run that failed held
        else:
            raise AssertionError(f"still out of memory with --grad-accum-steps {parts}")
    assert tried, "the memory sufficed"
    return f"out of memory with {', '.join(map(str, tried))}; went on with --grad-accum-steps {parts}, as advised"


@contextmanager
def _little_memory(material: Material) -> Iterator[None]:
    """So much that an update fits in small parts alone."""
    if not material.cuda:
        with _pretended():
            yield
        return
    device, whole = material.device, torch.cuda.get_device_properties(material.device).total_memory
    peaks = [_peak(_large_batches(material, grad_accum_steps=parts)) for parts in (1, material.batch)]
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((0.4 * peaks[0] + 0.6 * peaks[1]) / whole, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _large_batches(material: Material, **options: Any) -> RunConfig:
    """Without cuDNN's search for the fastest convolution, which at the first update needs memory of its own."""
    return material.config(material.model("resnet"), batch_size=16 * material.batch, tf32=False, **options)


def _peak(config: RunConfig) -> int:
    device = torch.device(config.device)
    with in_use(device, tf32=config.tf32):
        job = begun(config)
        job.trainer.update(*batches_of(job, 1)[0])
        return peak_memory(device)


@contextmanager
def _pretended() -> Iterator[None]:
    """A CPU that cannot hold all images of an update at once."""
    backward = Trainer.backward

    def refusing(self: Trainer, *arguments: Any) -> Any:
        if self.config.grad_accum_steps == 1:
            raise torch.OutOfMemoryError("out of memory, as it is pretended here")
        return backward(self, *arguments)

    Trainer.backward = refusing  # type: ignore[method-assign]
    try:
        yield
    finally:
        Trainer.backward = backward  # type: ignore[method-assign]
