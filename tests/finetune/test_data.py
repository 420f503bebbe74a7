"""Image folders are held against the checkpoint's classes; a mismatch is one message that says what to do."""

import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from growtool.errors import PlanError
from growtool.finetune.data.loaders import EpochBatches
from growtool.finetune.parallel.distributed import World
from growtool.finetune.run import finetune
from growtool.images import class_names, numbered, open_split
from tests.support.finetune import (
    CLASSES,
    UNCLOSED_IMAGES,
    change_config,
    run_config,
    write_checkpoint,
    write_data,
    write_images,
)

pytestmark = UNCLOSED_IMAGES


def nothing_there(data: Path, checkpoint: Path):
    data.rename(data.with_name("elsewhere"))


def a_file(data: Path, checkpoint: Path):
    nothing_there(data, checkpoint)
    data.write_text("")


def no_train_split(data: Path, checkpoint: Path):
    (data / "train").rename(data / "images")


def no_validation_split(data: Path, checkpoint: Path):
    (data / "validation").rename(data / "holdout")


def no_images(data: Path, checkpoint: Path):
    for path in (data / "train").rglob("*.png"):
        path.unlink()


def a_tar_without_images(data: Path, checkpoint: Path):
    shutil.rmtree(data / "train")
    tarfile.open(data / "train.tar", "w").close()


def no_tar(data: Path, checkpoint: Path):
    shutil.rmtree(data / "train")
    (data / "train.tar").write_text("version https://git-lfs.github.com/spec/v1")


def images_outside_classes(data: Path, checkpoint: Path):
    write_images(data / "train" / "x", per_class=1, classes=("y",))
    (data / "train/x/y/0.png").rename(data / "train/0.png")


def too_many_classes(data: Path, checkpoint: Path):
    write_images(data / "train" / "more", per_class=1, classes=("violet",))


def other_classes(data: Path, checkpoint: Path):
    change_config(checkpoint, label_names=["blue", "green", "yellow"])


def text_named_as_images(data: Path, checkpoint: Path):
    for path in (data / "validation").rglob("*.png"):
        path.write_text("version https://git-lfs.github.com/spec/v1")


def unknown_validation_class(data: Path, checkpoint: Path):
    (data / "validation/red").rename(data / "validation/rouge")


BAD: list[tuple[Callable[[Path, Path], None], str]] = [
    (nothing_there, r"--data .*: found nothing, expected a folder of images; lay the images out as DATA/train/CLASS"),
    (a_file, r"--data .*: found a file, expected a folder of images"),
    (no_train_split, r"--data .*: no train split: found images, validation, expected a folder named train or training"),
    (no_validation_split, r"--data .*: no validation split: found holdout, train, expected .* val or valid or test"),
    (no_images, r".*/train: found no images in it; lay the images out as"),
    (a_tar_without_images, r".*/train.tar: found no images in it; lay the images out as DATA/train/CLASS"),
    (
        no_tar,
        r".*/train.tar: cannot be read as a tar file \(.*\); restore it, or lay the images out as DATA/train/CLASS",
    ),
    (images_outside_classes, r".*/train: found images directly in it, expected one subfolder of images per class"),
    (
        too_many_classes,
        r".*/train: found 4 class folders \(blue, green, more, red\), expected 3, the number of classes",
    ),
    (other_classes, r".*not the 3 classes of .* \(its label_names\): missing yellow; not among them red; rename"),
    (
        text_named_as_images,
        r".*/validation/blue/0.png: cannot identify image file: no image that can be read, nor can the next 9",
    ),
    (unknown_validation_class, r".*/validation: found classes rouge, expected only those the model trains on"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD, ids=[spoil.__name__ for spoil, _ in BAD])
def test_images_that_do_not_fit_are_refused_before_anything_is_written(
    tmp_path: Path, spoil: Callable[[Path, Path], None], message: str
):
    checkpoint, data, output = write_checkpoint(tmp_path / "model"), write_data(tmp_path / "data"), tmp_path / "run"
    spoil(data, checkpoint)
    with pytest.raises(PlanError) as caught:
        finetune(run_config(checkpoint, data, output))
    assert len(caught.value.problems) == 1
    assert re.match(message, str(caught.value))
    assert not output.exists()


def test_classes_take_the_numbers_of_the_checkpoints_names(tmp_path: Path):
    split = open_split(write_images(tmp_path / "train", per_class=1))
    names = class_names(split, num_classes=3, label_names=["red", "blue", "green"], checkpoint="model")
    split = numbered(split, names, num_classes=3)
    folder_of = {Path(path).parent.name: index for index, (path, *_) in enumerate(split.images.reader.samples)}
    assert [split.read(folder_of[name])[1] for name in CLASSES] == [1, 2, 0]


def test_a_validation_split_may_lack_a_class_without_moving_the_others(tmp_path: Path):
    split = open_split(write_images(tmp_path / "validation", per_class=1, classes=("green", "red")))
    split = numbered(split, CLASSES, num_classes=3)
    assert sorted(split.read(index)[1] for index in range(len(split))) == [1, 2]


def test_an_epoch_shows_each_image_at_most_once_in_an_order_of_its_own():
    batches = EpochBatches(10, 3, 0, World())
    orders = []
    for epoch in (1, 2, 1):
        batches.set_epoch(epoch)
        orders.append([key for batch in batches for key in batch])
    first, second, again = ([index for index, _ in order] for order in orders)
    assert len(first) == 9 == len(set(first))
    assert first != second
    assert orders[0] == orders[2]
    assert again == first
    assert len({seed for order in orders[:2] for _, seed in order}) == 18


def test_the_order_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    list(EpochBatches(10, 3, 0, World()))
    assert torch.equal(before, torch.get_rng_state())
