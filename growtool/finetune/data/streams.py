"""Images that can only be read in the order of their source: webdataset's shards, streamed Hugging Face datasets.

timm's readers decode in the middle of such a stream. An image that they cannot decode is dropped without a name, or
ends the run. Here the readers are changed so that it comes through as `Unreadable`. It is named, and the image before
takes its place, so that the stream keeps its length.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from growtool.errors import GrowtoolError, PlanError
from growtool.finetune.data.reading import IN_A_ROW, Sample
from growtool.finetune.data.seeding import derive_seed, seed_generators
from growtool.images import Split, reason


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The stand-in for an image that cannot be decoded.

    Attributes:
        name: of the image, and what is wrong with it.
        mode: none; timm's readers ask an image for its mode, and convert it if it has another than they want.
    """

    name: str
    mode: str = ""

    def convert(self, mode: str) -> Unreadable:
        """Return the stand-in itself, as there is nothing to convert."""
        return self


class SeededStream(IterableDataset[Sample]):
    """The samples of a dataset that can only be read in its own order, augmented with seeds of their places in it.

    Args:
        rank: of the process; each process reads shards of its own.

    Attributes:
        epoch: that the next pass reads; set it before the workers start.

    Raises:
        PlanError: during a pass: no image, or none of `IN_A_ROW` in a row, can be read; a label is no class of the
            model's; or the reader fails.
    """

    def __init__(self, split: Split, seed: int, rank: int = 0) -> None:
        self.split, self.images, self.seed, self.rank, self.epoch = split, split.images, seed, rank, 0
        # The dataset itself must not transform: it would do so before the generators are seeded, and to stand-ins.
        self.transform, self.images.transform = self.images.transform, None

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        # A place counts the images of one worker of one process; without the lane, all would draw the same numbers.
        lane = self.rank * worker.num_workers + worker.id if worker else self.rank
        self.images.set_epoch(self.epoch)
        reader = getattr(self.images, "reader", None)
        if type(reader).__name__ in ("ReaderWds", "ReaderHfids"):
            let_unreadable_pass(reader)
            shuffle_by(reader, derive_seed(self.seed, "shuffle", self.epoch, lane))
        samples = _with_replacements(_with_named_errors(self.images, self.split.root))
        for place, (image, target, names) in enumerate(samples):
            seed_generators(derive_seed(self.seed, "augment", self.epoch, lane, place))
            yield self.transform(image), self.split.number(target), names


def _with_named_errors(samples: Iterable[tuple[Any, Any]], root: object) -> Iterator[tuple[Any, Any]]:
    """Yield the samples; raise PlanError with the name of the data for any error of their reader."""
    try:
        yield from samples
    except (GrowtoolError, MemoryError):
        raise
    except Exception as error:  # whatever packages that read streams raise for shards or fields they do not find
        raise PlanError(
            f"{root}: the stream cannot be read ({type(error).__name__}: {error}); restore the data, or name the "
            "fields that hold images and class numbers with --set data_kwargs={input_key: NAME, target_key: NAME}"
        ) from error


def _with_replacements(samples: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any, tuple[str, ...]]]:
    """Yield image, label, and the names of unreadable images whose place the image takes.

    The image before takes the place of an unreadable one. At the start of a stream, the first readable image does.
    """
    names: list[str] = []
    latest: tuple[Any, Any] | None = None
    owed = in_a_row = 0  # owed: unreadable images at the start, whose places no image has taken yet
    for image, target in samples:
        if not isinstance(image, Unreadable):
            latest = image, target
            for _ in range(owed + 1):
                yield image, target, tuple(names)
                names.clear()  # each name goes out once
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
    """Change a timm reader, in place, so that it yields `Unreadable` instead of dropping an image or failing.

    Args:
        reader: of webdataset or of streamed Hugging Face datasets; one of TensorFlow decodes out of reach.

    Raises:
        PlanError: the stream has too few shards for so many workers.
    """
    if reader.ds is None:
        try:
            reader._lazy_init()  # the reader would do so at the first image, and then has the pipeline to change
        except RuntimeError as error:
            raise PlanError(f"--workers: timm cannot share the stream among them ({error})") from error
    # Without workers the reader lives on from epoch to epoch and may have been changed before.
    if hasattr(reader.ds, "pipeline"):  # webdataset
        # The label of a stand-in is never used, but timm translates it by the class_map, if there is one.
        label = next(iter(reader.class_to_idx)) if reader.remap_class else 0
        reader.ds.pipeline = [Decoding(stage, label) if _decodes(stage) else stage for stage in reader.ds.pipeline]
    elif not isinstance(reader.ds, _Streamed):
        reader.ds = _Streamed(reader.ds, reader.input_key)


def shuffle_by(reader: Any, seed: int) -> None:
    """Seed the buffer in which webdataset shuffles samples, anew for each epoch.

    Its own generator would go on from epoch to epoch, and a resumed run would shuffle otherwise. The shuffle of
    streamed Hugging Face datasets depends on seed and epoch anyway.
    """
    for stage in getattr(reader.ds, "pipeline", ()):
        if "rng" in getattr(stage, "kw", {}):
            stage.kw["rng"] = random.Random(seed)


class _Streamed:
    """A streamed Hugging Face dataset with undecodable images as `Unreadable`.

    The dataset decodes no images any more; they are decoded here, one by one.
    """

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
        except Exception as error:  # decoders of different formats raise different ones
            return Unreadable(f"{(stored or {}).get('path') or f'sample {place}'}: {reason(error)}")


class Decoding:
    """The stage of webdataset's pipeline that decodes, with undecodable images as `Unreadable`.

    Args:
        stage: timm's, which maps samples through its decoder and drops those on which that fails.
        label: of the stand-ins.
    """

    def __init__(self, stage: Any, label: Any = 0) -> None:
        self.decode, self.label = stage.args[0], label

    def __call__(self, samples: Any) -> Iterator[dict[str, Any]]:
        from timm.data.readers.reader_wds import WdsTargetKeyError

        for sample in samples:
            self._require_label(sample)
            try:
                decoded = self.decode(sample)
            except (WdsTargetKeyError, MemoryError):
                raise
            except Exception as error:  # decoders of different formats raise different ones
                name = f"{sample.get('__url__', 'stream')}: {sample.get('__key__')}: {reason(error)}"
                decoded = {"jpg": Unreadable(name), "target": self.label}
            if decoded is not None:  # None: timm leaves out samples with a negative label
                yield decoded

    def _require_label(self, sample: dict[str, Any]) -> None:
        """Check that the sample has a class number in KEY.cls, unless labels are read from KEY.json."""
        options = getattr(self.decode, "keywords", {})
        if options.get("target_key") or options.get("alt_label"):
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
    """Return whether a stage maps samples through timm's decoder, a `partial` of `_decode` as its first argument."""
    first = next(iter(getattr(stage, "args", ())), None)
    return getattr(getattr(first, "func", None), "__name__", "") == "_decode"


def _nothing_but_unreadable(name: str, count: int) -> PlanError:
    return PlanError(
        f"{name}; nor could the {count - 1} images before it be read, expected images; restore the data or name another"
    )
