"""A tiny trained-looking checkpoint and a tiny set of images for the tests of fine-tuning."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from growtool.finetune.config import RunConfig
from growtool.finetune.evaluate import evaluate_checkpoint
from growtool.finetune.options.merging import make_config
from growtool.finetune.state.records import Evaluation, Progress
from growtool.finetune.update.trainable import Selection, marked_new
from tests.support.models import write_initial

# timm's reader leaves closing its image files to the garbage collector.
UNCLOSED_IMAGES = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
CLASSES = ("blue", "green", "red")
MODEL_ARGS: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": [4, 8, 8, 12], "num_classes": len(CLASSES)}
PINNED = [1.012048, 1.218956, 1.106994, 1.152958, 1.092705, 1.020820]  # losses of `run_config` as it stands
PRETRAINED_CFG = {"input_size": (3, 32, 32), "crop_pct": 1.0, "interpolation": "bilinear"}


class Notices(Progress):
    """Remembers what a user would be told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def noticed(self, text: str) -> None:
        self.said.append(text)


class Signal(Progress):
    """A signal to this process after some updates, counted over the stages."""

    def __init__(self, after: int, number: int) -> None:
        self.left, self.number = after, number

    def advanced(self, step: int) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


def write_images(root: Path, *, per_class: int, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> Path:
    """`per_class` noisy images of one colour channel for each class, 40 by 36 pixels, the same ones at every call."""
    random = np.random.default_rng(seed)
    for channel, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = random.integers(0, 160, (36, 40, 3), dtype=np.uint8)
            pixels[..., 2 - channel % 3] += 60
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def images_to_grow_on(folder: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    """The `data` of a plan: two batches of images, four of each class."""
    return {"path": str(write_images(folder, per_class=4, classes=classes)), "batches": 2, "batch_size": 10}


def write_data(root: Path, *, train: int = 8, validation: int = 4, classes: tuple[str, ...] = CLASSES) -> Path:
    """An image folder with both splits."""
    write_images(root / "train", per_class=train, classes=classes)
    write_images(root / "validation", per_class=validation, classes=classes, seed=1)
    return root


def write_checkpoint(folder: Path, **model_args: Any) -> Path:
    """A tiny ResNet of three classes as timm saves it, with weights that a seed alone decides."""
    args = MODEL_ARGS | model_args
    return write_initial("resnet18", args, folder, pretrained_cfg=PRETRAINED_CFG)


def change_config(folder: Path, **changes: Any) -> None:
    """Set top-level keys of a checkpoint's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def run_config(checkpoint: Path, data: Path, output: Path, **changes: Any) -> RunConfig:
    """A run of seconds: two epochs of three updates, a record for each; no warm-up, and timm's crops."""
    settings: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 8,
        "lr": 1e-2,
        "warmup_steps": 0,
        "train_crop_mode": None if changes.get("no_aug") else "rrc",
        "workers": 0,
        "log_interval": 1,
        "device": "cpu",
    }
    return RunConfig(checkpoint=checkpoint, data=data, output=output, **settings | changes)


def evaluated(
    checkpoint: Path, data: Path, told: Callable[[str], None] = lambda remark: None, **options: Any
) -> Evaluation:
    """A checkpoint on the validation split of a folder, in this process."""
    config = make_config({"checkpoint": checkpoint, "data": data, "workers": 0, "device": "cpu", **options})
    return evaluate_checkpoint(config, told)


def new_in(folder: Path) -> Selection:
    """What is new by the growth report in the folder of a grown checkpoint."""
    return marked_new(json.loads((folder / "growth.json").read_text())["tensors"])


def read_metrics(output: Path, event: str) -> list[dict[str, Any]]:
    """The records of one kind in a run's metrics.jsonl."""
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["event"] == event]


def losses(output: Path) -> list[float]:
    """The training loss of every update."""
    return [record["loss"] for record in read_metrics(output, "step")]
