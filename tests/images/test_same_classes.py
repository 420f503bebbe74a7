"""Classes held against each other wherever two lists of them meet: logits, data, teachers, second sources."""

import json
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.loader import adapt_to_chs

from growtool.calibration import open_images, require_several_values
from growtool.checkpoint import ModelSpec, build, open_checkpoint
from growtool.errors import CheckpointError, PlanError
from growtool.finetune.data import sources
from growtool.finetune.data.fields import require_labels
from growtool.finetune.parallel.distributed import World
from growtool.finetune.prepare import foresee, prepare
from growtool.images import ImageFormat, Split, numbered, other_classes
from growtool.library import spec_from
from growtool.plan.schema import Data
from growtool.verify import common_inputs
from tests.support.finetune import CLASSES, change_config, evaluated, run_config, write_checkpoint, write_data
from tests.support.models import resolved

CPU = torch.device("cpu")
BACKWARDS = list(reversed(CLASSES))
TOO_MANY = [f"breed{number}" for number in range(37)]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another checkpoint of the same model and classes."""
    return write_checkpoint(tmp_path / "other")


def everything_that_opens_images(checkpoint: Path, data: Path, tmp_path: Path):
    config = run_config(checkpoint, data, tmp_path / "run")
    source = open_checkpoint(checkpoint)
    asked = Data(path=str(data), batches=1, batch_size=2)
    yield lambda: prepare(config, CPU)
    yield lambda: foresee(config, source, World())
    yield lambda: evaluated(checkpoint, data)
    yield lambda: open_images(asked, build(source.spec), label_names=source.spec.label_names, checkpoint="model")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            TOO_MANY,
            r"label_names in its config.json holds 37 names \(breed0, .*\), expected 3, one for each logit of the",
        ),
        (["blue", "green"], r"label_names in its config.json holds 2 names \(blue, green\), expected 3"),
        (
            ["blue", "red", "blue"],
            r"holds 'blue' twice, as classes 0 and 2, expected each name once; correct label_names",
        ),
        (["cafe\u0301", "red", "caf\u00e9"], "twice, as classes 0 and 2"),
        ("blue", r"holds 1 names \(blue\), expected 3"),
    ],
    ids=["too many", "too few", "twice", "twice in two spellings", "text"],
)
def test_names_that_are_not_those_of_the_logits(names, message: str, checkpoint: Path, data: Path, tmp_path: Path):
    change_config(checkpoint, label_names=names)
    for call in everything_that_opens_images(checkpoint, data, tmp_path):
        with pytest.raises(CheckpointError, match=message):
            call()
    config = json.loads((checkpoint / "config.json").read_text())
    del config["label_names"]  # as the message says
    (checkpoint / "config.json").write_text(json.dumps(config))
    for call in everything_that_opens_images(checkpoint, data, tmp_path):
        call()


@pytest.mark.parametrize(
    "names", [{"0": "red", "2": "green", "1": "blue"}, {"red": 0, "blue": 1, "green": 2}, ["red", "blue", "green"]]
)
def test_names_by_number(names):
    spec = spec_from({"architecture": "resnet18", "label_names": names}, where="x")
    assert spec.label_names == ("red", "blue", "green")


def test_names_that_are_numbers_are_those_of_their_folders(checkpoint: Path, tmp_path: Path):
    change_config(checkpoint, label_names=[2, 0, 1])
    data = write_data(tmp_path / "numbers", classes=("0", "1", "2"))
    job = prepare(run_config(checkpoint, data, tmp_path / "run"), CPU)
    assert job.spec.label_names == ("2", "0", "1")


def test_two_spellings_of_a_name_are_one(checkpoint: Path, tmp_path: Path):
    change_config(checkpoint, label_names=["cafe\u0301", "red", "blue"])
    data = write_data(tmp_path / "accents", classes=("caf\u00e9", "blue", "red"))
    (data / "validation/caf\u00e9").rename(data / "validation/cafe\u0301")
    for call in everything_that_opens_images(checkpoint, data, tmp_path):
        call()
    train, held_out, _ = sources.open_splits(
        run_config(checkpoint, data, tmp_path / "run"), open_checkpoint(checkpoint).spec,
        build(open_checkpoint(checkpoint).spec), "model",
    )  # fmt: skip
    for split in (train, held_out):
        assert [split.read(index)[1] for index in range(0, len(split), len(split) // 3)] == [2, 0, 1]


def test_the_first_class_that_differs_is_named():
    assert other_classes(CLASSES, CLASSES) is other_classes(None, CLASSES) is other_classes(CLASSES, ()) is None
    assert other_classes(["caf\u00e9"], ["cafe\u0301"]) is None
    same = "class 0 is 'red', expected 'blue', as they are the same in another order"
    assert other_classes(CLASSES, BACKWARDS) == same
    assert other_classes(CLASSES, ["blue", "yellow", "red"]) == "class 1 is 'yellow', expected 'green'"
    assert other_classes(CLASSES, [*CLASSES, "violet"]) == "4 label_names, expected 3"


@pytest.mark.parametrize("from_data", [False, True])
def test_a_teacher_of_another_order(from_data: bool, checkpoint: Path, other: Path, data: Path, tmp_path: Path):
    """Held against the student's names, or against the data's where the student has none."""
    if not from_data:
        change_config(checkpoint, label_names=list(CLASSES))
    change_config(other, label_names=BACKWARDS)
    config = run_config(checkpoint, data, tmp_path / "run", kd_teacher=other)
    with pytest.raises(PlanError, match=r"--kd-teacher .*other.*: class 0 is 'red', expected 'blue', as they .* order"):
        prepare(config, CPU)
    change_config(other, label_names=TOO_MANY)
    with pytest.raises(CheckpointError, match=r"--kd-teacher .*: label_names .* holds 37 names"):
        prepare(config, CPU)
    change_config(other, label_names=list(CLASSES))
    prepare(config, CPU)


def test_a_second_source_of_another_order(checkpoint: Path, other: Path):
    plan = {
        "target": {"scale": {"width": 2}}, "width": {"operator": "two_source"}, "second": str(other),
    }  # fmt: skip
    change_config(checkpoint, label_names=list(CLASSES))
    change_config(other, label_names=BACKWARDS)
    with pytest.raises(
        PlanError, match=r"second: .*: class 0 is 'red', expected 'blue', .* as in .*their logits are aver"
    ):
        resolved(checkpoint, plan)
    change_config(other, label_names=list(CLASSES))
    resolved(checkpoint, plan)


def test_verify_of_another_order(checkpoint: Path, other: Path):
    change_config(checkpoint, label_names=list(CLASSES))
    change_config(other, label_names=BACKWARDS)
    pair = open_checkpoint(checkpoint), open_checkpoint(other)
    with pytest.raises(
        PlanError, match=r"classes: .*other.*: class 0 is 'red', expected 'blue', .* order as in .*model"
    ):
        common_inputs(*pair, 1, 0)


def test_compare_holds_all_lists_against_each_other_before_a_trial(growtool, place: Path, tmp_path: Path):
    teacher = write_checkpoint(tmp_path / "teacher")
    change_config(teacher, label_names=BACKWARDS)
    (tmp_path / "taught.yaml").write_text(f"kd_teacher: {teacher}")
    words = ["compare", place / "small", "--plan", place / "tile.yaml", "--data", place / "data", "--budget", "2steps"]
    words += ["--variant", tmp_path / "taught.yaml", "-o", tmp_path / "out"]
    code, _, said = growtool(*words)
    assert code == 1 and "kd_teacher" in said and "class 0 is 'red', expected 'blue'" in said
    assert not (tmp_path / "out").exists()
    many = write_checkpoint(tmp_path / "many", in_chans=13)
    code, _, said = growtool("compare", many, *words[2:6], "--budget", "2steps", "-o", tmp_path / "out")
    assert code == 1 and "takes images of 13 channels" in said
    assert not (tmp_path / "out").exists()


# --- means and standard deviations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("mean", [[0.485, 0.456, 0.406], [0.1], 0.25, None])
def test_means_of_another_length_are_averaged_as_timms_loader_does(channels: int, mean):
    spec = ModelSpec("resnet18", {"in_chans": channels}, {"input_size": [3, 32, 32], "mean": mean, "std": mean})
    format = ImageFormat.of(build(spec))
    expected = adapt_to_chs((0.485, 0.456, 0.406) if mean is None else mean, channels)
    assert format.mean == tuple(expected) and len(format.std) == channels


def test_calibration_normalises_with_the_averaged_mean(tmp_path: Path):
    checkpoint, data = write_checkpoint(tmp_path / "model", in_chans=1), write_data(tmp_path / "data")
    asked = Data(path=str(data), batches=1, batch_size=2)
    opened = open_images(asked, build(open_checkpoint(checkpoint).spec), label_names=None, checkpoint="model")
    images, _ = next(opened.batches())
    image, _ = opened.images.split.read(opened.images.order[0])
    values = torch.tensor(np.array(image.resize((35, 32), Image.Resampling.BILINEAR)))[:, 2:34] / 255
    mean, std = float(np.mean([0.485, 0.456, 0.406])), float(np.mean([0.229, 0.224, 0.225]))
    torch.testing.assert_close(images[0, 0], (values - mean) / std, atol=1e-5, rtol=0)


def test_an_input_size_of_null_is_timms_default():
    spec = ModelSpec("resnet18", {"in_chans": 1}, {"input_size": None})
    assert ImageFormat.of(build(spec)).input_size == (1, 224, 224)


# --- labels of data sets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["cat", None, -1, 3, [0, 1], 1.5])
def test_a_label_that_is_no_class(label):
    split = numbered(Split(Path("here"), None, ()), (), num_classes=3)
    with pytest.raises(PlanError, match=r"here: found the label .*, expected the number of a class, 0 to 2; name the"):
        split.number(label)
    assert [split.number(fine) for fine in (0, np.int64(2), torch.tensor(1), 2.0)] == [0, 2, 1, 2]


def test_a_label_that_is_no_class_ends_training_and_evaluation_with_one_message(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Nothing is written, as the first image is looked at before."""

    class Texts(torch.utils.data.Dataset[tuple[Image.Image, str]]):
        transform = target_transform = None

        def __len__(self) -> int:
            return 16

        def __getitem__(self, index: int) -> tuple[Image.Image, str]:
            return Image.new("RGB", (40, 36)), "cat"

    monkeypatch.setattr("timm.data.create_dataset", lambda *_, **__: Texts())
    with pytest.raises(PlanError, match=r"found the label 'cat', expected the number of a class, 0 to 2"):
        prepare(run_config(checkpoint, tmp_path, tmp_path / "run", dataset="torch/x"), CPU)
    with pytest.raises(PlanError, match=r"found the label 'cat'"):
        evaluated(checkpoint, tmp_path, dataset="torch/x")


def test_a_class_of_several_names_has_the_first():
    """As torchvision's ImageNet tells them."""
    images = SimpleNamespace(class_to_idx={"tench": 0, "Tinca tinca": 0, "goldfish": 1, "Carassius auratus": 1})
    assert sources.names_by_number(images, Path("here")) == ("tench", "goldfish")
    with pytest.raises(PlanError, match=r"here: found no name for the classes 1, expected one for each .* 0 to 2"):
        sources.names_by_number(SimpleNamespace(class_to_idx={"a": 0, "c": 2}), Path("here"))


def test_labels_of_a_table_are_looked_at_before_training():
    class Table:
        column_names, features = ("image", "label"), MappingProxyType({"label": SimpleNamespace(dtype="int64")})

        def unique(self, key: str) -> list[int | None]:
            return [2, 0, 7, None]

    images = SimpleNamespace(reader=SimpleNamespace(dataset=Table(), label_key="label"))
    with pytest.raises(PlanError, match="here: found the label None, expected the number of a class, 0 to 2"):
        require_labels(Split(Path("here"), images, ()), 3)


def test_a_dataset_string_without_a_reader_is_refused(checkpoint: Path, data: Path, tmp_path: Path):
    """timm would read the folder in an order and with endings of its own."""
    for name in ("folder", "imagefolder/x"):
        with pytest.raises(PlanError, match=rf"--dataset {name}: found no reader of this name, expected READER/NAME"):
            prepare(run_config(checkpoint, data, tmp_path / "run", dataset=name), CPU)


def test_evaluate_takes_options_of_the_reader_alone(growtool, checkpoint: Path, data: Path):
    words = "evaluate", checkpoint, "--data", data, "--set"
    code, _, said = growtool(*words, "lr=1")
    assert code == 1 and "--set lr: found options of training, expected data_kwargs alone" in said
    code, _, said = growtool(*words, "data_kwargs=3")
    assert code == 1 and "--set data_kwargs=3: found 3, expected a mapping" in said
    code, _, said = growtool(*words, "data_kwargs.input_key=img")
    assert code == 1 and "found input_key, but folders and tar files are read without options" in said


# --- batches of one image ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"batch_size": 1}, "make --batch-size 2 or more, or leave BatchNorm as it is with --train PATTERN"),
        ({"batch_size": 8, "grad_accum_steps": 8}, "make --batch-size 16 or more, as 1 processes times 8 --grad-accum"),
        ({"batch_size": 1, "train": "fc.*", "recalibrate": 4}, "make --batch-size 2 or more"),
        ({"batch_size": 1, "train": "fc.*", "freeze_epochs": 1}, "make --batch-size 2 or more"),
    ],
    ids=["batch", "part", "recalibrated", "released"],
)
def test_batchnorm_of_one_value_is_refused(changes, remedy: str, checkpoint: Path, data: Path, tmp_path: Path):
    message = rf"--batch-size \d: found batches of one image, .* value for each channel \(layer4\..*\), .*; {remedy}"
    with pytest.raises(PlanError, match=message):
        prepare(run_config(checkpoint, data, tmp_path / "run", **changes), CPU)
    assert not (tmp_path / "run").exists()


def test_one_image_is_enough_where_its_map_is_larger_or_the_norm_rests(checkpoint: Path, data: Path, tmp_path: Path):
    prepare(run_config(checkpoint, data, tmp_path / "run", batch_size=1, train="fc.*"), CPU)
    prepare(run_config(checkpoint, data, tmp_path / "run", batch_size=2), CPU)
    wide = build(ModelSpec("resnet18", {}, {"input_size": [3, 64, 64]}))
    require_several_values(wide, 1, "never said")
    with pytest.raises(PlanError, match=r"\(layer4.0.bn1, layer4.0.bn2, layer4.0.downsample.1 and 2 more\)"):
        require_several_values(build(ModelSpec("resnet18", {}, {"input_size": [3, 32, 32]})), 1, "x")
