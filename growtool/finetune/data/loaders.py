"""From images to batches on the device: timm's transforms and prefetching, in an order that the seed alone decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from growtool.errors import PlanError
from growtool.finetune.config import RunConfig
from growtool.finetune.data.reading import PADDING, SampleKey, SeededImages, collate
from growtool.finetune.data.seeding import derive_seed
from growtool.finetune.data.streams import SeededStream
from growtool.finetune.parallel.distributed import World
from growtool.finetune.stopping import leave_interrupts
from growtool.images import ImageFormat, Split

Batches = Iterator[tuple[Tensor, Tensor]]


class EpochBatches(Sampler[list[SampleKey]]):
    """This process's part of the batches of one epoch.

    Every image comes once in an order drawn from (seed, epoch), less what does not fill a batch. The order does not
    depend on the number of processes: each takes its share of every batch.
    """

    def __init__(self, count: int, batch_size: int, seed: int, world: World | None = None) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.world = world or World()
        self.epoch = self.skip = 0

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Choose the epoch that the next pass draws, and how many of its batches were seen before."""
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[list[SampleKey]]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.epoch))
        order = torch.randperm(self.count, generator=generator).tolist()
        share = self.batch_size // self.world.size
        for batch in range(self.skip, len(self)):
            start = batch * self.batch_size + self.world.rank * share
            yield [
                (index, derive_seed(self.seed, "augment", self.epoch, index)) for index in order[start : start + share]
            ]


class EvalBatches(Sampler[list[SampleKey]]):
    """Every image once, in the order of the files, equally many batches for every process, padded."""

    def __init__(self, count: int, batch_size: int, world: World) -> None:
        self.count, self.world = count, world
        self.batch_size = max(1, batch_size // world.size)

    def __len__(self) -> int:
        return -(-self.count // (self.batch_size * self.world.size))

    def __iter__(self) -> Iterator[list[SampleKey]]:
        mine = list(range(self.world.rank, self.count, self.world.size))
        padding = PADDING if self.world.size > 1 else None
        for batch in range(len(self)):
            part: list[int] = mine[batch * self.batch_size : (batch + 1) * self.batch_size]
            if padding is not None:
                part += [padding] * (self.batch_size - len(part))
            yield [(index, 0) for index in part]


@dataclass(eq=False)
class _Told:
    """A loader whose third part, names of unreadable images, goes into `unreadable` instead of to timm's prefetcher."""

    loader: DataLoader[Any]
    unreadable: dict[str, None] = field(default_factory=dict)

    def __iter__(self) -> Batches:
        try:
            for images, targets, names in self.loader:
                self.unreadable.update(dict.fromkeys(names))
                yield images, targets
        except PlanError as error:  # torch puts the worker's traceback before the message
            raise PlanError(str(error).rpartition("PlanError: ")[2].strip()) from None

    def __len__(self) -> int:
        return len(self.loader)


class ImageBatches:
    """Normalised batches (images [B, C, H, W] float32, class numbers [B]) on the device.

    timm's `create_loader` shuffles with the global generator; this one is put together from the same parts so that the
    order and the augmentation follow from the seed.

    Attributes:
        count: images of a pass.
        batch_size: images of an update, over all processes.
        unreadable: names of the images that could not be read in this process, in the order of their discovery.
    """

    def __init__(
        self,
        split: Split,
        format: ImageFormat,
        sampler: EpochBatches | EvalBatches,
        *,
        workers: int,
        device: torch.device,
    ) -> None:
        self.count, self.sampler = len(split), sampler
        self.batch_size = sampler.batch_size
        training = isinstance(sampler, EpochBatches)
        workers = min(workers, len(sampler))  # one reads a batch at least
        loader = DataLoader(
            SeededImages(split, format.input_size, replace=training),
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=leave_interrupts,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
        )
        self._told = _Told(loader)
        self.unreadable = self._told.unreadable
        self._loader = _prefetched(self._told, format, device)

    def __len__(self) -> int:
        """Batches of a pass."""
        return len(self.sampler)

    def __iter__(self) -> Batches:
        return iter(self._loader)

    def epoch(self, epoch: int, skip: int = 0) -> Batches:
        """The batches of one epoch, counted from 1, without the first `skip`."""
        assert isinstance(self.sampler, EpochBatches)
        self.sampler.set_epoch(epoch, skip)
        return iter(self._loader)


class StreamBatches:
    """The same from a dataset that can only be read in its own order, such as webdataset's.

    timm's reader shuffles and shares the samples among processes and workers, so the order depends on their number.
    """

    def __init__(
        self, split: Split, format: ImageFormat, config: RunConfig, world: World, device: torch.device
    ) -> None:
        self.count, self.batch_size = len(split), config.batch_size
        self._stream = SeededStream(split, config.seed)
        loader = DataLoader(
            self._stream,
            batch_size=config.batch_size // world.size,
            num_workers=config.workers,
            collate_fn=collate,
            worker_init_fn=leave_interrupts,
            drop_last=True,
            pin_memory=device.type == "cuda",
        )
        told = _Told(loader)
        self.unreadable = told.unreadable
        self._loader = _prefetched(told, format, device)

    def __len__(self) -> int:
        """Updates of an epoch."""
        return self.count // self.batch_size

    def epoch(self, epoch: int, skip: int = 0) -> Batches:
        """The batches of one epoch; those of before are read and dropped, as there is no other way to the rest."""
        self._stream.epoch = epoch
        return islice(iter(self._loader), skip, len(self))


def train_batches(
    split: Split, format: ImageFormat, config: RunConfig, world: World, device: torch.device
) -> ImageBatches | StreamBatches:
    """Augmented batches to train on, epoch by epoch."""
    split.images.transform = _train_transform(format, config)
    if split.is_stream:
        return StreamBatches(split, format, config, world, device)
    sampler = EpochBatches(len(split), config.batch_size, config.seed, world)
    return ImageBatches(split, format, sampler, workers=config.workers, device=device)


def eval_batches(
    split: Split,
    format: ImageFormat,
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
    world: World | None = None,
) -> ImageBatches:
    """timm's evaluation: every image once, resized and cropped at the centre."""
    split.images.transform = format.evaluation(raw=True)
    sampler = EvalBatches(len(split), batch_size, world or World())
    return ImageBatches(split, format, sampler, workers=workers, device=device)


def _prefetched(loader: _Told, format: ImageFormat, device: torch.device) -> Any:
    from timm.data.loader import PrefetchLoader

    return PrefetchLoader(loader, mean=format.mean, std=format.std, channels=format.input_size[0], device=device)


def _train_transform(format: ImageFormat, config: RunConfig) -> Any:
    from timm.data import create_transform

    if config.aa is not None and format.input_size[0] in (2, 4):
        raise PlanError(
            f"--aa {config.aa}: its changes of colour know grey and RGB images, the model takes {format.input_size[0]} "
            "channels, with alpha; drop --aa"
        )
    try:
        return create_transform(
            format.input_size,
            is_training=True,
            use_prefetcher=True,
            no_aug=config.no_aug,
            train_crop_mode=config.train_crop_mode or "rrc",
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
