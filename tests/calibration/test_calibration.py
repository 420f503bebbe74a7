"""Images for growth, and the running statistics that are estimated from them."""

import json
import tarfile

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from growtool.calibration import open_images, tracking_norms
from growtool.checkpoint import build, open_checkpoint
from growtool.errors import PlanError
from growtool.growing import summarise
from growtool.plan.schema import Data
from tests.support.finetune import UNCLOSED_IMAGES, write_checkpoint, write_images
from tests.support.models import TINY, grown, load, resolved, write_folder

pytestmark = UNCLOSED_IMAGES
NET2NET = {"operator": "net2net"}
WIDER = {"model_args": {"channels": [6, 12, 12, 18]}}


@pytest.fixture
def source(tmp_path):
    return write_checkpoint(tmp_path / "source")


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images", per_class=8)


def opened(source, data: Data):
    model = build(open_checkpoint(source).spec)
    return open_images(data, model, label_names=None, checkpoint="source")


def test_every_batch_meets_every_class(source, images):
    batches = list(opened(source, Data(path=str(images), batches=4, batch_size=6)).batches())
    assert [tuple(x.shape) for x, _ in batches] == [(6, 3, 32, 32)] * 4
    assert all(sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2] for _, labels in batches)
    again = list(opened(source, Data(path=str(images), batches=4, batch_size=6)).batches())
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(batches, again, strict=True))


def test_the_train_split_is_found(source, images, tmp_path):
    (tmp_path / "data").mkdir()
    images.rename(tmp_path / "data" / "train")
    found = opened(source, Data(path=str(tmp_path / "data"), batches=1, batch_size=2))
    assert found.images.split.root == tmp_path / "data" / "train"


def test_a_tar_file_holds_the_same_images(source, images, tmp_path):
    data = {"batches": 2, "batch_size": 6}
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        archive.add(images, arcname=".")
    (tmp_path / "tars").mkdir()
    (tmp_path / "train.tar").rename(tmp_path / "tars" / "train.tar")
    pairs = zip(
        opened(source, Data(path=str(tmp_path / "tars"), **data)).batches(),
        opened(source, Data(path=str(images), **data)).batches(),
        strict=True,
    )
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"path": "nowhere"}, "data nowhere: found nothing, expected a folder of images"),
        ({"batches": 5, "batch_size": 5}, r"data: found 24 images in .*, expected the 25 of 5 batches of 5; lower"),
    ],
    ids=["nowhere", "too few"],
)
def test_images_that_do_not_do(data, message, source, images):
    with pytest.raises(PlanError, match=message):
        opened(source, Data(**{"path": str(images), **data}))


def test_recalibrated_statistics_are_those_of_the_data(source, images, tmp_path):
    """The first norm sees the stem, which growth leaves alone: its statistics are those of the stem's own output."""
    data = {"path": str(images), "batches": 2, "batch_size": 12}
    plan = {"target": WIDER, "width": NET2NET, "data": data, "recalibrate": True, "output": {"dtype": "float64"}}
    recipe = resolved(source, plan)
    assert "recalibrate estimates the running statistics of BatchNorm anew" in recipe.promise.reasons
    grown(source, plan, tmp_path / "out")
    state = load_file(tmp_path / "out" / "model.safetensors")
    seen: list[Tensor] = []
    model = load(tmp_path / "out")
    model.conv1.register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    for batch, _ in opened(source, Data(**data)).batches():
        model(batch.double())
    means = torch.stack([out.mean((0, 2, 3)) for out in seen]).mean(0)
    torch.testing.assert_close(state["bn1.running_mean"], means, rtol=1e-6, atol=1e-8)
    plain = {**plan, "recalibrate": False}
    grown(source, plain, tmp_path / "plain")
    before = load_file(tmp_path / "plain" / "model.safetensors")
    statistics = {f"{name}.running_{what}" for name in tracking_norms(model) for what in ("mean", "var")}
    assert {name for name in state if not torch.equal(state[name], before[name])} == statistics


def test_recalibrated_bytes_repeat(source, images, tmp_path):
    data = {"path": str(images), "batches": 1, "batch_size": 6}
    plan = {"target": WIDER, "width": NET2NET, "data": data, "recalibrate": True}
    files = []
    for name in ("first", "second"):
        grown(source, plan, tmp_path / name)
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert json.loads((tmp_path / "first" / "growth.json").read_text())["plan"]["resolved"]["recalibrate"] is True


def test_the_plan_says_when_statistics_no_longer_fit(source):
    published = {"operator": "mixture", "compensate": False}
    double = {"model_args": {"channels": [8, 16, 16, 24]}}
    *_, advice = summarise(resolved(source, {"target": double, "width": published})).advice
    assert advice.startswith("running statistics: 13 BatchNorm layers keep those of the source, which no longer fit; ")
    assert not summarise(resolved(source, {"target": double, "width": {"operator": "tile"}})).advice


def test_nothing_to_recalibrate(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "vit")
    plan = {"target": {"model_args": {"depth": 3}}, "depth": {"operator": "zero_out"}, "recalibrate": True}
    with pytest.raises(PlanError, match="recalibrate: the target has no BatchNorm with running statistics; drop it"):
        resolved(source, {**plan, "data": {"path": "x"}})
