"""CIFAR-10 held in memory, decoded once, and growtool trained from there: on a GPU reading files would take longest.

Axes: N images, B of a batch, C colours, H height, W width.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from growtool.checkpoint import open_checkpoint
from growtool.finetune.data.seeding import derive_seed
from growtool.finetune.evaluate import evaluate
from growtool.finetune.state.records import Evaluation
from growtool.finetune.update.model import load_model

SIDE, PADDING, CLASSES = 32, 4, 10
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_SPLITS = {"train": "train", "validation": "test"}


def pack(parquet: Path, out: Path) -> None:
    """Write the JPEG files and labels of both splits into one file, which a machine without pyarrow reads, too."""
    import pyarrow.parquet as pq

    packed = {}
    for split, name in _SPLITS.items():
        table = pq.read_table(parquet / f"{name}.parquet")
        packed[split] = [image["bytes"] for image in table["image"].to_pylist()], table["label"].to_pylist()
    write_packed(packed, out)


def write_packed(splits: Mapping[str, tuple[Sequence[bytes], Sequence[int]]], out: Path) -> None:
    """Files and labels of each split; compressed, as small files are alike in their headers."""
    arrays = {}
    for split, (files, labels) in splits.items():
        arrays[f"{split}.bytes"] = np.frombuffer(b"".join(files), dtype=np.uint8)
        arrays[f"{split}.ends"] = np.cumsum([len(file) for file in files])
        arrays[f"{split}.labels"] = np.asarray(labels)
    with out.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


@dataclass(frozen=True)
class Held:
    """A split: uint8 [N, C, H, W] and int64 [N] on a device.

    `remarks`, `root` and `is_stream` are what growtool asks of any split.
    """

    images: Tensor
    labels: Tensor
    remarks: tuple[str, ...] = ()
    root: str = "images held in memory"
    is_stream: bool = False

    def __len__(self) -> int:
        return len(self.labels)


def read(packed: Path, device: torch.device) -> dict[str, Held]:
    """Both splits of a file that `pack` wrote, decoded."""
    found = {}
    with np.load(packed) as arrays:
        for split in _SPLITS:
            whole, ends, labels = (arrays[f"{split}.{part}"] for part in ("bytes", "ends", "labels"))
            files = np.split(whole, ends[:-1])
            pixels = np.stack([np.asarray(Image.open(io.BytesIO(file.tobytes())).convert("RGB")) for file in files])
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
            found[split] = Held(images.to(device), torch.from_numpy(labels).to(device))
    return found


def random_splits(train: int, held_out: int) -> dict[str, Held]:
    """As many random images, the colour of each of which tells its class, for trying the campaign out."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Held:
        labels = torch.arange(count) % CLASSES
        noise = torch.randint(0, 100, (count, 3, SIDE, SIDE), generator=generator)
        return Held((noise + 15 * labels[:, None, None, None]).to(torch.uint8), labels)

    return {"train": split(train), "validation": split(held_out)}


def normalised(x_BCHW: Tensor) -> Tensor:
    """float32, with mean 0 and deviation 1 over all of CIFAR-10."""
    mean, std = (torch.tensor(values, device=x_BCHW.device).reshape(1, 3, 1, 1) for values in (_MEAN, _STD))
    return (x_BCHW.float() / 255 - mean) / std


@dataclass
class Training:
    """Batches of padded, cropped and turned images, of which the seed and the epoch decide everything."""

    split: Held
    batch_size: int
    seed: int
    unreadable: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.count = len(self.split)
        self._padded = torch.nn.functional.pad(self.split.images, [PADDING] * 4)

    def __len__(self) -> int:
        return self.count // self.batch_size

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch, counted from 1, without the first `skip`."""
        generator, device = torch.Generator().manual_seed(derive_seed(self.seed, "epoch", epoch)), self._padded.device
        order = torch.randperm(self.count, generator=generator).to(device)
        shift = torch.randint(0, 2 * PADDING + 1, (2, self.count, 1), generator=generator).to(device)
        turned = torch.randint(0, 2, (self.count, 1), generator=generator, dtype=torch.bool).to(device)
        places = torch.arange(SIDE, device=device)
        rows, columns = shift[0] + places, shift[1] + torch.where(turned, places.flip(0), places)
        for batch in range(skip, len(self)):
            some = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            cut = self._padded[some[:, None, None], :, rows[some][:, :, None], columns[some][:, None, :]]
            yield normalised(cut.permute(0, 3, 1, 2)), self.split.labels[some]


@dataclass
class Validation:
    """Every image once, in order."""

    split: Held
    batch_size: int
    unreadable: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.count = len(self.split)

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        pairs = zip(self.split.images.split(self.batch_size), self.split.labels.split(self.batch_size), strict=True)
        return ((normalised(images), labels) for images, labels in pairs)


@contextmanager
def fed_from(splits: dict[str, Held], classes: Sequence[str]) -> Iterator[None]:
    """While open, every training of growtool in this process reads these images, whatever its options name."""

    def opened(*_: Any) -> tuple[Held, Held, tuple[str, ...]]:
        return splits["train"], splits["validation"], tuple(classes)

    def training(split: Held, _: Any, config: Any, *__: Any) -> Training:
        return Training(split, config.batch_size, config.seed)

    def validation(split: Held, _: Any, config: Any, *__: Any) -> Validation:
        return Validation(split, config.images_at_once)

    instead = {
        "open_splits": opened, "require_readable": lambda split: None, "train_batches": training,
        "eval_batches": validation,
    }  # fmt: skip

    def evaluated(checkpoint: Path, config: Any, device: torch.device, *_: Any) -> Evaluation:
        model = load_model(open_checkpoint(checkpoint)).to(device)
        return evaluate(model, Validation(splits["validation"], config.images_at_once), device=device)

    with (
        patch.multiple("growtool.finetune.prepare", **instead),
        patch("growtool.finetune.epoch_loop.evaluate_source", evaluated),
        patch("growtool.finetune.possible.require_source", lambda config, *, training: None),
    ):
        yield
