"""Models and images for the checks, random and made once, and the updates that most of them do."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from growtool.finetune.config import RunConfig
from growtool.finetune.job import Job
from growtool.finetune.parallel.device import in_use
from growtool.finetune.prepare import prepare
from growtool.growing import grow
from growtool.growing.source import open_planned
from growtool.plan import load_plan
from growtool.recipe import resolve
from tests.bench.finetune import write_images
from tests.support.models import write_initial

CLASSES = 10
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("resnet18", {"layers": [1, 1, 1, 1], "channels": [4, 8, 8, 12]}),
    "vit": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 3}),
    "large": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 4}),
}
FULL: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("resnet18", {}),
    "vit": ("vit_tiny_patch16_224", {"img_size": 64, "patch_size": 8, "depth": 6}),
    "large": ("vit_large_patch16_224", {}),
}


@dataclass
class Material:
    """What the checks share.

    Attributes:
        device: to check.
        tiny: models and numbers of updates that a CPU core does in a moment.
        scratch: a folder for models, images and runs.
        deadline: when the time is over, by `time.monotonic`.
        kept: a folder for what is to outlast the checks.
        packed: real images, as `tests.campaign` packs them; None without.
    """

    device: torch.device
    tiny: bool
    scratch: Path
    deadline: float
    kept: Path
    packed: Path | None = None
    _made: dict[str, Path] = field(default_factory=dict)
    _runs: int = 0

    @property
    def cuda(self) -> bool:
        """Whether it is a CUDA device."""
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Seconds until the time is over."""
        return self.deadline - time.monotonic()

    @property
    def size(self) -> int:
        """Pixels of an image's side, but for the large model's."""
        return 32 if self.tiny else 64

    @property
    def batch(self) -> int:
        """Images of an update; ten classes have twice as many each."""
        return 4 if self.tiny else 32

    @cached_property
    def images(self) -> Path:
        """JPEG files of ten classes, in both splits."""
        return write_images(self.scratch / "images", self.size, 2 * self.batch)

    @cached_property
    def photographs(self) -> Path:
        """The same of the size that photographs are read in."""
        size, per_class = (32, 1) if self.tiny else (256, 128)
        return write_images(self.scratch / "photographs", size, per_class)

    def model(self, kind: str) -> Path:
        """A checkpoint with random weights: `resnet`, `vit` or `large`."""
        if kind not in self._made:
            name, arguments = (TINY if self.tiny else FULL)[kind]
            arguments = {**arguments, "num_classes": CLASSES}
            size = arguments.get("img_size", 224 if kind == "large" else self.size)
            sized = {"input_size": (3, size, size)}
            self._made[kind] = write_initial(name, arguments, self.scratch / kind, pretrained_cfg=sized)
        return self._made[kind]

    def grown(self, kind: str, plan: str) -> Path:
        """A checkpoint of that kind grown by a plan in YAML, proven on the device."""
        file = self.scratch / f"{kind}-grown.yaml"
        if not (self.scratch / f"{kind}-grown").exists():
            file.write_text(plan, encoding="utf-8")
            loaded = load_plan(file)
            recipe = resolve(loaded.plan, open_planned(self.model(kind), [loaded.plan]))
            grow(recipe, loaded, file.with_suffix(""), device=self.device)
        return file.with_suffix("")

    def config(self, checkpoint: Path, **options: Any) -> RunConfig:
        """A run of a few updates without workers, into a folder of its own."""
        self._runs += 1
        given = {"batch_size": self.batch, "workers": 0, "log_interval": 1, "device": str(self.device), "lr": 1e-3}
        given |= {"output": self.scratch / f"run{self._runs}", "data": self.images, "epochs": 1}
        return RunConfig(checkpoint=checkpoint, **given | options)


def begun(config: RunConfig) -> Job:
    """A run that stands before its first update."""
    job = prepare(config, torch.device(config.device))
    job.begin_epoch(1)
    return job


def batches_of(job: Job, count: int) -> list[tuple[Tensor, Tensor]]:
    """The first batches of its first epochs, on the device."""

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        epoch = 1
        while True:
            yield from job.train.epoch(epoch)
            epoch += 1

    return [batch for batch, _ in zip(endless(), range(count), strict=False)]


def losses_of(config: RunConfig, updates: int, then: Callable[[Job], None] = lambda job: None) -> list[float]:
    """The losses of a run's first updates; `then` looks at it afterwards."""
    with in_use(torch.device(config.device), tf32=config.tf32):
        job = begun(config)
        found = [job.trainer.update(*batch) for batch in batches_of(job, updates)]
        then(job)
    return [float(loss) for loss in found if loss is not None]
