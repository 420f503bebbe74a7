"""Accuracy and loss of a model on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

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
    """Return accuracy and loss of a model.

    With several processes, each evaluates its part of the images, and all get the result over all images.

    Args:
        model: set to evaluation mode, and left there.
        batches: images [B, C, H, W] and class numbers [B]; images with a negative number are not counted.
        device: of the model and the batches.
        autocast: name of the type for mixed precision; None for none.
        channels_last: lay images out in channels-last order.
        world: the processes that share the images; by default one.
        forward: calls the model, if it is compiled; by default `model`.

    Raises:
        PlanError: no image is counted.
    """
    model.eval()
    call = model if forward is None else forward
    sums = torch.zeros(4, dtype=torch.float64, device=device)  # images right by top-1, by top-5; loss; images
    # Not inference_mode: FSDP2 would keep gathered weights as inference tensors, with which training cannot continue.
    with torch.no_grad():
        for images, targets in batches:
            with mixed_precision(device, autocast):
                logits = call(images.contiguous(memory_format=layout(channels_last))).float()
            # Images that are not counted are masked rather than selected: to select them, the size of the result would
            # have to come from the device at every batch. No class has their number, so that none of them is right.
            targets = targets.clamp(min=NOT_COUNTED)
            is_right_BK = logits.topk(min(5, logits.shape[1])).indices == targets[:, None]
            loss = cross_entropy(logits, targets, ignore_index=NOT_COUNTED, reduction="sum")
            sums += torch.stack([is_right_BK[:, 0].sum(), is_right_BK.sum(), loss.double(), (targets >= 0).sum()])
    right1, right5, loss_sum, count = (world or World()).total(sums).tolist()
    if count == 0:
        raise PlanError("found no image that can be read for evaluation, expected at least one; restore the data")
    return Evaluation(100 * right1 / count, 100 * right5 / count, loss_sum / count, int(count))


def evaluate_checkpoint(config: RunConfig, told: Callable[[str], None] = lambda remark: None) -> Evaluation:
    """Evaluate a checkpoint on the validation split of a folder of images, or of a dataset of timm.

    Args:
        config: names checkpoint and data, and how to evaluate; its options of training are not used.
        told: called with each sentence that the user should read, such as on files that are left out.

    Raises:
        CheckpointError: the checkpoint cannot be opened, or its weights are not those of its config.
        PlanError: no such folder, no images, other classes than the checkpoint's, or no such device.
    """
    device = resolve_device(config.device)
    with in_use(device, tf32=config.tf32):
        return evaluate_source(config.checkpoint, config, device, World(), told)


def evaluate_source(
    checkpoint: Path | str,
    config: RunConfig,
    device: torch.device,
    world: World,
    told: Callable[[str], None] = lambda remark: None,
) -> Evaluation:
    """Evaluate a checkpoint on the evaluation split that `config` names.

    Args:
        checkpoint: a timm folder or a `.safetensors` file.
        config: the options for data, batches and precision; its own checkpoint is not used.
        world: the processes that share the images; all of them must call this.
        told: called with each sentence that the user should read.

    Raises:
        CheckpointError: the checkpoint cannot be opened, or its weights are not those of its config.
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
    batches = eval_batches(split, format, config, world, device)
    model = place(model, device, channels_last=config.channels_last)
    result = evaluate(
        model,
        batches,
        device=device,
        autocast=config.autocast,
        channels_last=config.channels_last,
        world=world,
        forward=compiled(model, config.torchcompile),
    )
    if batches.unreadable:
        unreadable = tuple(batches.unreadable)
        told(f"{len(unreadable)} images could not be read and count as nothing: {format_names(unreadable, 4)}")
    return result
