"""(i) how long a snapshot of a ViT-L with its average holds training up, (j) a ViT-L grown, proven on the device."""

import time
from collections.abc import Iterator
from functools import partial

import torch

from growtool.checkpoint import open_checkpoint
from growtool.finetune.parallel.device import in_use, peak_memory
from growtool.finetune.state.copies import Copies
from growtool.finetune.state.progress import RunProgress
from growtool.finetune.state.snapshot import take
from growtool.finetune.update.model import load_model, place
from tests.gpu.checks import Check
from tests.gpu.material import Material, batches_of, begun

_LONGEST = 0.3  # seconds
_DEEPER = "depth: {operator: zero_out}\ntarget: {scale: {depth: 1.5}}\n"
_CLOSE = 1e-4


def checks(material: Material) -> Iterator[Check]:
    """The checks of these parts."""
    yield Check("i", "a snapshot of a ViT-L with EMA", partial(_stall, material), 35)
    yield Check("j", "a ViT-L grown deeper, proven on the device", partial(_grown, material), 40)


def _stall(material: Material) -> str:
    stalls, copies = [], Copies()
    with in_use(material.device, tf32=True):
        batch = 2 if material.tiny else 10
        job = begun(material.config(material.model("large"), model_ema=True, amp=True, batch_size=batch))
        for batch in batches_of(job, 3):
            job.trainer.update(*batch)
            if material.cuda:
                torch.cuda.synchronize(material.device)
            start = time.perf_counter()
            take(job.trainer, RunProgress(), copies)
            stalls.append(time.perf_counter() - start)
        peak = peak_memory(material.device)
    first, *later = stalls
    found = f"{first:.2f} s with the memory for it, {max(later):.3f} s after that; peak {peak / 2**30:.1f} GiB"
    assert material.tiny or not material.cuda or max(later) < _LONGEST, f"{found}, expected less than {_LONGEST} s"
    return found


def _grown(material: Material) -> str:
    start = time.perf_counter()
    source, target = material.model("large"), material.grown("large", _DEEPER)
    seconds = time.perf_counter() - start
    with in_use(material.device, tf32=False), torch.no_grad():
        before, after = (place(load_model(open_checkpoint(path)), material.device, channels_last=False)
                         for path in (source, target))  # fmt: skip
        size = before.pretrained_cfg["input_size"]
        images = torch.randn(2, *size, generator=torch.Generator().manual_seed(0)).to(material.device)
        expected, found = before(images), after(images)
    worst = float((found - expected).abs().max() / expected.abs().max())
    assert worst < _CLOSE, f"logits differ by {worst:.1e}, expected {_CLOSE:.0e} at most"
    blocks = f"{len(before.blocks)} -> {len(after.blocks)} blocks"
    return f"{blocks}, grown and verified in {seconds:.0f} s; on the device logits differ by {worst:.1e}"
