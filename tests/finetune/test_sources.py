"""The same images from a folder, from tar files, from parquet and through timm's dataset strings train the same."""

import sys
import tarfile
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from timm.data import IterableImageDataset

from growtool.errors import PlanError
from growtool.finetune.data import sources
from growtool.finetune.run import finetune
from tests.support.finetune import CLASSES, UNCLOSED_IMAGES, losses, run_config

pytestmark = [UNCLOSED_IMAGES, pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")]


def test_tar_files_train_as_their_folders_do(checkpoint: Path, data: Path, tmp_path: Path):
    tars = tmp_path / "tars"
    tars.mkdir()
    for split in ("train", "validation"):
        with tarfile.open(tars / f"{split}.tar", "w") as archive:
            for path in sorted((data / split).rglob("*.png")):
                archive.add(path, path.relative_to(data / split))
    finetune(run_config(checkpoint, data, tmp_path / "folder", epochs=1))
    finetune(run_config(checkpoint, tars, tmp_path / "tar", epochs=1, workers=2))
    assert losses(tmp_path / "tar") == losses(tmp_path / "folder")


def test_parquet_needs_a_package_and_says_so(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "parquet").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"parquet/{split}-00000-of-00001.parquet").write_text("")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in [name for name in sys.modules if name.startswith("timm.data.readers.reader_hfds")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(PlanError, match=r"needs datasets, which is not installed; pip install datasets"):
        finetune(run_config(checkpoint, tmp_path / "parquet", tmp_path / "run"))


def test_parquet_goes_through_timms_reader(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, str]] = []

    def create(name: str, root: str | None, split: str, **options: Any) -> Any:
        asked.append((name, split))
        return types.SimpleNamespace(reader=types.SimpleNamespace(class_to_idx={"b": 1, "a": 0}))

    monkeypatch.setattr("timm.data.create_dataset", create)
    (tmp_path / "p/data").mkdir(parents=True)
    for split in ("train", "valid"):
        (tmp_path / f"p/data/{split}-0.parquet").write_text("")
    config = run_config(tmp_path, tmp_path / "p", tmp_path / "run")
    for training in (True, False):
        assert sources.open_source(config, training=training, channels=3, checkpoint="c").classes == ("a", "b")
    assert asked == [(f"hfds/{tmp_path}/p", "train"), (f"hfds/{tmp_path}/p", "validation")]


class Fake(torch.utils.data.Dataset[tuple[Image.Image, int]]):
    """As torchvision's CIFAR-10 is built: PIL images, `classes`, `class_to_idx`, transforms as attributes."""

    class_to_idx = types.MappingProxyType({name: number for number, name in enumerate(CLASSES)})
    transform = target_transform = None

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (40, 36), (index * 9, 90, 200 - index * 9)), index % 3


def test_a_dataset_of_torchvision_trains(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("timm.data.create_dataset", lambda *_, **__: Fake())
    result = finetune(run_config(checkpoint, tmp_path, tmp_path / "run", dataset="torch/cifar10", epochs=1))
    assert (result.steps, result.final.count) == (2, 16)


class Reader:
    """A stream of 16 samples in an order of each epoch's own."""

    class_to_idx = Fake.class_to_idx
    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 16

    def __iter__(self) -> Any:
        images = Fake()
        return (images[(index + 5 * self.epoch) % 16] for index in range(16))


def test_a_stream_trains_and_goes_on_after_an_interruption(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def create(*_: Any, is_training: bool, **__: Any) -> Any:
        return IterableImageDataset("", reader=Reader()) if is_training else Fake()

    monkeypatch.setattr("timm.data.create_dataset", create)
    settings: dict[str, Any] = {"dataset": "wds/x", "recovery_interval": 1, "checkpoint_hist": 9, "batch_size": 4}
    finetune(run_config(checkpoint, data, tmp_path / "run", **settings))
    expected = losses(tmp_path / "run")
    assert len(expected) == 8
    third = str(tmp_path / "run/checkpoints/step-00000003")
    finetune(run_config(checkpoint, data, tmp_path / "run", **settings, resume=third))
    assert losses(tmp_path / "run") == expected


def test_what_timm_cannot_open_is_named(checkpoint: Path, tmp_path: Path):
    with pytest.raises(PlanError, match=r"--dataset torch/nonsense: timm cannot open the split 'train'"):
        finetune(run_config(checkpoint, tmp_path, tmp_path / "run", dataset="torch/nonsense"))
