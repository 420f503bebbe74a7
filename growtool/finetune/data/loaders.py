"""Batches of images on the device: timm's transforms and prefetching, in an order that the seed alone decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from timm.data import create_transform
from timm.data.loader import PrefetchLoader
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
    """This process's share of every training batch of an epoch.

    The images are shuffled by (seed, epoch); the last ones, which fill no batch, are left out. The batches do not
    depend on the number of processes, each of which takes a share of every batch.

    Args:
        batch_size: images of a batch, over all processes.
    """

    def __init__(self, count: int, batch_size: int, seed: int, world: World) -> None:
        self.count, self.batch_size, self.seed, self.world = count, batch_size, seed, world
        self.epoch = self.skip = 0

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Choose the epoch of the next pass, and how many of its batches to skip."""
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
    """This process's share of the images for evaluation: every image once, in the order of the files.

    All processes get the same number of batches of the same size, padded with `PADDING`: the collective operations of
    sharded models need every process at every batch.

    Args:
        batch_size: images of a batch, over all processes.
    """

    def __init__(self, count: int, batch_size: int, world: World) -> None:
        self.count, self.world = count, world
        self.batch_size = max(1, batch_size // world.size)

    def __len__(self) -> int:
        return -(-self.count // (self.batch_size * self.world.size))

    def __iter__(self) -> Iterator[list[SampleKey]]:
        share = list(range(self.world.rank, self.count, self.world.size))
        for batch in range(len(self)):
            indices = share[batch * self.batch_size : (batch + 1) * self.batch_size]
            if self.world.size > 1:
                indices += [PADDING] * (self.batch_size - len(indices))
            yield [(index, 0) for index in indices]


@dataclass(eq=False)
class _NotingLoader:
    """A loader that notes the names of unreadable images, the third part of its batches, and passes on the rest.

    timm's prefetcher takes pairs of images and targets alone.

    Attributes:
        loader: of (images, targets, names).
        unreadable: the names noted so far, as keys, in the order of their discovery.
    """

    loader: DataLoader[Any]
    unreadable: dict[str, None] = field(default_factory=dict)

    def __iter__(self) -> Batches:
        try:
            for images, targets, names in self.loader:
                self.unreadable.update(dict.fromkeys(names))
                yield images, targets
        except PlanError as error:
            # From a worker, torch raises the same class with the worker's whole traceback as its text.
            raise PlanError(str(error).rpartition("PlanError: ")[2].strip()) from None


class ImageBatches:
    """Normalised batches (images [B, C, H, W] float32, class numbers [B]) on the device.

    timm's `create_loader` shuffles with the global generator. This class is put together from the same parts so that
    order and augmentation follow from the seed.

    Args:
        split: of images that can be read in any order.
        sampler: of a training or an evaluation.

    Attributes:
        count: images of the split, over all processes.
        batch_size: `EpochBatches`: images of an update, over all processes; `EvalBatches`: of this process's batches.
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
        workers = min(workers, len(sampler))  # a worker reads whole batches
        self._loader, self.unreadable = _loader(
            SeededImages(split, format.input_size, replace=training),
            format,
            device,
            batch_sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,  # the sampler, which knows the epoch, stays in this process
        )

    def __len__(self) -> int:
        """Return the number of batches of a pass."""
        return len(self.sampler)

    def __iter__(self) -> Batches:
        return iter(self._loader)

    def epoch(self, epoch: int, skip: int = 0) -> Batches:
        """Return the batches of an epoch without the first `skip`; epochs of training count from 1."""
        assert isinstance(self.sampler, EpochBatches)
        self.sampler.set_epoch(epoch, skip)
        return iter(self._loader)


class StreamBatches:
    """Batches as `ImageBatches` has them, of a dataset that can only be read in its own order, such as webdataset's.

    timm's reader shuffles the samples and shares them among processes and workers, so the order depends on the number
    of both.
    """

    def __init__(
        self, split: Split, format: ImageFormat, config: RunConfig, world: World, device: torch.device
    ) -> None:
        self.count, self.batch_size = len(split), config.batch_size
        self._stream = SeededStream(split, config.seed, world.rank)
        # Without persistent workers: each pass starts new ones, with a copy of the stream that knows the epoch.
        self._loader, self.unreadable = _loader(
            self._stream,
            format,
            device,
            batch_size=config.batch_size // world.size,
            num_workers=config.workers,
            drop_last=True,
        )

    def __len__(self) -> int:
        """Return the number of updates of an epoch."""
        return self.count // self.batch_size

    def epoch(self, epoch: int, skip: int = 0) -> Batches:
        """Return the batches of an epoch without the first `skip`, which have to be read nevertheless."""
        self._stream.epoch = epoch
        return islice(iter(self._loader), skip, len(self))


def train_batches(
    split: Split, format: ImageFormat, config: RunConfig, world: World, device: torch.device
) -> ImageBatches | StreamBatches:
    """Return the augmented batches to train on.

    Raises:
        PlanError: the augmentation is unknown, or not for images of so many channels.
    """
    split.images.transform = _train_transform(format, config)
    if split.is_stream:
        return StreamBatches(split, format, config, world, device)
    sampler = EpochBatches(len(split), config.batch_size, config.seed, world)
    return ImageBatches(split, format, sampler, workers=config.workers, device=device)


def eval_batches(
    split: Split, format: ImageFormat, config: RunConfig, world: World, device: torch.device
) -> ImageBatches:
    """Return the batches to evaluate on: every image once, resized and cropped at the centre as timm does."""
    split.images.transform = format.evaluation(raw=True)
    sampler = EvalBatches(len(split), config.images_at_once, world)
    return ImageBatches(split, format, sampler, workers=config.workers, device=device)


def _loader(
    samples: SeededImages | SeededStream, format: ImageFormat, device: torch.device, **options: Any
) -> tuple[Any, dict[str, None]]:
    """Return a loader of batches on the device, and the names of unreadable images, which it notes as it meets them.

    Args:
        samples: as uint8, not normalised.
        options: of torch's `DataLoader`.
    """
    pinned = device.type == "cuda"
    loader = DataLoader(samples, collate_fn=collate, worker_init_fn=leave_interrupts, pin_memory=pinned, **options)
    noting = _NotingLoader(loader)
    channels = format.input_size[0]
    return PrefetchLoader(noting, format.mean, format.std, channels, device), noting.unreadable


def _train_transform(format: ImageFormat, config: RunConfig) -> Any:
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
