"""Plans that are well-formed and whose target is not: what is wrong stands at its place in the file."""

import sys

import pytest
import timm
from timm.models import save_for_hf

from growtool.cli import app as cli

ARGS = {"channels": [4, 6, 8, 8], "stem_width": 4, "num_classes": 3}
PLANS = {
    "a misspelt argument": (
        "target:\n  model_args: {chanels: [8, 12, 16, 16], stem_widht: 8}\nwidth: {operator: tile}\n",
        "error: plan.yaml:2:16 target.model_args.chanels: no argument of resnet10t's constructor; did you mean "
        "'channels'?\n"
        "error: plan.yaml:2:42 target.model_args.stem_widht: no argument of resnet10t's constructor; did you mean "
        "'stem_width'?\n",
    ),
    "a misspelt argument of another model": (
        "target:\n  model: resnet18\n  model_args: {num_clases: 3}\n",
        "error: plan.yaml:3:16 target.model_args.num_clases: no argument of resnet18's constructor; did you mean "
        "'num_classes'?\n",
    ),
    "arguments that do not run": (
        "target:\n  model_args: {channels: [8, 12, 16]}\n",
        "error: plan.yaml:2:3 target.model_args: timm builds resnet10t so, but it does not run on images of "
        "(3, 176, 176) (channels, height, width): AttributeError: 'ResNet' object has no attribute 'layer4'; expected "
        "arguments that fit each other, found resnet10t with num_classes=3, global_pool=avg, channels=[8, 12, 16], "
        "stem_width=4, in_chans=3\n",
    ),
}


@pytest.mark.parametrize(("text", "expected"), PLANS.values(), ids=PLANS)
def test_a_target_that_cannot_be_is_told_at_its_place(tmp_path, monkeypatch, capsys, text, expected):
    monkeypatch.chdir(tmp_path)
    save_for_hf(timm.create_model("resnet10t", **ARGS), "source", model_args=ARGS, safe_serialization=True)
    (tmp_path / "plan.yaml").write_text(text)
    monkeypatch.setattr(sys, "argv", ["growtool", "grow", "source", "plan.yaml", "--dry-run"])
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == expected
