"""Columns of parquet files: what is found, what is expected, and the option that helps, which then does.

They are read with the real package where it is installed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from growtool.errors import PlanError
from growtool.finetune.prepare import prepare
from tests.support.finetune import CLASSES, UNCLOSED_IMAGES, evaluated, run_config

pytestmark = [UNCLOSED_IMAGES, pytest.mark.filterwarnings("ignore")]
datasets = pytest.importorskip("datasets")


@pytest.fixture
def write(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`write(image="image", label="label", kind=None, labels=None)`: both splits with columns of these names."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "cache/downloads")

    def written(image: str = "image", label: str = "label", kind: Any = None, labels: Any = CLASSES.index) -> Path:
        out = tmp_path / f"{image}-{label}-{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        features = datasets.Features(
            {
                image: datasets.Image(),
                label: kind or datasets.ClassLabel(names=list(CLASSES)),
                "id": datasets.Value("int64"),
            }
        )
        for split in ("train", "validation"):
            paths = sorted((data / split).rglob("*.png"))
            table = {
                image: [{"bytes": path.read_bytes(), "path": None} for path in paths],
                label: [labels(path.parent.name) for path in paths],
                "id": list(range(len(paths))),
            }
            datasets.Dataset.from_dict(table, features=features).to_parquet(out / f"{split}-0.parquet")
        return out

    return written


def opened(checkpoint: Path, data: Path, tmp_path: Path, **data_kwargs: Any):
    return prepare(run_config(checkpoint, data, tmp_path / "run", data_kwargs=data_kwargs), torch.device("cpu"))


@pytest.mark.parametrize(("columns", "key"), [({"image": "img"}, "input_key"), ({"label": "fine_label"}, "target_key")])
def test_columns_of_other_names(columns, key: str, write, checkpoint: Path, tmp_path: Path):
    [(kind, name)] = columns.items()
    folder = write(**columns)
    message = rf"train: found the columns {', '.join(sorted({'image', 'label', 'id', name} - {kind}))}, expected one "
    message += rf"named {kind}; choose with --set data_kwargs={{{key}: NAME}}"
    with pytest.raises(PlanError, match=message):
        opened(checkpoint, folder, tmp_path)
    with pytest.raises(PlanError, match=message.replace("train", "validation")):
        evaluated(checkpoint, folder)
    job = opened(checkpoint, folder, tmp_path, **{key: name})  # as the message says
    assert (job.spec.label_names, job.train.count) == (CLASSES, 24)
    assert evaluated(checkpoint, folder, data_kwargs={key: name}).count == 12


def test_labels_that_are_text(write, checkpoint: Path, tmp_path: Path, growtool):
    folder = write(kind=datasets.Value("string"), labels=str)
    with pytest.raises(
        PlanError, match=r"column label holds text, .*, one a line in their order, with --set data_kwargs="
    ):
        opened(checkpoint, folder, tmp_path)
    (tmp_path / "classes.txt").write_text("\n".join(reversed(CLASSES)))
    job = opened(checkpoint, folder, tmp_path, class_map=str(tmp_path / "classes.txt"))  # as the message says
    assert job.spec.label_names == tuple(reversed(CLASSES))
    (tmp_path / "two.txt").write_text("red\nblue\nyellow")
    with pytest.raises(
        PlanError, match=r"train: found the labels 'green', expected only those in the file of class_map"
    ):
        opened(checkpoint, folder, tmp_path, class_map=str(tmp_path / "two.txt"))
    words = ["evaluate", checkpoint, "--data", folder, "--workers", "0", "--device", "cpu", "--json"]
    code, out, said = growtool(*words, "--set", f"data_kwargs={{class_map: {tmp_path / 'classes.txt'}}}")
    assert code == 0 and '"count": 12' in out, said


@pytest.mark.parametrize(
    ("labels", "found"), [(lambda name: -1, "-1"), (lambda name: 7, "7"), (lambda name: None, "None")]
)
def test_labels_that_are_no_class(labels, found: str, write, checkpoint: Path, tmp_path: Path):
    folder = write(kind=datasets.Value("int64"), labels=labels)
    message = (
        rf"found the label {found}, expected the number of a class, 0 to 2; name the field that holds it with --set"
    )
    with pytest.raises(PlanError, match=message):
        opened(checkpoint, folder, tmp_path)
    with pytest.raises(PlanError, match=message):
        evaluated(checkpoint, folder)


def test_an_image_that_is_none(write, checkpoint: Path, tmp_path: Path):
    folder = write(image="image")
    table = datasets.Dataset.from_parquet(str(folder / "validation-0.parquet"), cache_dir=str(tmp_path / "c"))
    rows = [row | {"image": None if row["id"] == 4 else row["image"]} for row in table]
    datasets.Dataset.from_list(rows, features=table.features).to_parquet(folder / "validation-0.parquet")
    told: list[str] = []
    assert evaluated(checkpoint, folder, told=told.append).count == 11
    assert "validation: image 4: " in told[0]


def test_a_file_that_is_no_parquet(checkpoint: Path, tmp_path: Path):
    (tmp_path / "p").mkdir()
    for split in ("train", "validation"):
        (tmp_path / f"p/{split}-0.parquet").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(PlanError, match=r"timm cannot open the split 'train' \(.*\); correct --dataset, --data"):
        opened(checkpoint, tmp_path / "p", tmp_path)
