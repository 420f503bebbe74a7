"""From images to batches on the device: timm's transforms and prefetching, in an order that the seed alone decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from growtool.errors import PlanError
from growtool.finetune.seeding import derive_seed, seed_generators

if TYPE_CHECKING:
    from torch import nn

    from growtool.finetune.config import RunConfig
    from growtool.finetune.data import Split

SampleKey = tuple[int, int]
"""Index of an image, and the seed of its augmentation."""


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

        from growtool.checkpoint import input_size

        config = resolve_data_config({"input_size": input_size(model)}, pretrained_cfg=model.pretrained_cfg)
        return cls(
            input_size=tuple(config["input_size"]),
            interpolation=config["interpolation"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            crop_pct=config["crop_pct"],
            crop_mode=config["crop_mode"],
        )


class EpochBatches(Sampler[list[SampleKey]]):
    """Batches of one epoch: every image once in an order drawn from (seed, epoch), less what does not fill a batch."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next pass draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[list[SampleKey]]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.epoch))
        order = torch.randperm(self.count, generator=generator).tolist()
        for batch in range(len(self)):
            indices = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(index, derive_seed(self.seed, "augment", self.epoch, index)) for index in indices]


class SeededImages(Dataset[tuple[Any, int]]):
    """A dataset whose items are augmented with the random numbers of their key, whichever process asks."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: SampleKey) -> tuple[Any, int]:
        index, seed = key
        seed_generators(seed)
        return self.images[index]  # type: ignore[no-any-return]


class TrainBatches:
    """Augmented, normalised batches (images [B, C, H, W] float32, class numbers [B]) on the device, epoch by epoch.

    timm's `create_loader` shuffles with the global generator; this one is put together from the same parts so that the
    order and the augmentation follow from the seed.
    """

    def __init__(self, split: Split, format: ImageFormat, config: RunConfig, device: torch.device) -> None:
        from timm.data.loader import PrefetchLoader, fast_collate

        split.images.transform = _train_transform(format, config)
        self.sampler = EpochBatches(len(split), config.batch_size, config.seed)
        self.batch_size = config.batch_size
        loader = DataLoader(
            SeededImages(split.images),
            batch_sampler=self.sampler,
            num_workers=config.workers,
            collate_fn=fast_collate,
            pin_memory=device.type == "cuda",
            persistent_workers=config.workers > 0,
        )
        self._loader = PrefetchLoader(
            loader, mean=format.mean, std=format.std, channels=format.input_size[0], device=device
        )

    def __len__(self) -> int:
        """Updates of an epoch."""
        return len(self.sampler)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch, counted from 1."""
        self.sampler.set_epoch(epoch)
        return iter(self._loader)


def eval_batches(split: Split, format: ImageFormat, *, batch_size: int, workers: int, device: torch.device) -> Any:
    """timm's evaluation loader: every image once, in the order of the files."""
    from timm.data import create_loader

    return create_loader(
        split.images,
        input_size=format.input_size,
        batch_size=batch_size,
        is_training=False,
        interpolation=format.interpolation,
        mean=format.mean,
        std=format.std,
        crop_pct=format.crop_pct,
        crop_mode=format.crop_mode,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        device=device,
    )


def _train_transform(format: ImageFormat, config: RunConfig) -> Any:
    from timm.data import create_transform

    try:
        return create_transform(
            format.input_size,
            is_training=True,
            use_prefetcher=True,
            no_aug=config.no_aug,
            train_crop_mode=config.train_crop_mode,
            scale=config.scale,
            hflip=config.hflip,
            color_jitter=config.color_jitter or None,
            auto_augment=config.aa,
            interpolation=format.interpolation,
            mean=format.mean,
            std=format.std,
        )
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise PlanError(
            f"--aa: timm does not understand {config.aa!r} ({type(error).__name__}: {error}); "
            "expected a policy such as rand-m9-mstd0.5, augmix-m5-w4-d2, v0 or original"
        ) from error
