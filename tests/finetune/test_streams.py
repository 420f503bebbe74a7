"""Images that cannot be read are named and counted wherever images come from, and resuming stays exact.

What timm's readers of streams do is tested with the real packages where they are installed.
"""

import io
import random
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from timm.data import IterableImageDataset
from timm.data.readers.reader_wds import _decode

from growtool.errors import PlanError
from growtool.finetune.data import streams
from growtool.finetune.data.streams import SeededStream, Unreadable
from growtool.finetune.run import finetune
from growtool.images import Split, numbered
from tests.support.finetune import CLASSES, UNCLOSED_IMAGES, losses, run_config

pytestmark = [UNCLOSED_IMAGES, pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")]
SPOILT = ("train/green/3.png", "train/red/5.png", "validation/red/1.png")


@pytest.fixture
def spoilt(data: Path) -> Path:
    """Two training images and one for evaluation that no decoder reads."""
    for name in SPOILT:
        (data / name).write_text("no image")
    return data


def as_tars(data: Path, out: Path) -> dict[str, Any]:
    out.mkdir()
    for split in ("train", "validation"):
        with tarfile.open(out / f"{split}.tar", "w") as archive:
            for path in sorted((data / split).rglob("*.png")):
                archive.add(path, path.relative_to(data / split))
    return {"data": out}


def as_parquet(data: Path, out: Path) -> dict[str, Any]:
    datasets = pytest.importorskip("datasets")
    out.mkdir()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    for split in ("train", "validation"):
        paths = sorted((data / split).rglob("*.png"))
        images = [{"bytes": path.read_bytes(), "path": f"{path.parent.name}/{path.name}"} for path in paths]
        table = {"image": images, "label": [CLASSES.index(path.parent.name) for path in paths]}
        datasets.Dataset.from_dict(table, features=features).to_parquet(out / f"{split}-0.parquet")
    return {"data": out}


def as_shards(data: Path, out: Path) -> dict[str, Any]:
    pytest.importorskip("webdataset")
    out.mkdir()
    paths = sorted((data / "train").rglob("*.png"), key=lambda path: path.name)
    for shard in range(2):
        with tarfile.open(out / f"train-{shard}.tar", "w") as archive:
            for path in paths[shard::2]:
                key = f"{path.parent.name}/{path.stem}"
                for end, content in (
                    ("png", path.read_bytes()),
                    ("cls", str(CLASSES.index(path.parent.name)).encode()),
                ):
                    info = tarfile.TarInfo(f"{key}.{end}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return {"data": out, "dataset": "wds/x", "train_split": "train-{0..1}.tar|24", "val_data": data}


def as_streamed_parquet(data: Path, out: Path) -> dict[str, Any]:
    as_parquet(data, out)
    return {
        "data": out.with_name("cache"),
        "dataset": f"hfids/{out}",
        "data_kwargs": {"num_samples": 24},
        "val_data": data,
        "workers": 0,  # one shard
    }


@pytest.mark.filterwarnings("ignore")  # of the packages themselves
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("write", [as_tars, as_parquet, as_shards, as_streamed_parquet])
def test_unreadable_images_are_named_wherever_they_come_from_and_resuming_is_exact(
    checkpoint: Path, spoilt: Path, tmp_path: Path, write: Callable[[Path, Path], dict[str, Any]], workers: int
):
    # A folder of the name of a file format, which `datasets` would take for that.
    settings = {"workers": workers, "epochs": 3, "recovery_interval": 1, "checkpoint_hist": 99}
    settings |= write(spoilt, tmp_path / "parquet")
    run = tmp_path / "run"
    result = finetune(run_config(checkpoint, output=run, **settings))
    assert (result.steps, result.final.count) == (9, 11)
    assert len(result.unreadable) == 3
    for name in SPOILT:
        parts = Path(name).with_suffix("").parts[1:]
        assert any("/".join(parts) in told and "cannot identify image file" in told for told in result.unreadable)
    expected = losses(run)
    for step in (2, 5):
        path = str(run / f"checkpoints/step-{step:08d}")
        again = finetune(run_config(checkpoint, output=run, resume=path, **settings))
        assert losses(run) == expected
        assert set(again.unreadable) == set(result.unreadable)


class Reader:
    """A stream of 16 samples, some of which cannot be read."""

    class_to_idx = MappingProxyType({name: number for number, name in enumerate(CLASSES)})

    def __init__(self, *bad: int) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 16

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        for index in range(16):
            image = Unreadable(f"sample {index}") if index in self.bad else Image.new("RGB", (4, 4), (index, 0, 0))
            yield image, index % 3


def read(*bad: int) -> list[tuple[int, int, tuple[str, ...]]]:
    """The red of each image, its class, and what is told with it."""
    dataset = IterableImageDataset("", reader=Reader(*bad), transform=lambda image: image.getpixel((0, 0))[0])
    return list(SeededStream(Split(Path("stream"), dataset, ()), seed=0))


def test_what_was_there_before_takes_the_place_of_what_cannot_be_read():
    assert [red for red, *_ in read(3, 4, 9)] == [0, 1, 2, 2, 2, 5, 6, 7, 8, 8, 10, 11, 12, 13, 14, 15]
    assert [(place, names) for place, (_, _, names) in enumerate(read(3, 9)) if names] == [
        (3, ("sample 3",)),
        (9, ("sample 9",)),
    ]
    assert all(target == red % 3 for red, target, _ in read(3, 4, 9))


def test_at_the_start_of_a_stream_the_first_that_can_be_read_does():
    found = read(0, 1)
    assert [red for red, *_ in found] == [2, 2, *range(2, 16)]
    assert found[0][2] == ("sample 0", "sample 1")
    assert not any(names for *_, names in found[1:])


def test_a_stream_of_nothing_that_can_be_read_is_an_error():
    with pytest.raises(PlanError, match=r"sample 15; nor could the 15 images before it be read, expected images"):
        read(*range(16))


def test_too_many_in_a_row_are_no_accident(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "IN_A_ROW", 3)
    assert len(read(1, 2, 4, 5)) == 16
    with pytest.raises(PlanError, match=r"sample 6; nor could the 2 images before it be read"):
        read(4, 5, 6)


@pytest.mark.parametrize(
    ("sample", "found"), [({"cls": b"cat"}, r"b'cat'"), ({"json": b"{}"}, "no .cls among __key__")]
)
def test_labels_of_shards_that_are_no_numbers(sample: dict[str, Any], found: str):
    stage = SimpleNamespace(args=[partial(_decode, image_key=["jpg"], target_key=None, alt_label="")])
    shard = [{"__key__": "0", "__url__": "train-0.tar", "jpg": b"", **sample}]
    with pytest.raises(PlanError, match=rf"train-0.tar: 0: found {found}.*, expected the number of a class in KEY.cls"):
        list(streams.Decoding(stage)(shard))
    told = SimpleNamespace(args=[partial(_decode, image_key=["jpg"], target_key="label", alt_label="")])
    with pytest.raises(ValueError, match="label"):
        list(streams.Decoding(told)(shard))


def test_each_process_draws_random_numbers_of_its_own():
    def drawn(rank: int) -> list[float]:
        dataset = IterableImageDataset("", reader=Reader(), transform=lambda image: random.random())
        return [number for number, *_ in SeededStream(Split(Path("stream"), dataset, ()), seed=0, rank=rank)]

    assert drawn(0) == drawn(0)
    assert not set(drawn(0)) & set(drawn(1))


@pytest.mark.parametrize(("names", "label"), [({}, 0), ({7: 0, 9: 1}, 7)])
def test_the_stand_in_of_an_unreadable_image_has_a_label_that_the_class_map_knows(names: dict[int, int], label: int):
    stage = SimpleNamespace(args=[partial(_decode, image_key=["jpg"], target_key=None, alt_label="")])
    reader = SimpleNamespace(ds=SimpleNamespace(pipeline=[stage]), class_to_idx=names, remap_class=bool(names))
    streams.let_unreadable_pass(reader)
    (decoding,) = reader.ds.pipeline
    (found,) = decoding([{"__key__": "0", "__url__": "train-0.tar", "jpg": b"no image", "cls": b"9"}])
    assert isinstance(found["jpg"], Unreadable) and found["target"] == label


def test_what_a_reader_of_streams_trips_over_is_named():
    class Broken(Reader):
        def __iter__(self) -> Iterator[tuple[Any, int]]:
            yield Image.new("RGB", (4, 4)), 0
            raise KeyError("img")

    dataset = IterableImageDataset("", reader=Broken(), transform=lambda image: image)
    with pytest.raises(PlanError, match=r"stream: the stream cannot be read \(KeyError: 'img'\); restore .*input_key"):
        list(SeededStream(Split(Path("stream"), dataset, ()), seed=0))


def test_a_label_of_a_stream_that_is_no_class():
    split = numbered(
        Split(Path("stream"), IterableImageDataset("", reader=Reader(), transform=str), ()), (), num_classes=2
    )
    with pytest.raises(PlanError, match="stream: found the label 2, expected the number of a class, 0 to 1"):
        list(SeededStream(split, seed=0))


def test_a_stream_is_no_place_to_evaluate_on(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("timm.data.create_dataset", lambda *_, **__: IterableImageDataset("", reader=Reader()))
    with pytest.raises(PlanError, match=r"found a stream for evaluation, .* with --set val_data=FOLDER"):
        finetune(run_config(checkpoint, data, tmp_path / "run", dataset="wds/x"))
