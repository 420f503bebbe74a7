"""Accuracy and loss of a model on labelled images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from growtool.checkpoint import open_checkpoint
from growtool.finetune.data import EVAL_SPLITS, class_names, find_split, number_classes, open_split, require_readable
from growtool.finetune.device import mixed_precision, resolve_device
from growtool.finetune.loaders import ImageFormat, eval_batches
from growtool.finetune.model import count_classes, layout, load_model, place
from growtool.finetune.records import Evaluation

if TYPE_CHECKING:
    from torch import nn


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    device: torch.device,
    autocast: str | None = None,
    channels_last: bool = False,
) -> Evaluation:
    """Run `model` in eval mode (and leave it there) over batches of (images [B, C, H, W], class numbers [B])."""
    model.eval()
    right1 = right5 = count = 0
    loss = torch.zeros((), dtype=torch.float64, device=device)
    with torch.inference_mode():
        for images, targets in batches:
            with mixed_precision(device, autocast):
                logits = model(images.contiguous(memory_format=layout(channels_last))).float()
            ranked = logits.topk(min(5, logits.shape[1])).indices == targets[:, None]
            right1 += int(ranked[:, 0].sum())
            right5 += int(ranked.sum())
            count += len(targets)
            loss += torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    return Evaluation(100 * right1 / count, 100 * right5 / count, float(loss) / count, count)


def evaluate_folder(
    checkpoint: Path | str,
    data: Path | str,
    *,
    batch_size: int = 256,
    workers: int = 0,
    device: str = "auto",
    autocast: str | None = None,
    channels_last: bool = False,
) -> Evaluation:
    """Evaluate a checkpoint on the validation split of an image folder.

    Args:
        checkpoint: a timm folder or a `.safetensors` file.
        data: a folder with `validation/CLASS/*` (or `val`, `valid`, `test`).
        batch_size: images at a time.
        workers: processes that read images.
        device: `auto`, or a torch device.
        autocast: type for mixed precision, `bfloat16` or `float16`.
        channels_last: lay images and convolutions out in channels-last order.

    Raises:
        CheckpointError: the checkpoint cannot be opened or is not what its config says.
        PlanError: no such folder, no images, other classes than the checkpoint's, no such device.
    """
    where = resolve_device(device)
    source = open_checkpoint(checkpoint)
    model = load_model(source)
    format = ImageFormat.of(model)
    split = open_split(find_split(Path(data), EVAL_SPLITS), channels=format.input_size[0])
    names = source.spec.label_names or class_names(
        split, num_classes=count_classes(model), label_names=None, checkpoint=source.name
    )
    number_classes(split, names)
    require_readable(split)
    batches = eval_batches(split, format, batch_size=batch_size, workers=workers, device=where)
    model = place(model, where, channels_last=channels_last)
    return evaluate(model, batches, device=where, autocast=autocast, channels_last=channels_last)
