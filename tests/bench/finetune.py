"""Training against a plain timm loop: `python -m tests.bench.finetune [--device cuda] [--updates N]`.

Both sides do the same updates on the same batches, in turn, so that whatever else the machine does strikes both. The
plain loop does what timm's train script does for an update: forward under autocast, loss, backward, step, scheduler.
On CUDA both have TF32 and cuDNN's search for the fastest convolution, as that script turns them on.
On a CPU the models are small and time is the processor's; on CUDA they are resnet50 and vit_small, time is the clock's.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.loss import create_classification_loss
from timm.models import save_for_hf
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import dispatch_clip_grad
from torch import Tensor

from growtool.finetune.config import RunConfig
from growtool.finetune.data.loaders import train_batches
from growtool.finetune.parallel.device import in_use, mixed_precision
from growtool.finetune.parallel.distributed import World
from growtool.finetune.prepare import prepare
from growtool.finetune.update.model import layout, place
from growtool.images import ImageFormat, open_split

SMALL: dict[str, dict[str, Any]] = {
    "resnet18": {"channels": [16, 32, 64, 128], "num_classes": 10},
    "vit_tiny_patch16_224": {
        "img_size": 64,
        "patch_size": 8,
        "embed_dim": 96,
        "depth": 6,
        "num_heads": 3,
        "num_classes": 10,
    },
}
LARGE: dict[str, dict[str, Any]] = {"resnet50": {"num_classes": 10}, "vit_small_patch16_224": {"num_classes": 10}}


@dataclass(frozen=True)
class Setting:
    """One row."""

    amp: bool = False
    channels_last: bool = False
    compiled: str | None = None

    def __str__(self) -> str:
        parts = ["bf16" if self.amp else "fp32", "channels-last" if self.channels_last else "contiguous"]
        return ", ".join([*parts, f"compiled ({self.compiled})"] if self.compiled else parts)


@dataclass(frozen=True)
class Row:
    """Images per second of the plain loop and of growtool, and the median of the ratios of their times."""

    what: str
    how: str
    plain: float
    ours: float
    ratio: float

    def __str__(self) -> str:
        return f"| {self.what} | {self.how} | {self.plain:,.0f} | {self.ours:,.0f} | {self.ratio:.3f} |"


def clock(device: torch.device) -> float:
    """Seconds of the processor, or of the clock once the GPU is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def plain_update(model: torch.nn.Module, config: RunConfig, device: torch.device, steps: int) -> Callable[..., Tensor]:
    """An update as timm's train script does it."""
    model = place(model, device, channels_last=config.channels_last).train()
    optimizer = create_optimizer_v2(model, opt=config.opt, lr=config.lr, weight_decay=config.weight_decay)
    schedule, _ = create_scheduler_v2(optimizer, num_epochs=steps, step_on_epochs=False, updates_per_epoch=1)
    criterion = create_classification_loss("ce", smoothing=config.smoothing).to(device)
    forward = torch.compile(model, backend=config.torchcompile) if config.torchcompile else model
    done = 0

    def update(images: Tensor, targets: Tensor) -> Tensor:
        nonlocal done
        images = images.contiguous(memory_format=layout(config.channels_last))
        with mixed_precision(device, config.autocast):
            loss = criterion(forward(images), targets)
        optimizer.zero_grad()
        loss.backward()
        if config.clip_grad:
            dispatch_clip_grad(model.parameters(), config.clip_grad, mode=config.clip_mode)
        optimizer.step()
        done += 1
        schedule.step_update(done)
        return loss

    return update


def write_images(root: Path, size: int, per_class: int) -> Path:
    """Ten classes of random images."""
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "validation"):
        for label in range(10):
            folder = root / split / f"{label}"
            folder.mkdir(parents=True)
            for number in range(per_class if split == "train" else 1):
                pixels = torch.randint(256, (size, size, 3), dtype=torch.uint8, generator=generator)
                Image.fromarray(pixels.numpy()).save(folder / f"{number}.jpg")
    return root


def compare(
    name: str, arguments: dict[str, Any], setting: Setting, device: torch.device, updates: int, batch: int
) -> Row:
    """Updates on one batch of random numbers."""
    torch.compiler.reset()  # else sizes of earlier rows make for kernels of any size, and after a few rows for none
    with tempfile.TemporaryDirectory() as scratch, in_use(device, tf32=True):
        root = Path(scratch)
        torch.manual_seed(0)
        model = timm.create_model(name, **arguments)
        save_for_hf(model, root / "model", model_args=arguments, safe_serialization=True)
        size = timm.create_model(name, **arguments).pretrained_cfg["input_size"][-1]
        size = arguments.get("img_size", size if device.type == "cuda" else 64)
        config = RunConfig(
            checkpoint=root / "model",
            data=write_images(root / "images", 8, -(-batch // 10)),  # none of them is read
            output=root / "run",
            batch_size=batch,
            steps=10 * updates,
            workers=0,
            device=str(device),
            amp=setting.amp,
            channels_last=setting.channels_last,
            torchcompile=setting.compiled,
        )
        job = prepare(config, device)
        trainer = job.trainer
        trainer.selection.train_mode(trainer.model)
        plain = plain_update(model, job.config, device, 10 * updates)  # with what was chosen for it
        images = torch.randn(batch, 3, size, size, device=device)
        targets = torch.randint(10, (batch,), device=device)
        seconds: tuple[list[float], list[float]] = ([], [])
        for number in range(updates + 3):
            for side, update in zip(seconds, (plain, trainer.update), strict=True):
                start = clock(device)
                update(images, targets)
                if number >= 3:  # the first ones compile and warm up
                    side.append(clock(device) - start)
    ratio = statistics.median(a / b for a, b in zip(*seconds, strict=True))
    speeds = [batch / statistics.median(side) for side in seconds]
    return Row(name, str(setting), *speeds, ratio)


def compare_files(
    name: str, arguments: dict[str, Any], device: torch.device, batch: int, workers: int, images: Path
) -> Row:
    """Updates in bf16 on batches read from JPEG files, by growtool's loader and by timm's; epochs take turns."""
    with tempfile.TemporaryDirectory() as scratch, in_use(device, tf32=True):
        root = Path(scratch)
        torch.manual_seed(0)
        model = timm.create_model(name, **arguments)
        save_for_hf(model, root / "model", model_args=arguments, safe_serialization=True)
        config = RunConfig(
            checkpoint=root / "model", data=images, output=root / "run",
            batch_size=batch, steps=1000, workers=workers, device=str(device), amp=True,
        )  # fmt: skip
        job = prepare(config, device)
        job.begin_epoch(1)
        theirs = timm_loader(images / "train", ImageFormat.of(model), batch, workers, device)
        sides = (
            (plain_update(model, job.config, device, 1000), lambda epoch: theirs),
            (job.trainer.update, job.train.epoch),
        )
        speeds: tuple[list[float], list[float]] = ([], [])
        for epoch in range(1, 5):
            for speed, (update, batches) in zip(speeds, sides, strict=True):
                start, seen = time.perf_counter(), 0
                for pixels, targets in batches(epoch):
                    update(pixels, targets)
                    seen += len(targets)
                clock(device)  # waits for the device
                if epoch > 1:  # the first one starts workers and warms up
                    speed.append(seen / (time.perf_counter() - start))
    plain, ours = map(statistics.median, speeds)
    return Row(name, f"bf16, JPEG files, {workers} workers", plain, ours, ours / plain)


def timm_loader(folder: Path, format: ImageFormat, batch: int, workers: int, device: torch.device) -> Any:
    """timm's own loader with the augmentation of our defaults."""
    from timm.data import create_dataset, create_loader

    return create_loader(
        create_dataset("", root=str(folder)), format.input_size, batch, is_training=True, no_aug=False,
        num_workers=workers, persistent_workers=workers > 0, device=device, scale=(0.08, 1.0), color_jitter=0.4,
        pin_memory=device.type == "cuda", interpolation=format.interpolation, mean=format.mean, std=format.std,
    )  # fmt: skip


def compare_reading(device: torch.device, batch: int) -> Row:
    """The same for reading and augmenting images, against timm's own loader."""
    with tempfile.TemporaryDirectory() as scratch:
        root = write_images(Path(scratch), 64, 60)
        model = timm.create_model("resnet18", pretrained_cfg_overlay={"input_size": (3, 64, 64)})
        format = ImageFormat.of(model)
        config = RunConfig(checkpoint=root, data=root, output=root, batch_size=batch, workers=0)
        ours = train_batches(open_split(root / "train"), format, config, World(), device)
        theirs = timm_loader(root / "train", format, batch, 0, device)
        speeds: tuple[list[float], list[float]] = ([], [])
        for epoch in range(1, 6):
            for side, batches in zip(speeds, (iter(theirs), ours.epoch(epoch)), strict=True):
                start = clock(device)
                read = sum(len(targets) for _, targets in batches)
                side.append(read / (clock(device) - start))
    ratio = statistics.median(b / a for a, b in zip(*speeds, strict=True))
    return Row("reading and augmenting", f"{batch} a batch", *map(statistics.median, speeds), ratio)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--batch", type=int)
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    cuda = device.type == "cuda"
    batch = chosen.batch or (256 if cuda else 32)
    backend = "inductor" if cuda else "eager"
    settings = [
        Setting(amp, last, compiled)
        for amp in ((True,) if cuda else (False, True))
        for last in (False, True)
        for compiled in ((None, backend) if cuda else (None,))
    ]
    print(
        "| model | how | plain timm loop, images/s | growtool, images/s | ratio |\n| --- | --- | ---: | ---: | ---: |"
    )
    for name, arguments in (LARGE if cuda else SMALL).items():
        for setting in settings:
            print(compare(name, arguments, setting, device, chosen.updates, batch), flush=True)
    print(compare_reading(device, 32))


if __name__ == "__main__":
    main()
