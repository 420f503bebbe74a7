"""What a model expects of its images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from growtool.errors import PlanError
from growtool.library import ModelSpec, library_of
from growtool.library.timm import input_size


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """What the model expects of its input: size [channels, height, width] and how images are scaled and normalised."""

    input_size: tuple[int, int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    crop_mode: str

    @classmethod
    def of(cls, model: nn.Module) -> ImageFormat:
        """Read it from the model's `pretrained_cfg`, as timm does."""
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
        """timm's transform for evaluation, from a PIL image to [C, H, W]: resized and cropped at the centre.

        Args:
            raw: leave the values 0 to 255, for a loader that normalises; otherwise they are normalised.
        """
        from timm.data import create_transform

        transform: Callable[[Any], Tensor] = create_transform(
            self.input_size,
            is_training=False,
            use_prefetcher=raw,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
        )
        return transform


def require_images(spec: ModelSpec, name: str) -> None:
    """Raise where a checkpoint, called `name`, is of a model that takes something else than images.

    Raises:
        PlanError: it is.
    """
    words = library_of(spec).words
    if words.many != "images":
        raise PlanError(
            f"{name}: {spec.architecture} takes {words.many} of another kind, expected a model of images; train and "
            "measure it with the tools of its library"
        )


def _for_channels(values: Any, channels: int) -> tuple[float, ...]:
    """One number for each channel: of another length their mean, as timm's loader takes it (`adapt_to_chs`)."""
    if not isinstance(values, tuple | list):
        return (float(values),) * channels
    if len(values) == channels:
        return tuple(values)
    return (torch.tensor(values, dtype=torch.float64).mean().item(),) * channels
