"""Learned growth: it starts where copies leave it, lowers the loss on its images, and is written out as weights."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from growtool.calibration import open_images, recalibrate
from growtool.checkpoint import build, open_checkpoint
from growtool.errors import PlanError
from growtool.growing.learning import Maps, learned
from growtool.plan.schema import Data
from tests.support.finetune import UNCLOSED_IMAGES, images_to_grow_on, write_checkpoint, write_images
from tests.support.models import TINY, difference, grown, load, resolved, write_folder

pytestmark = UNCLOSED_IMAGES
CLASSES = ("blue", "green", "red", "violet", "white")
VIT = TINY["vit"]
WIDER = {"model_args": {"embed_dim": 16, "num_heads": 4}}
DEEPER = {"model_args": {"depth": 4}}


@pytest.fixture
def data(tmp_path):
    return images_to_grow_on(tmp_path / "images", CLASSES)


def loss_on(model: nn.Module, data: dict) -> float:
    images = open_images(Data(**data), model, label_names=None, checkpoint="model")
    with torch.no_grad():
        losses = [cross_entropy(model(x.double()), y) for x, y in images.batches()]
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize(
    ("family", "target"),
    [("vit", WIDER), ("swin", {"model_args": {"embed_dim": 16, "num_heads": [4, 4]}}),
     ("convnext", {"model_args": {"dims": [8, 12, 16, 16]}})],
)  # fmt: skip
def test_maps_start_as_copies(family, target, data, tmp_path):
    """Without noise the maps make the weights that equal copies make, tensor by tensor."""
    source = write_folder(TINY[family], tmp_path / "source")
    plan = {"target": target, "width": {"operator": "ligo", "gain": 0}, "data": data}
    weights = Maps(resolved(source, plan)).weights()
    grown(source, {"target": target, "width": {"operator": "tile", "split": "equal"}}, tmp_path / "tiled")
    expected = dict(load(tmp_path / "tiled").named_parameters())
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight.detach(), expected[name].detach(), rtol=0, atol=1e-12, msg=name)


def test_the_noise_of_each_set_of_channels_is_its_own(data, tmp_path):
    """Hidden units of two blocks have the same sizes."""
    source = write_folder(TINY["vit"], tmp_path / "source")
    maps = Maps(resolved(source, {"target": WIDER, "width": {"operator": "ligo", "gain": 0.1}, "data": data}))
    maps.weights()
    hidden = [E for (growth, reads), E in maps.matrices.items() if not reads and growth.sizes == (24, 48)]
    assert len(hidden) == 2 and not torch.equal(*hidden)


@pytest.mark.parametrize(
    "plan",
    [
        {"target": WIDER, "width": {"operator": "ligo", "steps": 12, "lr": 0.01}},
        {"target": DEEPER, "depth": {"operator": "mixing", "steps": 12, "lr": 0.01}},
        {"target": {"model_args": {**WIDER["model_args"], **DEEPER["model_args"]}},
         "width": {"operator": "ligo", "steps": 12, "lr": 0.01},
         "depth": {"operator": "mixing", "steps": 12, "lr": 0.01}},
        {"target": {"model_args": {**WIDER["model_args"], **DEEPER["model_args"]}},
         "width": {"operator": "ligo", "steps": 12, "lr": 0.01}, "depth": {"operator": "zero_out"}},
    ],
    ids=["ligo", "mixing", "both", "ligo and zero_out"],
)  # fmt: skip
def test_learning_lowers_the_loss(plan, data, tmp_path):
    source = write_folder(VIT, tmp_path / "source")
    learn = {**plan, "data": data}
    recipe = resolved(source, learn)
    assert recipe.promise.kind == "lossy" and any("learns" in reason for reason in recipe.promise.reasons)
    start = {axis: {**section, "steps": 1, "lr": 1e-9} if "steps" in section else section
             for axis, section in learn.items() if axis in ("width", "depth")}  # fmt: skip
    grown(source, {**learn, **start}, tmp_path / "start")
    grown(source, learn, tmp_path / "out")
    assert loss_on(load(tmp_path / "out"), data) < loss_on(load(tmp_path / "start"), data) - 0.01


def test_learning_at_a_whole_multiple_starts_near_the_source(data, tmp_path):
    source = write_folder(VIT, tmp_path / "source")
    width = {"operator": "ligo", "steps": 1, "lr": 1e-12, "gain": 0}
    grown(source, {"target": WIDER, "width": width, "data": data}, tmp_path / "out")
    assert difference(load(source), load(tmp_path / "out"), VIT.inputs()) < 1e-6


def test_a_resnet_learns_repeatably_and_its_statistics_fit(tmp_path):
    source = write_checkpoint(tmp_path / "source")
    images = write_images(tmp_path / "images", per_class=8)
    data = {"path": str(images), "batches": 2, "batch_size": 12}
    plan = {"target": {"model_args": {"channels": [6, 12, 12, 18]}}, "width": {"operator": "ligo", "steps": 3}}
    files = []
    for name in ("first", "second"):
        grown(source, {**plan, "data": data}, tmp_path / name)
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1]
    state = load(tmp_path / "first").state_dict()
    model = load(tmp_path / "first")
    batches = open_images(Data(**data), build(open_checkpoint(source).spec), label_names=None, checkpoint="x").batches()
    recalibrate(model, (x.double() for x, _ in batches))
    for name, statistic in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(statistic, state[name], rtol=1e-3, atol=1e-4, msg=name)


def test_what_cannot_be_learned(data, tmp_path):
    source = write_folder(VIT, tmp_path / "source")
    with pytest.raises(PlanError, match=r"ligo needs images, expected `data: \{path: \.\.\.\}` as well"):
        resolved(source, {"target": WIDER, "width": {"operator": "ligo"}})
    both = {"width": {"operator": "ligo"}, "depth": {"operator": "mixing", "steps": 7}}
    with pytest.raises(PlanError, match="ligo and mixing are learned together, expected the same steps and lr"):
        resolved(source, {"target": WIDER, "data": data, **both})
    some = {"width": {"operator": "tile"}, "overrides": [{"match": "head.*", "width": {"operator": "ligo"}}]}
    with pytest.raises(PlanError, match="overrides: what is learned is learned for all tensors together"):
        resolved(source, {"target": WIDER, "data": data, **some})
    same = {"target": {"model_args": {"depth": 2}}, "width": {"operator": "ligo"}, "data": data}
    with pytest.raises(PlanError, match="learning: found nothing that grows, so there is nothing to learn"):
        learned(resolved(source, same))
    wild = {"target": WIDER, "width": {"operator": "ligo", "lr": 1e300, "steps": 5}, "data": data}
    with pytest.raises(PlanError, match=r"learning: found a loss of .* at step \d; lower lr \(now 1e\+300\)"):
        learned(resolved(source, wild))
