"""Counts against numbers worked out by hand, against the model itself, and against the file."""

import json
import math

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

from growtool.checkpoint import Checkpoint, open_checkpoint
from growtool.errors import CheckpointError
from growtool.library import ModelSpec
from growtool.report import units
from growtool.report.inspect import OWN, inspect_checkpoint, read_lineage
from growtool.report.macs import count_macs
from tests.support.models import randomise_

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 2, "num_classes": 5}


@pytest.fixture
def vit_folder(tmp_path):
    model = randomise_(timm.create_model("vit_tiny_patch16_224", **VIT).eval())
    save_for_hf(model, tmp_path / "vit", model_args=VIT, safe_serialization=True)
    return tmp_path / "vit"


def test_macs_of_a_vit_are_those_worked_out_by_hand(vit_folder):
    tokens, width, hidden = 16 + 1, 12, 24
    patches = 16 * width * 3 * 8 * 8
    attention = (
        tokens * width * 3 * width + 2 * tokens * tokens * width + tokens * width * width
    )  # qkv, scores, mix, out
    mlp = 2 * tokens * width * hidden
    macs = inspect_checkpoint(open_checkpoint(vit_folder)).macs
    assert macs.by_module["patch_embed"] == patches
    assert macs.by_module["blocks.1.attn"] == attention
    assert macs.by_module["blocks.1.mlp"] == mlp
    assert macs.by_module["blocks"] == 2 * (attention + mlp)
    assert macs.by_module["head"] == width * 5
    assert macs.total == patches + 2 * (attention + mlp) + width * 5 == sum(macs.by_operation.values())
    assert macs.flops == 2 * macs.total


def _counted(model, size):
    model.pretrained_cfg = {"input_size": size}
    return count_macs(ModelSpec("resnet18"), model)


def test_macs_of_a_convolutional_net_are_those_worked_out_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 16 x 16 outputs
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 6, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ).eval()
    macs = _counted(model, (3, 32, 32))
    assert macs.by_module == {"0": 16 * 16 * 8 * 3 * 9, "3": 16 * 16 * 8 * 9, "4": 16 * 16 * 6 * 8, "7": 6 * 4}
    assert macs.total == sum(macs.by_module.values())
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


def test_torch_layers_with_a_fused_path_are_counted():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    model = nn.Sequential(nn.Flatten(1, 2), layer)
    tokens = 3 * 4
    assert _counted(model, (3, 4, 8)).total == tokens * 8 * 8 * 4 + 2 * tokens * tokens * 8 + 2 * tokens * 8 * 16


def test_a_model_that_does_not_run_is_told_as_such():
    model = timm.create_model("resnet18", layers=[1, 1, 1])  # timm builds it, and runs four stages
    with pytest.raises(CheckpointError, match=r"ResNet: does not run on images of \(3, 224, 224\)"):
        _counted(model, (3, 224, 224))


def test_numbers_are_the_models_and_the_files(resnet_folder):
    model = timm.create_model(f"local-dir:{resnet_folder}", pretrained=True)
    it = inspect_checkpoint(open_checkpoint(resnet_folder))
    assert it.parameters == sum(p.numel() for p in model.parameters())
    assert it.buffers == sum(b.numel() for b in model.buffers())
    assert it.dtypes == {"F32": it.parameters + it.buffers - 13, "I64": 13}  # one counter per BatchNorm
    weights = (resnet_folder / "model.safetensors").read_bytes()
    assert it.bytes == len(weights) - 8 - int.from_bytes(weights[:8], "little")
    assert (it.architecture, it.input_size, it.lineage) == ("resnet18", (3, 224, 224), ())


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_rows_of_a_level_add_up_to_the_whole(vit_folder, depth):
    it = inspect_checkpoint(open_checkpoint(vit_folder), depth=depth)
    top = [row for row in it.modules if "." not in row.name]
    assert [row.name for row in top] == [OWN, "patch_embed", "blocks", "norm", "head"]
    assert top[0].parameters == 12 + 17 * 12  # class token and positions
    for key in ("parameters", "buffers", "bytes"):
        assert sum(getattr(row, key) for row in top) == getattr(it, key)
    assert sum(row.macs for row in top) == it.macs.total
    assert max(row.name.count(".") for row in it.modules) == depth - 1


def test_depth_zero_lists_nothing(vit_folder):
    assert inspect_checkpoint(open_checkpoint(vit_folder), depth=0).modules == ()


def test_no_weight_is_read(vit_folder, monkeypatch):
    monkeypatch.delattr(Checkpoint, "read")
    assert inspect_checkpoint(open_checkpoint(vit_folder)).parameters > 0


def test_tied_parameters_count_once(tmp_path):
    checkpoint, model = _tied(tmp_path)
    it = inspect_checkpoint(checkpoint, model=model)
    assert (it.parameters, it.buffers, it.bytes) == (9, 0, 2 * 9 * 4)


def _tied(folder):
    """A model that holds one 3 x 3 weight under two names, and a file with both."""
    from safetensors.torch import save_file

    model = nn.Sequential(nn.Flatten(1, 2), nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[2].weight = model[1].weight
    model.pretrained_cfg = {"input_size": (1, 3, 3)}
    save_file({"1.weight": torch.ones(3, 3), "2.weight": torch.ones(3, 3)}, folder / "tied.safetensors")
    return open_checkpoint(folder / "tied.safetensors", architecture="resnet18"), model.eval()


STEP = {"source": "small", "operators": ["tile"], "promise": "exact", "difference": 1e-7}


def test_lineage_is_read_from_the_config_or_else_from_the_report(vit_folder):
    report = vit_folder / "growth.json"
    report.write_text(json.dumps({"lineage": [STEP]}))
    assert read_lineage(open_checkpoint(vit_folder)) == (STEP,)
    config = json.loads((vit_folder / "config.json").read_text())
    (vit_folder / "config.json").write_text(json.dumps(config | {"growtool": {"lineage": [STEP, STEP]}}))
    assert read_lineage(open_checkpoint(vit_folder)) == (STEP, STEP)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"growth\.json:1:2: not JSON: "),
        ('{"lineage": 3}', r"growth\.json: found no list"),
        ("[]", "found no list"),
    ],
)
def test_a_damaged_report_is_named(vit_folder, text, message):
    (vit_folder / "growth.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        inspect_checkpoint(open_checkpoint(vit_folder))


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (22_050_664, "22.1 M"), (4.089e9, "4.09 G"), (123_456, "123 k")],
)
def test_counts_have_three_digits(number, text):
    assert units.count(number) == text


def test_sizes_and_ratios():
    assert [units.size(n) for n in (12, 1024, 3 * 1024**2)] == ["12 B", "1.00 KiB", "3.00 MiB"]
    assert [units.ratio(*pair) for pair in ((3, 2), (4, 0), (0, 4), (0, 0))] == ["1.5x", "new", "gone", "-"]
    assert not math.isnan(float(units.ratio(1, 3).rstrip("x")))
