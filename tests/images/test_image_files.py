"""Which files are images, which class each is of, in one order everywhere; what is left out is counted and named."""

import gzip
import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from timm.utils.misc import natural_key

from growtool.errors import PlanError
from growtool.finetune.prepare import prepare
from growtool.images import EVAL_SPLITS, LabelledImages, Split, mode_of, open_split
from growtool.images.listing import natural_order
from tests.support.finetune import evaluated, run_config, write_checkpoint, write_data, write_images


def picture(path: Path, mode: str = "RGB", format: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 6), 70).save(path, format=format)
    return path


def paths(split: Split) -> list[str]:
    return [split.images.filename(index) for index in range(len(split))]


def labels(split: Split) -> list[str]:
    return [split.classes[split.read(index)[1]] for index in range(len(split))]


def packed(folder: Path, tar: Path, mode: str = "w", prefix: str = "") -> Path:
    with tarfile.open(tar, mode) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.add(path, prefix + path.relative_to(folder).as_posix())
    return tar


LISTED = """
import sys
from pathlib import Path
from growtool.images import open_split
split = open_split(Path(sys.argv[1]))
print(split.classes, [split.images.filename(i) for i in range(len(split))])
"""


@pytest.mark.slow
def test_the_order_of_classes_and_images_is_one_in_every_process(tmp_path: Path):
    names = ("a", "B", "A", "b", "1", "01", "10", "2")
    for name in names:
        for file in ("1.png", "01.png", "A.png", "a.png"):
            picture(tmp_path / "train" / name / file)
    classes = ("01", "1", "2", "10", "A", "a", "B", "b")
    split = open_split(tmp_path / "train")
    assert split.classes == classes
    assert paths(split)[:4] == ["01/01.png", "01/1.png", "1/01.png", "1/1.png"], "equal under timm's key"
    assert labels(split) == [path.split("/")[0] for path in paths(split)]
    assert paths(open_split(packed(tmp_path / "train", tmp_path / "train.tar"))) == paths(split)
    there = subprocess.run(
        [sys.executable, "-c", LISTED, tmp_path / "train"],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert there.stdout == f"{split.classes} {paths(split)}\n"


@pytest.mark.parametrize("name", ["img10b", "2", "A/9.png", "n02/x_11.JPEG"])
def test_where_timms_order_decides_it_is_kept(name: str):
    others = ["img9b", "img10a", "3", "a/10.png", "n2/x_2.JPEG", "z"]
    ours, timms = ([key(name) < key(other) for other in others] for key in (natural_order, natural_key))
    assert ours == timms
    assert natural_order("²")[1] == "²", "a digit that is no number, at which timm's key trips"


def test_the_class_is_the_first_folder(tmp_path: Path):
    for way in ("cat/day", "cat/night", "dog/day/late", "dog"):
        picture(tmp_path / "train" / way / f"{way.replace('/', '-')}.png")
    split = open_split(tmp_path / "train")
    assert (split.classes, labels(split)) == (("cat", "dog"), ["cat", "cat", "dog", "dog"])
    assert split.remarks == (
        f"{tmp_path / 'train'}: images of deeper folders (cat/day, cat/night, dog/day/late) are of the class of the "
        "first folder",
    )
    assert open_split(packed(tmp_path / "train", tmp_path / "train.tar")).classes == ("cat", "dog")


def test_every_image_that_pillow_reads_counts_and_the_rest_is_named(tmp_path: Path):
    ours = ["0.png", "1.webp", "2.bmp", "3.TIF", "4.gif", "5.JPG", "6.jpeg", "7.ppm", "8.tga", "9.jp2"]
    for name in ours:
        picture(tmp_path / "train/a" / name)
    picture(tmp_path / "train/a/noending", format="JPEG")
    picture(tmp_path / "train/a/wrong.dat", format="PNG")
    for name in ("labels.csv", "a/notes.txt", "a/more.txt", "a/._0.png", "a/.DS_Store", "a/scan.h5", "empty/x.heic"):
        (tmp_path / "train" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "train" / name).write_bytes(b"\0\5\x16\7 no image")
    picture(tmp_path / "train/.ipynb_checkpoints/0.png")
    (tmp_path / "train/a/gone.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "train/a/pipe.png")
    split = open_split(tmp_path / "train")
    assert paths(split) == [f"a/{name}" for name in [*ours, "noending", "wrong.dat"]]
    assert split.classes == ("a",)
    [remark] = split.remarks
    assert "left out 10 files that are no images Pillow reads (" in remark
    assert "3 hidden" in remark and "2 .txt" in remark and "2 .png" in remark and "1 .heic" in remark
    assert ": .ipynb_checkpoints, a/._0.png, a/.DS_Store, a/gone.png, a/more.txt and 5 more" in remark


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path):
    picture(tmp_path / "elsewhere/0.png")
    picture(tmp_path / "train/a/0.png")
    (tmp_path / "train/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train/a/round").symlink_to("..")
    split = open_split(tmp_path / "train")
    assert paths(split) == ["a/0.png", "b/0.png"]
    assert "left out 1 file that is no image Pillow reads (1 without ending): a/round" in split.remarks[0]


def test_two_spellings_of_a_name_are_one_class(tmp_path: Path):
    for number, name in enumerate(("cafe\u0301", "caf\u00e9", "bar")):
        picture(tmp_path / "train" / name / f"{number}.png")
    split = open_split(tmp_path / "train")
    assert split.classes == ("bar", "caf\u00e9")
    assert sorted(labels(split)) == ["bar", "caf\u00e9", "caf\u00e9"]


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path: Path):
    picture(tmp_path / "train" / os.fsdecode(b"caf\xe9") / "0.png")
    with pytest.raises(PlanError, match=r"found the class folder b'caf\\xe9', expected a name in UTF-8; rename it"):
        open_split(tmp_path / "train")


TARS = {
    "plain.tar": ("w", ""),
    "dot.tar": ("w", "./"),
    "train.tar": ("w", "train/"),
    "deep.tar": ("w", "imagenet/train/"),
    "gz.tar": ("w:gz", ""),
    "gz.tar.gz": ("w:gz", ""),
    "bz.tar": ("w:bz2", "./"),
    "xz.tar.xz": ("w:xz", ""),
}


@pytest.mark.parametrize("name", TARS)
def test_tar_files_as_people_make_them_hold_what_the_folder_holds(name: str, tmp_path: Path):
    folder = write_images(tmp_path / "train", per_class=2)
    split, expected = open_split(packed(folder, tmp_path / name, *TARS[name])), open_split(folder)
    assert (split.classes, len(split)) == (expected.classes, 6)
    again = pickle.loads(pickle.dumps(split))  # as another process gets it
    for index in range(6):
        (image, label), (same, number) = split.read(index), expected.read(index)
        assert label == number and image.tobytes() == same.tobytes() == again.read(index)[0].tobytes()
    unpacked = split.images.reader.files.unpacked
    assert (unpacked == tmp_path / name) == (TARS[name][0] == "w")
    del split
    assert unpacked.exists() == (TARS[name][0] == "w"), "what was unpacked goes with the split"


def test_tar_files_in_a_tar_file_are_its_classes(tmp_path: Path):
    folder = write_images(tmp_path / "train", per_class=2)
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for name in ("blue", "green", "red"):
            archive.add(packed(folder / name, tmp_path / f"{name}.tar"), f"{name}.tar")
        info = tarfile.TarInfo("blue/linked.png")
        info.type, info.linkname = tarfile.SYMTYPE, "nowhere.png"
        archive.addfile(info)
        archive.add(folder / "red/0.png", "red/again.png")
        info = tarfile.TarInfo("red/hard.png")
        info.type, info.linkname = tarfile.LNKTYPE, "red/again.png"
        archive.addfile(info)
    split = open_split(tmp_path / "all.tar")
    assert paths(split) == [
        *(f"{name}/{n}.png" for name in ("blue", "green") for n in (0, 1)), "red/0.png", "red/1.png", "red/again.png",
        "red/hard.png",
    ]  # fmt: skip
    assert split.read(7)[0].tobytes() == split.read(6)[0].tobytes() == split.read(4)[0].tobytes()
    assert split.remarks == (
        f"{tmp_path / 'all.tar'}: left out 1 file that is no image Pillow reads (1 .png): blue/linked.png",
    )


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:3000], lambda b: gzip.compress(b)[:400], lambda b: b"text", lambda b: b""]
)
def test_a_damaged_tar_file_is_one_message(spoil, tmp_path: Path):
    tar = packed(write_images(tmp_path / "images", per_class=2), tmp_path / "train.tar")
    tar.write_bytes(spoil(tar.read_bytes()))
    with pytest.raises(PlanError, match=r"train.tar: cannot be read as a tar file \(.*\); restore it, or lay"):
        open_split(tar)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_images_have_the_channels_that_the_model_takes(channels: int, mode: str, tmp_path: Path):
    """Trained and evaluated, with transforms of each kind, and means of another length than the channels."""
    checkpoint, data = write_checkpoint(tmp_path / "model", in_chans=channels), write_data(tmp_path / "data")
    for crop in ("rrc", "rkrr", "rkrc"):
        job = prepare(run_config(checkpoint, data, tmp_path / "run", train_crop_mode=crop), torch.device("cpu"))
        images, _ = next(job.train.epoch(1))
        assert images.shape == (8, channels, 32, 32) and images.std() > 0.1
    assert evaluated(checkpoint, data).count == 12
    split = LabelledImages.of(
        data, EVAL_SPLITS, channels=channels, num_classes=3, label_names=None, checkpoint="model"
    ).split
    assert split.read(0)[0].mode == mode == mode_of(channels, "model")


def test_other_channels_are_refused_before_an_image_is_read(tmp_path: Path):
    checkpoint, data = write_checkpoint(tmp_path / "model", in_chans=13), write_data(tmp_path / "data")
    message = r"model: takes images of 13 channels, expected 1 \(grey\), 2 .* or 4"
    with pytest.raises(PlanError, match=message):
        prepare(run_config(checkpoint, data, tmp_path / "run"), torch.device("cpu"))
    with pytest.raises(PlanError, match=message):
        evaluated(checkpoint, data)
    with pytest.raises(PlanError, match=message):
        LabelledImages.of(data, EVAL_SPLITS, channels=13, num_classes=3, label_names=None, checkpoint="model")


@pytest.mark.parametrize("channels", [2, 4])
def test_policies_that_know_no_alpha_are_refused(channels: int, tmp_path: Path):
    checkpoint, data = write_checkpoint(tmp_path / "model", in_chans=channels), write_data(tmp_path / "data")
    with pytest.raises(
        PlanError, match=rf"--aa rand-m9: .* the model takes {channels} channels, with alpha; drop --aa"
    ):
        prepare(run_config(checkpoint, data, tmp_path / "run", aa="rand-m9"), torch.device("cpu"))


def test_a_grey_model_takes_policies(tmp_path: Path):
    checkpoint, data = write_checkpoint(tmp_path / "model", in_chans=1), write_data(tmp_path / "data")
    for aa in ("rand-m9-mstd0.5", "original", "augmix-m5-w4-d2"):
        job = prepare(run_config(checkpoint, data, tmp_path / "run", aa=aa), torch.device("cpu"))
        assert next(job.train.epoch(1))[0].shape == (8, 1, 32, 32)


def test_what_is_left_out_is_told_by_every_command(growtool, tmp_path: Path):
    checkpoint, data = write_checkpoint(tmp_path / "model"), write_data(tmp_path / "data")
    for split in ("train", "validation"):
        (data / split / "blue/notes.txt").write_text("of the camera")
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"target: {{scale: {{width: 2}}}}\nwidth: {{operator: tile}}\ndata: {{path: {data}, batch_size: 8, batches: 2}}"
    )
    one = [f"--data {data}", "--workers 0", "--device cpu"]
    for words in (
        f"evaluate {checkpoint} {' '.join(one)}",
        f"finetune {checkpoint} {' '.join(one)} -o {tmp_path / 'run'} --epochs 1 --batch-size 8",
        f"verify {checkpoint} {checkpoint} --data {data}",
        f"grow {checkpoint} {plan} -o {tmp_path / 'grown'} --recalibrate",
    ):
        code, _, told = growtool(*words.split())
        assert code == 0, told
        assert "left out 1 file that is no image Pillow reads (1 .txt): blue/notes.txt" in told, words


def test_evaluation_names_what_cannot_be_read(growtool, tmp_path: Path):
    checkpoint, data = write_checkpoint(tmp_path / "model"), write_data(tmp_path / "data")
    (data / "validation/red/1.png").write_text("no image")
    code, _, told = growtool("evaluate", checkpoint, "--data", data, "--workers", "0", "--device", "cpu")
    assert code == 0 and "1 images could not be read and count as nothing: " in told and "red/1.png" in told


def test_more_than_decoders_are_known_to_raise_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoint, data = write_checkpoint(tmp_path / "model"), write_data(tmp_path / "data")
    opened = Image.open

    def trip(file: io.BytesIO, *args: object, **options: object) -> Image.Image:
        if "green/2" in str(getattr(file, "name", "")):
            raise IndexError("list index out of range")
        return opened(file, *args, **options)

    monkeypatch.setattr(Image, "open", trip)
    told: list[str] = []
    found = evaluated(checkpoint, data, told=told.append)
    assert found.count == 11 and "green/2.png: list index out of range" in told[0]
