"""`second: mirror`: weights in mirrored order make of an image what the source makes of the mirrored image."""

import sys
from dataclasses import replace

import pytest
import torch
from timm.models import register_model
from torch import nn

from growtool.checkpoint import open_checkpoint
from growtool.cli import app as cli
from growtool.errors import PlanError
from growtool.growing import summarise
from growtool.recipe import resolve
from growtool.recipe.mirror import mirror_image
from growtool.recipe.traced_model import TracedModel
from tests.support.models import TINY, WIDER, Tiny, difference, grown, load, plan_of, resolved, write_folder

_SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 5}
MIRRORED = {
    "class token": TINY["vit"],
    "registers": TINY["vit_scaled"],
    "several registers": TINY["vit_scaled"].with_args(reg_tokens=9),
    "two tokens": Tiny("deit_tiny_distilled_patch16_224", _SMALL),
    "relative positions": Tiny("beit_base_patch16_224", _SMALL),
    "class attention": TINY["cait"],
    "convolutions": TINY["convnext"],
    "windows": TINY["swin"].with_args(depths=[2], num_heads=[2]),
    "layers over positions": Tiny("gmlp_ti16_224", {"num_classes": 5}, 224),
}


class PatchNet(nn.Module):
    """Patches, convolutions and BatchNorms: a network with a mirror image, whose halves two_source keeps apart."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 4, stride), nn.BatchNorm2d(width)
        self.conv, self.after = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 5)
        self.num_classes, self.num_features = 5, width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x)).relu()
        return self.head(self.after(self.conv(x)).relu().mean((2, 3)))  # type: ignore[no-any-return]


@register_model
def mirror_net(pretrained: bool = False, width: int = 6, stride: int = 4, **kwargs) -> PatchNet:
    model = PatchNet(width, stride)
    model.pretrained_cfg = model.default_cfg = {
        "architecture": "mirror_net", "input_size": (3, 32, 32), "num_classes": 5,
    }  # fmt: skip
    return model


def image_of(folder):
    checkpoint = open_checkpoint(folder)
    return mirror_image(checkpoint, TracedModel.of(checkpoint.spec, where=checkpoint.name))


@pytest.mark.parametrize("tiny", MIRRORED.values(), ids=MIRRORED)
def test_it_sees_an_image_as_the_source_sees_the_mirrored_one(tiny, tmp_path):
    """timm's own model with the reordered weights; both differ on the image itself."""
    folder = write_folder(tiny, tmp_path / "a")
    source, mirror, inputs = load(folder), load(folder), tiny.inputs()
    mirror.load_state_dict(image_of(folder).state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(mirror(inputs), source(inputs.flip(3)), rtol=1e-11, atol=1e-12)
    assert difference(source, mirror, inputs) > 1e-3


def test_images_that_are_no_squares(tmp_path):
    """The grid of positions has the proportions of the image: 4 rows of 6."""
    tiny = Tiny("vit_tiny_patch16_224", _SMALL | {"img_size": [32, 48]})
    folder = write_folder(tiny, tmp_path / "a")
    inputs = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    source, mirror = load(folder), load(folder)
    mirror.load_state_dict(image_of(folder).state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(mirror(inputs), source(inputs.flip(3)), rtol=1e-11, atol=1e-12)


def test_both_together_average_over_an_image_and_its_mirror_image(tmp_path):
    tiny = Tiny("mirror_net")
    source = write_folder(tiny, tmp_path / "a")
    plan = {"target": {"model_args": {"width": 12}}, "second": "mirror", "width": {"operator": "two_source"}}
    result = grown(source, plan, tmp_path / "out")
    assert result.summary.promise == "exact" and result.proof is not None
    assert result.proof.comparison.relative_difference < 1e-12
    net, both, inputs = load(source), load(tmp_path / "out"), tiny.inputs()
    with torch.no_grad():
        torch.testing.assert_close(both(inputs), (net(inputs) + net(inputs.flip(3))) / 2, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(both(inputs.flip(3)), both(inputs), rtol=1e-11, atol=1e-12)


def test_a_vit_says_where_the_halves_meet(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "a")
    plan = {"target": {"model_args": WIDER["vit"]}, "second": "mirror", "width": {"operator": "two_source"}}
    recipe = resolved(source, plan)
    assert "blocks.0.norm1: LayerNorm over the channels of both sources" in recipe.promise.reasons
    assert summarise(recipe).growth()[0] == f"beside it grows the mirror image of {source.name}"


_HAS_NONE = (
    "second: {a} has no mirror image: with weights in mirrored order the outputs of its model differ by {apart} from "
    "those on mirrored images, expected none, since {why}; name another checkpoint"
)
REFUSED = {
    "strides": (
        Tiny("mirror_net", {"stride": 3}),
        "stem, kernel 4 in strides of 3 over 32 columns, cuts an image from the right otherwise than from the left",
    ),
    "rotary positions": (
        TINY["eva"],
        "something in it tells left from right by other means than tables of positions that growtool knows",
    ),
}


@pytest.mark.parametrize(("tiny", "why"), REFUSED.values(), ids=REFUSED)
def test_a_network_without_a_mirror_image_is_refused(tiny, why, tmp_path):
    source = write_folder(tiny, tmp_path / "a")
    with pytest.raises(PlanError) as caught:
        image_of(source)
    before, _, after = _HAS_NONE.format(a=source, apart="|", why=why).partition("|")
    said = str(caught.value)
    assert said.startswith(before) and said.endswith(after)
    assert 1e-3 < float(said.removeprefix(before).removesuffix(after)) < 10


def test_the_command_line_tells_the_place_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_folder(Tiny("mirror_net", {"stride": 3}), tmp_path / "a")
    (tmp_path / "plan.yaml").write_text(
        "target: {model_args: {width: 12}}\nsecond: mirror\nwidth: {operator: two_source}\n"
    )
    monkeypatch.setattr(sys, "argv", ["growtool", "grow", "a", "plan.yaml", "-o", "out"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 1 and not (tmp_path / "out").exists()
    assert capsys.readouterr().err.startswith("error: plan.yaml:2:1 second: a has no mirror image: ")


def test_a_schedule_foresees_it_of_a_checkpoint_that_is_not_there_yet(tmp_path):
    """After an earlier stage of growth there is a model, and no file with its weights."""
    source = write_folder(Tiny("mirror_net"), tmp_path / "a")
    wider = {"target": {"model_args": {"width": 12}}, "width": {"operator": "tile"}}
    foreseen = resolved(source, wider)
    pretended = replace(open_checkpoint(source), spec=foreseen.target, stored=foreseen.infos)
    plan = {"target": {"model_args": {"width": 24}}, "second": "mirror", "width": {"operator": "two_source"}}
    assert resolve(plan_of(tmp_path, plan).plan, pretended).promise.kind == "exact"
