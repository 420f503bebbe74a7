"""(a) the CPU's losses, (b) every option, (c) stop and resume, (d) nothing in an update waits for the device."""

import json
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from growtool.checkpoint import build, open_checkpoint
from growtool.finetune.config import RunConfig
from growtool.finetune.job import Job
from growtool.finetune.parallel.device import in_use
from growtool.finetune.run import finetune
from growtool.finetune.state.copies import Copies
from growtool.finetune.state.journal import METRICS
from growtool.finetune.state.progress import RunProgress
from growtool.finetune.state.records import Progress
from growtool.finetune.state.snapshot import take
from growtool.finetune.stopping import Stopped
from growtool.library.timm import input_size
from growtool.templates.convert import write_decomposed
from growtool.templates.decompose import Request, decompose
from growtool.trace import trace_model
from tests.gpu.checks import Check
from tests.gpu.material import Material, batches_of, begun, losses_of
from tests.gpu.report import Skip

_CLOSE = 5e-3  # relative, of losses after a few updates whose sums are in another order
_WIDER = "width: {operator: net2net}\ntarget: {scale: {width: 2}}\n"
_DEEPER = "depth: {operator: zero_out}\ntarget: {scale: {depth: 2}}\n"
_TEMPLATES = "resnet in template form"
_ITSELF = "itself"  # as its teacher


def checks(material: Material) -> Iterator[Check]:
    """The checks of these parts."""
    for kind in ("resnet", "vit"):
        yield Check("a", f"six updates of {kind} against the CPU", partial(_like_the_cpu, material, kind))
    for name, kind, options in _OPTIONS:
        yield Check("b", f"{kind}: {name}", partial(_three_updates, material, kind, options))
    yield Check("c", "stopped, resumed", partial(_resumed, material), 15)
    for name, kind, options in _OPTIONS:
        yield Check("d", f"ten updates of {kind}: {name}", partial(_without_waiting, material, kind, options))


def _like_the_cpu(material: Material, kind: str) -> str:
    def on_device(job: Job) -> None:
        trainer = job.trainer
        state = {**dict(trainer.model.named_parameters()), **dict(trainer.model.named_buffers())}
        for number, slots in enumerate(trainer.optimizer.state.values()):
            state |= {f"{number}/{slot}": value for slot, value in slots.items() if value.dim()}
        wrong = [name for name, tensor in state.items() if tensor.device.type != material.device.type]
        assert not wrong, f"not on the device: {wrong[:5]}"

    config = partial(material.config, material.model(kind), tf32=False)
    found = losses_of(config(), 6, on_device)
    expected = losses_of(config(device="cpu"), 6)
    worst = max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
    assert worst < _CLOSE, f"{found} on the device, {expected} on the CPU"
    return f"losses differ by {worst:.1e} at most"


_OPTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("bf16", "vit", {"amp": True}),
    (
        "fp16, clipped, in two parts",
        "resnet",
        {"amp": True, "amp_dtype": "float16", "clip_grad": 1.0, "grad_accum_steps": 2},
    ),
    ("channels-last", "resnet", {"channels_last": True}),
    ("EMA", "resnet", {"model_ema": True}),
    ("mixup, cutmix, erasing", "resnet", {"mixup": 0.8, "cutmix": 1.0, "reprob": 0.5}),
    ("a teacher", "resnet", {"kd_teacher": _ITSELF}),
    ("LoRA, bf16", "vit", {"lora_rank": 2, "amp": True}),
    ("--train new with freezing", "resnet", {"train": "new", "freeze_epochs": 1, "epochs": 2}),
    ("SWAN", "vit", {"opt": "swan"}),
    ("recalibration", "resnet", {"recalibrate": 8}),
    ("templates", _TEMPLATES, {}),
    ("fused AdamW", "vit", {"opt": "adamw", "opt_kwargs": {"fused": True}}),
)


def _config_of(material: Material, kind: str, options: dict[str, Any]) -> RunConfig:
    checkpoint = _in_templates(material) if kind == _TEMPLATES else material.model(kind)
    if options.get("train") == "new":
        checkpoint = material.grown(kind, _WIDER if kind == "resnet" else _DEEPER)
    teacher = {"kd_teacher": checkpoint} if options.get("kd_teacher") == _ITSELF else {}
    return material.config(checkpoint, **options | teacher)


def _three_updates(material: Material, kind: str, options: dict[str, Any]) -> str:
    def whole(job: Job) -> None:
        snapshot = take(job.trainer, RunProgress(), Copies())
        assert snapshot is not None
        assert {tensor.device.type for tensor in snapshot.weights.values()} == {"cpu"}
        assert math.isfinite(job.evaluate().loss)

    found = losses_of(_config_of(material, kind, options), 3, whole)
    assert found and all(map(math.isfinite, found)), f"losses {found}"
    return f"losses {', '.join(f'{loss:.4f}' for loss in found)}"


def _in_templates(material: Material) -> Path:
    folder = material.scratch / "templates"
    if not folder.exists():
        source = open_checkpoint(material.model("resnet"))
        skeleton = build(source.spec)
        trace = trace_model(skeleton, input_size(skeleton))
        found = decompose(Request("raw"), skeleton, trace, source.tensors, source.read)
        write_decomposed(folder, source, skeleton, found, exact=True)
    return folder


class _Stop(Progress):
    """SIGTERM to this process after some updates."""

    def __init__(self, after: int) -> None:
        self.after = after

    def advanced(self, step: int) -> None:
        if step == self.after:
            os.kill(os.getpid(), signal.SIGTERM)


def _resumed(material: Material) -> str:
    def losses(folder: Path) -> list[float]:
        records = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
        return [record["loss"] for record in records if record["event"] == "step"]

    config = partial(material.config, material.model("resnet"), epochs=None, steps=6, tf32=False)
    whole, parts = config(), material.scratch / "parts"
    finetune(whole)
    try:
        finetune(config(output=parts), _Stop(3))
    except Stopped:
        finetune(config(output=parts, resume="auto"))
    else:
        raise AssertionError("SIGTERM did not stop the run")
    expected, found = losses(whole.output), losses(parts)
    worst = max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
    assert worst < _CLOSE, f"{found} in two parts, {expected} in one"
    return f"losses differ by {worst:.1e} at most"


def _without_waiting(material: Material, kind: str, options: dict[str, Any]) -> str:
    if options.get("amp_dtype") == "float16":
        options = options | {"opt_kwargs": {"fused": True}}  # other optimizers are told by torch's scaler, which waits
    with in_use(material.device, tf32=True):
        job = begun(_config_of(material, kind, options))
        batches = batches_of(job, 11)
        job.trainer.update(*batches[0])  # memory, streams and handles are made at the first
        with _refusing_to_wait() if material.cuda else nullcontext():
            for batch in batches[1:]:
                job.trainer.update(*batch)
    if not material.cuda:
        raise Skip("the updates ran; only CUDA tells what waits for it")
    return "none waits"


@contextmanager
def _refusing_to_wait() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
