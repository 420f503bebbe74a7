"""Models without a head grow like any other; what they return grows too, each new feature a copy of an old one."""

import json
from pathlib import Path

import pytest
import torch

from growtool.checkpoint import open_checkpoint
from growtool.errors import CheckpointError, PlanError
from growtool.growing import proof as proving
from growtool.verify import compare
from tests.support.models import TINY, WIDER, Tiny, grown, load, random_model, resolved, write_folder

TILE = {"operator": "tile"}
EXACT = 1e-10
DEEPER = {"vit": {"depth": 3}, "resnet": {"layers": [3, 1, 1, 1]}, "convnext": {"depths": [1, 3, 1, 1]}}


def headless(name: str, **args: object) -> Tiny:
    return TINY[name].with_args(**{"num_classes": 0, **args})


def features_apart(tiny: Tiny, out: Path) -> float:
    """Largest relative difference of what the grown model returns to what its report says that it returns."""
    report = json.loads((out / "growth.json").read_text())
    with torch.no_grad():
        a, b = (model(tiny.inputs()) for model in (random_model(tiny), load(out)))
    for feature in report["features"]:
        assert feature["before"] == a.shape[feature["dimension"]]
        kept = [i for i, old in enumerate(feature["copies_of"]) if old is not None]
        a = a.index_select(feature["dimension"], torch.tensor([feature["copies_of"][i] for i in kept]))
        b = b.index_select(feature["dimension"], torch.tensor(kept))
    assert a.shape == b.shape
    scale = float(a.abs().max())
    assert float((a[0] - a[1]).abs().max()) > 1e-3 * scale, "features that ignore the image prove nothing"
    return float((a - b).abs().max()) / scale


@pytest.mark.parametrize("pooling", ["pooled", "unpooled"])
@pytest.mark.parametrize("name", ["vit", "resnet", "resnext", "convnext", "swin", "levit", "densenet", "eva"])
def test_features_of_a_wider_model_are_copies(name, pooling, tmp_path):
    tiny = headless(name, **({} if pooling == "pooled" else {"global_pool": ""}))
    if name == "levit" and pooling == "unpooled":
        pytest.skip("timm's levit has no such pooling")
    source = write_folder(tiny, tmp_path / "source")
    made = grown(source, {"target": {"model_args": dict(WIDER[name])}, "width": TILE}, tmp_path / "out")
    assert made.summary.promise == "exact" and made.summary.features
    assert "features differ by" in str(made.proof) and "decision" not in str(made.proof)
    assert features_apart(tiny, tmp_path / "out") < EXACT


@pytest.mark.parametrize("name", DEEPER)
def test_features_of_a_deeper_model_are_the_same(name, tmp_path):
    tiny = headless(name)
    source = write_folder(tiny, tmp_path / "source")
    plan = {"target": {"model_args": DEEPER[name]}, "depth": {"operator": "zero_out"}}
    made = grown(source, plan, tmp_path / "out")
    assert made.summary.promise == "exact" and not made.summary.features
    assert features_apart(tiny, tmp_path / "out") < EXACT
    same = compare(open_checkpoint(source), open_checkpoint(tmp_path / "out"), tiny.inputs(), dtype=torch.float64)
    assert same.relative_difference < EXACT and same.argmax_agreement is None


@pytest.mark.parametrize("operator", ["net2net", "centre_zero", "zero"])
def test_every_operator_says_of_features_what_is_measured(operator, tmp_path):
    tiny = headless("vit")
    source = write_folder(tiny, tmp_path / "source")
    wider = {"embed_dim": 12, "num_heads": 3, "mlp_ratio": 4.0}
    content = {"target": {"model_args": wider}, "width": {"operator": operator}, "allow_lossy": True}
    made = grown(source, content, tmp_path / "out")
    [feature] = made.summary.features
    assert (None in feature.copies_of) == (operator != "net2net")
    apart = features_apart(tiny, tmp_path / "out")
    assert (made.summary.promise == "lossy") == (apart > 1e-4)


def test_a_model_of_two_sources_keeps_their_features_apart(tmp_path):
    source, second = (write_folder(headless("densenet"), tmp_path / name, seed=seed) for seed, name in enumerate("ab"))
    plan = {
        "target": {"model_args": dict(WIDER["densenet"])}, "second": str(second), "width": {"operator": "two_source"},
    }  # fmt: skip
    recipe = resolved(source, plan)
    assert recipe.promise.kind == "lossy"
    assert "the output keeps the two sources apart" in str(recipe.promise)


def test_a_wrong_feature_is_noticed(tmp_path, monkeypatch):
    source = write_folder(headless("resnet"), tmp_path / "source")
    plan = {"target": {"model_args": dict(WIDER["resnet"])}, "width": TILE}
    monkeypatch.setattr(proving, "aligned", lambda recipe, a, b: ((a[0],), (b[0][:, 1 : 1 + a[0].shape[1]],)))
    with pytest.raises(CheckpointError, match="verification failed: features differ by"):
        grown(source, plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_features_of_different_size_cannot_be_compared(tmp_path):
    source, wider = (
        open_checkpoint(write_folder(tiny, tmp_path / name))
        for name, tiny in (("a", headless("resnet")), ("b", headless("resnet", **WIDER["resnet"])))
    )
    with pytest.raises(PlanError) as error:
        compare(source, wider, TINY["resnet"].inputs(1))
    assert str(error.value) == (
        f"features: {source.name} returns [12] for an image, {wider.name} [24]; expected the same, as both are "
        "compared number by number; where one was grown from the other, the figure under `verified` in its growth.json "
        "compares what grew with its origin"
    )
