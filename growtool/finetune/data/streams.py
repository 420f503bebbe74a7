"""Images that can only be read in the order of their source: webdataset's shards, streamed Hugging Face datasets.

timm's readers decode in the middle of such a stream, where an image that cannot be decoded is dropped without a name,
or ends everything. Here it comes through as `Unreadable`, is named, and the image before takes its place, so that a
process gets as many as it would have.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from growtool.errors import GrowtoolError, PlanError
from growtool.finetune.data.reading import IN_A_ROW, Sample
from growtool.finetune.data.seeding import derive_seed, seed_generators
from growtool.images import Split, reason


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands in a stream where an image should be; readers ask its mode and convert it, which changes nothing."""

    name: str
    mode: str = ""

    def convert(self, mode: str) -> Unreadable:
        """Itself."""
        return self


class SeededStream(IterableDataset[Sample]):
    """The samples of a dataset that can only be read in its own order, each augmented by its place in that order.

    Raises:
        PlanError: while being read: too many images one after the other cannot be, or none at all; a label is no class
            of the model's; or the reader finds something else than it expects.
    """

    def __init__(self, split: Split, seed: int) -> None:
        self.split, self.images, self.seed, self.epoch = split, split.images, seed, 0
        self.transform, self.images.transform = self.images.transform, None

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        lane = worker.id if worker else 0
        self.images.set_epoch(self.epoch)
        reader = getattr(self.images, "reader", None)
        if type(reader).__name__ in ("ReaderWds", "ReaderHfids"):
            let_unreadable_pass(reader)
            shuffle_by(reader, derive_seed(self.seed, "shuffle", self.epoch, lane))
        places = count()
        for image, target, names in _filled(_told(self.images, self.split.root)):
            seed_generators(derive_seed(self.seed, "augment", self.epoch, lane, next(places)))
            yield self.transform(image), self.split.number(target), names


def _told(samples: Any, root: object) -> Iterator[tuple[Any, Any]]:
    """The same samples; what their reader trips over is an error that names them."""
    try:
        yield from samples
    except (GrowtoolError, MemoryError):
        raise
    except Exception as error:  # whatever packages that read streams raise for shards or fields they do not find
        raise PlanError(
            f"{root}: the stream cannot be read ({type(error).__name__}: {error}); restore the data, or name the "
            "fields that hold images and class numbers with --set data_kwargs={input_key: NAME, target_key: NAME}"
        ) from error


def _filled(samples: Any) -> Iterator[tuple[Any, int, tuple[str, ...]]]:
    """Image, class number, and names of what could not be read, whose place an earlier image takes, or the first."""
    names: list[str] = []
    latest: tuple[Any, int] | None = None
    owed = in_a_row = 0
    for image, target in samples:
        if not isinstance(image, Unreadable):
            latest = image, target
            for _ in range(owed + 1):
                yield image, target, tuple(names)
                names.clear()
            owed = in_a_row = 0
            continue
        names.append(image.name)
        in_a_row += 1
        if in_a_row == IN_A_ROW:
            raise _nothing_but_unreadable(image.name, in_a_row)
        if latest is None:
            owed += 1
        else:
            yield *latest, tuple(names)
            names.clear()
    if owed:
        raise _nothing_but_unreadable(names[-1], owed)


def let_unreadable_pass(reader: Any) -> None:
    """Have a reader of timm yield `Unreadable` where it would drop an image or fail; TensorFlow's are beyond reach.

    Raises:
        PlanError: it has nothing to read for this process.
    """
    if reader.ds is None:
        try:
            reader._lazy_init()  # what it would do at the first image; the pipeline is there from then on
        except RuntimeError as error:
            raise PlanError(f"--workers: timm cannot share the stream among them ({error})") from error
    if not hasattr(reader.ds, "pipeline"):
        reader.ds = reader.ds if isinstance(reader.ds, _Streamed) else _Streamed(reader.ds, reader.input_key)
        return
    reader.ds.pipeline = [Decoding(stage) if _decodes(stage) else stage for stage in reader.ds.pipeline]


def shuffle_by(reader: Any, seed: int) -> None:
    """Have webdataset's buffer shuffle by the epoch alone; its own generator goes on from epoch to epoch."""
    for stage in getattr(reader.ds, "pipeline", ()):
        if "rng" in getattr(stage, "kw", {}):
            stage.kw["rng"] = random.Random(seed)


class _Streamed:
    """A streamed dataset of Hugging Face that decodes its images itself."""

    def __init__(self, dataset: Any, key: str) -> None:
        datasets = importlib.import_module("datasets")
        self.dataset, self.key = dataset, key
        feature = (dataset.features or {}).get(key)
        self.decode = feature.decode_example if isinstance(feature, datasets.Image) else None
        if self.decode is not None:
            self.dataset = dataset.cast_column(key, datasets.Image(decode=False))

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for place, sample in enumerate(self.dataset):
            yield sample if self.decode is None else sample | {self.key: self._image(sample[self.key], place)}

    def _image(self, stored: dict[str, Any] | None, place: int) -> Any:
        assert self.decode is not None
        try:
            return self.decode(stored)
        except MemoryError:
            raise
        except Exception as error:  # whatever a decoder trips over
            return Unreadable(f"{(stored or {}).get('path') or f'sample {place}'}: {reason(error)}")


class Decoding:
    """The stage of webdataset's pipeline that decodes."""

    def __init__(self, stage: Any) -> None:
        self.decode = stage.args[0]

    def __call__(self, samples: Any) -> Iterator[dict[str, Any]]:
        from timm.data.readers.reader_wds import WdsTargetKeyError

        for sample in samples:
            self._require_label(sample)
            try:
                decoded = self.decode(sample)
            except (WdsTargetKeyError, MemoryError):
                raise
            except Exception as error:  # whatever a decoder trips over
                name = f"{sample.get('__url__', 'stream')}: {sample.get('__key__')}: {reason(error)}"
                decoded = {"jpg": Unreadable(name), "target": 0}
            if decoded is not None:
                yield decoded

    def _require_label(self, sample: dict[str, Any]) -> None:
        """Raise unless the number of a class lies beside the image, where it is to lie there."""
        told = getattr(self.decode, "keywords", {})
        if told.get("target_key") or told.get("alt_label"):
            return
        try:
            int(sample["cls"])
        except (KeyError, ValueError):
            found = repr(sample["cls"]) if "cls" in sample else f"no .cls among {', '.join(sorted(sample))}"
            raise PlanError(
                f"{sample.get('__url__', 'stream')}: {sample.get('__key__')}: found {found}, expected the number of a "
                "class in KEY.cls; name the field of KEY.json that holds it with --set data_kwargs={target_key: NAME}"
            ) from None


def _decodes(stage: Any) -> bool:
    """Whether a stage maps samples through timm's decoder."""
    first = next(iter(getattr(stage, "args", ())), None)
    return getattr(getattr(first, "func", None), "__name__", "") == "_decode"


def _nothing_but_unreadable(name: str, count: int) -> PlanError:
    return PlanError(
        f"{name}; nor could the {count - 1} images before it be read, expected images; restore the data or name another"
    )
