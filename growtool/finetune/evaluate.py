"""Accuracy and loss of a model on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from growtool.checkpoint import open_checkpoint
from growtool.errors import PlanError, format_names
from growtool.finetune.config import RunConfig
from growtool.finetune.data.fields import require_labels
from growtool.finetune.data.loaders import eval_batches
from growtool.finetune.data.reading import NOT_COUNTED
from growtool.finetune.data.sources import open_source
from growtool.finetune.options.merging import make_config
from growtool.finetune.parallel.device import in_use, mixed_precision, resolve_device
from growtool.finetune.parallel.distributed import World
from growtool.finetune.state.records import Evaluation
from growtool.finetune.update.model import compiled, count_classes, layout, load_model, place
from growtool.images import ImageFormat, class_names, numbered, require_images, require_readable


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    device: torch.device,
    autocast: str | None = None,
    channels_last: bool = False,
    world: World | None = None,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> Evaluation:
    """Run `model` in eval mode (and leave it there) over batches of (images [B, C, H, W], class numbers [B]).

    Images with a negative class number count as nothing. With several processes each has its part of the images, and
    all get the result over the whole. `forward` is the model as it is called, where it is compiled.
    """
    model.eval()
    call = model if forward is None else forward
    sums = torch.zeros(4, dtype=torch.float64, device=device)  # right among 1, among 5, loss, images
    with torch.no_grad():  # inference tensors of sharded weights could not train on
        for images, targets in batches:
            with mixed_precision(device, autocast):
                logits = call(images.contiguous(memory_format=layout(channels_last))).float()
            # no selection of what counts: how many there are would have to come from the device at every batch
            targets = targets.clamp(min=NOT_COUNTED)
            ranked = logits.topk(min(5, logits.shape[1])).indices == targets[:, None]
            loss = cross_entropy(logits, targets, ignore_index=NOT_COUNTED, reduction="sum")
            sums += torch.stack([ranked[:, 0].sum(), ranked.sum(), loss.double(), (targets >= 0).sum()])
    right1, right5, total, count = (world or World()).total(sums).tolist()
    if count == 0:
        raise PlanError("found no image that can be read for evaluation, expected at least one; restore the data")
    return Evaluation(100 * right1 / count, 100 * right5 / count, total / count, int(count))


def evaluate_checkpoint(
    checkpoint: Path | str,
    data: Path | str,
    *,
    dataset: str = "",
    split: str | None = None,
    batch_size: int = 256,
    workers: int = 0,
    device: str = "auto",
    autocast: str | None = None,
    channels_last: bool = False,
    data_kwargs: Mapping[str, Any] | None = None,
    told: Callable[[str], None] = lambda remark: None,
    tf32: bool = True,
) -> Evaluation:
    """Evaluate a checkpoint on the validation split of a folder of images, or of a data set of timm's.

    Args:
        checkpoint: a timm folder or a `.safetensors` file.
        data: a folder with `validation/CLASS/*` (or `val`, `valid`, `test`), images, tar files or parquet; or the
            root of `dataset`.
        dataset: a dataset string of timm, e.g. `hfds/uoft-cs/cifar10`.
        split: name of the split; by default the first that is there of validation, val, valid and test.
        batch_size: images at a time.
        workers: processes that read images.
        device: `auto`, or a torch device.
        autocast: type for mixed precision, `bfloat16` or `float16`.
        channels_last: lay images and convolutions out in channels-last order.
        data_kwargs: options for the reader of `dataset` or of parquet.
        told: called with a sentence on each thing that its user should know, such as files that are left out.
        tf32: on CUDA, products in TF32 and cuDNN's search for the fastest convolution, as timm evaluates.

    Raises:
        CheckpointError: the checkpoint cannot be opened or is not what its config says.
        PlanError: no such folder, no images, other classes than the checkpoint's, no such device.
    """
    config = make_config(
        {
            "checkpoint": checkpoint,
            "data": data,
            "dataset": dataset,
            "val_split": split,
            "batch_size": batch_size,
            "workers": workers,
            "amp": autocast is not None,
            "amp_dtype": autocast,
            "channels_last": channels_last,
            "data_kwargs": dict(data_kwargs or {}),
        }
    )
    found = resolve_device(device)
    with in_use(found, tf32=tf32):
        return evaluate_source(checkpoint, config, found, World(), told)


def evaluate_source(
    checkpoint: Path | str,
    config: RunConfig,
    device: torch.device,
    world: World,
    told: Callable[[str], None] = lambda remark: None,
) -> Evaluation:
    """Evaluate a checkpoint on the evaluation split that `config` names; every process of `world` takes its part.

    Raises:
        CheckpointError: the checkpoint cannot be opened or is not what its config says.
        PlanError: no images, or other classes than the checkpoint's.
    """
    source = open_checkpoint(checkpoint)
    require_images(source.spec, source.name)
    model = load_model(source)
    format = ImageFormat.of(model)
    split = open_source(config, training=False, channels=format.input_size[0], checkpoint=source.name)
    classes = count_classes(model)
    require_labels(split, classes)
    names = class_names(
        split, num_classes=classes, label_names=source.spec.label_names, checkpoint=source.name, some_do=True
    )
    split = numbered(split, names, num_classes=classes)
    for remark in split.remarks:
        told(remark)
    require_readable(split)
    batches = eval_batches(
        split, format, batch_size=config.images_at_once, workers=config.workers, device=device, world=world
    )
    model = place(model, device, channels_last=config.channels_last)
    found = evaluate(
        model,
        batches,
        device=device,
        autocast=config.autocast,
        channels_last=config.channels_last,
        world=world,
        forward=compiled(model, config.torchcompile),
    )
    if batches.unreadable:
        names = tuple(batches.unreadable)
        told(f"{len(names)} images could not be read and count as nothing: {format_names(names, 4)}")
    return found
