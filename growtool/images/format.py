"""The format of images that a model takes: their size, and how they are scaled and normalised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from growtool.errors import PlanError
from growtool.library import ModelSpec, library_of
from growtool.library.timm import input_size


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """The format of images that a model takes, by the names of timm's `create_transform`.

    Attributes:
        input_size: channels, height and width.
        interpolation: name of the filter to resize with.
        mean, std: of the values 0 to 1, one for each channel.
        crop_pct: part of the resized image's side that the crop at the centre keeps.
        crop_mode: how timm resizes and crops for evaluation.
    """

    input_size: tuple[int, int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    crop_mode: str

    @classmethod
    def of(cls, model: nn.Module) -> ImageFormat:
        """Return the format in the model's `pretrained_cfg`, with defaults as in timm."""
        from timm.data import resolve_data_config

        size = input_size(model)
        config = resolve_data_config({"input_size": size}, pretrained_cfg=model.pretrained_cfg)
        return cls(
            input_size=size,
            interpolation=config["interpolation"],
            mean=_for_channels(config["mean"], size[0]),
            std=_for_channels(config["std"], size[0]),
            crop_pct=config["crop_pct"],
            crop_mode=config["crop_mode"],
        )

    def evaluation(self, *, raw: bool = False) -> Callable[[Any], Tensor]:
        """Return timm's transform for evaluation, which makes a tensor [C, H, W] of a PIL image.

        It resizes the image and crops it at the centre.

        Args:
            raw: return values 0 to 255, for a loader that normalises them on the device, rather than normalised ones.
        """
        from timm.data import create_transform

        transform: Callable[[Any], Tensor] = create_transform(**asdict(self), is_training=False, use_prefetcher=raw)
        return transform


def require_images(spec: ModelSpec, name: str) -> None:
    """Check that a model takes images.

    Args:
        name: name of its checkpoint, for messages.

    Raises:
        PlanError: the model takes something else.
    """
    words = library_of(spec).words
    if words.many != "images":
        raise PlanError(
            f"{name}: {spec.architecture} takes {words.many} of another kind, expected a model of images; train and "
            "measure it with the tools of its library"
        )


def _for_channels(values: Any, channels: int) -> tuple[float, ...]:
    """Return a number for each channel: their mean for all if there are more or fewer, as in timm's `adapt_to_chs`."""
    if not isinstance(values, tuple | list):
        return (float(values),) * channels
    if len(values) == channels:
        return tuple(values)
    return (torch.tensor(values, dtype=torch.float64).mean().item(),) * channels
