"""Recipes: what each tensor is made of, known before anything is read; and each request that cannot be met, by message.

The messages are golden: each names the place, the finding, the expectation and the remedy, ends the command with code 1
and leaves nothing written.
"""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from growtool.checkpoint import Checkpoint
from tests.support.models import TINY, WIDER, Tiny, resolved, write_folder

RESNET = Tiny("resnet18", {"layers": [2, 2, 2, 2], "channels": [4, 8, 8, 12], "num_classes": 5})
TILE, NET2NET, ZERO_OUT = {"operator": "tile"}, {"operator": "net2net"}, {"operator": "zero_out"}


def plan_file(folder: Path, content: dict) -> Path:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_nothing_but_headers_is_read(tmp_path, monkeypatch):
    source = write_folder(RESNET, tmp_path / "source")
    monkeypatch.setattr(Checkpoint, "read", lambda *_: pytest.fail("a weight was read"))
    recipe = resolved(source, {"target": {"model_args": {"channels": [8, 16, 16, 24]}}, "width": TILE})
    assert recipe.tensors["layer1.0.conv1.weight"].info.shape == (8, 64, 3, 3)
    assert next((w.group, w.before, w.after) for w in recipe.widths) == ("layer1.0.conv1.weight[0].0", 4, 8)


def test_tensors_come_in_the_order_of_the_state_dict_with_the_sources_types(tmp_path):
    source = write_folder(RESNET, tmp_path / "source", dtype=torch.bfloat16)
    recipe = resolved(source, {"target": {"model_args": {"layers": [2, 2, 2, 3]}}, "depth": ZERO_OUT})
    names = list(RESNET.with_args(layers=[2, 2, 2, 3]).create().state_dict())
    assert list(recipe.tensors) == names
    assert recipe.infos["conv1.weight"].dtype == "BF16"
    assert recipe.infos["layer4.2.bn1.num_batches_tracked"].dtype == "I64"


def test_the_bank_of_a_layer_is_its_stage(tmp_path):
    source = write_folder(RESNET, tmp_path / "source")
    recipe = resolved(
        source, {"target": {"model_args": {"channels": [8, 16, 16, 24]}}, "width": {"operator": "mixture"}}
    )
    of_stage = ["layer2.0.conv2.weight", "layer2.1.conv1.weight", "layer2.1.conv2.weight"]
    for own, name in enumerate(of_stage):
        grid = recipe.templates.grid(name)
        assert recipe.templates.form.members(recipe.templates.form.tensors[name].bank) == of_stage
        assert grid.coefficients.flatten().tolist() == [float(t == own) for t in range(3)]
        for t, member in enumerate(of_stage):
            assert torch.equal(grid.bank.template(t), recipe.source.read(member))
    assert recipe.templates.grid("layer2.0.conv1.weight") is None, "no other layer has its shape"
    assert recipe.templates.grid("fc.weight") is None


def test_what_stays_is_a_copy(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    recipe = resolved(source, {"target": {"model_args": dict(WIDER["vit"])}, "width": TILE})
    assert [name for name, tensor in recipe.tensors.items() if tensor.is_copy] == ["head.bias"]
    assert all(list(tensor.info.shape) == [len(m.index) for m in tensor.maps] for tensor in recipe.tensors.values())


def test_a_dry_run_shows_the_plan_and_writes_nothing(growtool, tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    plan = plan_file(tmp_path, {"target": {"model_args": {"embed_dim": 12, "num_heads": 3}}, "width": NET2NET})
    code, out, err = growtool("grow", source, plan, "-o", tmp_path / "out", "--dry-run")
    assert code == 1 and re.match(r"error: .*plan\.yaml:\d+:1 width: net2net keeps the function of other models", err)
    assert "promise: lossy (not the same function)" in out
    assert "LayerNorm over channels that are not all copied equally often (residual stream 8 -> 12)" in out
    code, out, err = growtool("grow", source, plan, "--dry-run", "--json")
    shown = json.loads(out)
    assert (code, err) == (1, f"error: {shown['refused']}\n")
    assert shown["promise"]["kind"] == "lossy" and shown["target"]["model_args"]["embed_dim"] == 12
    assert {path.name for path in tmp_path.iterdir()} == {"source", "plan.yaml"}


def test_a_lossy_plan_says_so_before_anything_is_written(growtool, tmp_path, monkeypatch):
    source = write_folder(TINY["vit"], tmp_path / "source")
    plan = plan_file(tmp_path, {"target": {"model_args": {"depth": 3}}, "depth": {"operator": "stack"}})

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("growtool.growing.grow", stop)
    code, out, _ = growtool("grow", source, plan, "-o", tmp_path / "out")
    assert code == 130
    assert re.search(r"promise: lossy .*\n +stack runs every repeated block once more", out)


BAD = {
    "narrower": (
        RESNET, {"target": {"model_args": {"channels": [4, 8, 8, 8]}}, "width": TILE},
        [r"resnet18 cannot become resnet18 as asked:",
         r"layer4\.0-1: hidden channels 12 would become 8; growth never shrinks, choose a target that "
         r"is smaller nowhere"],
    ),
    "shallower": (
        TINY["vit"], {"target": {"model_args": {"depth": 1}}, "depth": ZERO_OUT},
        [r"blocks\.\*: 2 blocks in the source, 1 in the target; growth never removes blocks"],
    ),
    "heads do not divide": (
        TINY["vit"], {"target": {"model_args": {"embed_dim": 18, "num_heads": 4}}, "width": NET2NET},
        [r"target\.model_args: timm cannot build test_vit with .*embed_dim=18.*divisible by num_heads; "
         r"check model_args"],
    ),
    "smaller heads": (
        TINY["vit"], {"target": {"model_args": {"embed_dim": 12, "num_heads": 4}}, "width": NET2NET},
        [r"blocks 0-1: head size 4 would become 3; growth never shrinks, choose a target that "
         r"is smaller nowhere"],
    ),
    "another kind of block": (
        RESNET, {"target": {"model": "resnet50"}, "width": TILE, "depth": ZERO_OUT},
        [r"target: layer1\.0-2: found no block with the parameters of layer1\.0-1 of the source, each as "
         r"large or larger, expected one for each to become; choose a target with the same kind of blocks"],
    ),
    "other classes": (
        RESNET, {"target": {"model_args": {"num_classes": 7}}, "width": TILE},
        [r"target\.model_args\.num_classes: the source has 5 classes, the target 7; .* `growtool finetune CKPT "
         r"--num-classes 7`"],
    ),
    "learning without classes": (
        RESNET.with_args(num_classes=0),
        {"target": {"model_args": {"channels": [8, 16, 16, 24]}}, "width": {"operator": "ligo", "steps": 1},
         "data": {"path": "nowhere"}},
        [r"width\.operator: ligo needs the classes of images, and the target has no classifier \(num_classes 0"
         r"\); grow a checkpoint with its head, or use an operator that needs no images"],
    ),
    "another image size": (
        TINY["vit"], {"target": {"model_args": {"img_size": 48}}, "width": TILE},
        [r"target: images of \(3, 48, 48\), the source takes \(3, 32, 32\).*; growth keeps the input, set img_size"],
    ),
    "unknown architecture": (
        RESNET, {"target": {"model": "resnet81"}, "width": TILE},
        [r"target: architecture: found 'resnet81', expected a name of timm's registry; did you mean resnet18"],
    ),
    "unknown argument": (
        RESNET, {"target": {"model_args": {"channel": [8, 8, 8, 12]}}, "width": TILE},
        [r"target\.model_args\.channel: no argument of resnet18's constructor; did you mean 'channels'\?"],
    ),
    "fractional factor": (
        RESNET, {"target": {"model_args": {"channels": [6, 12, 12, 18]}}, "width": TILE},
        [r"hidden channels 4 -> 6 \(layer1\.0-1\), .* and \d more: tile takes whole multiples; "
         r"use `width: \{operator: mixture\}`, which is exact"],
    ),
    "dense blocks": (
        TINY["densenet"], {"target": {"model_args": {"block_config": [3, 2]}}, "depth": ZERO_OUT},
        [r"denseblock1\.denselayer3: has the parameters of .*denselayer1 to .*denselayer2 of the source, but is put"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_done_is_one_message(case, growtool, tmp_path):
    tiny, plan, expected = BAD[case]
    source = write_folder(tiny, tmp_path / "source")
    code, out, err = growtool("grow", source, plan_file(tmp_path, plan), "-o", tmp_path / "out")
    assert (code, out) == (1, "")
    assert err.startswith("error: ") and "Traceback" not in err
    for line in expected:
        assert re.search(line, err), err
    assert {path.name for path in tmp_path.iterdir()} == {"source", "plan.yaml"}


def test_an_existing_output_is_refused_before_anything_grows(growtool, tmp_path, monkeypatch):
    source = write_folder(TINY["vit"], tmp_path / "source")
    plan = plan_file(tmp_path, {"target": {"model_args": dict(WIDER["vit"])}, "width": TILE})
    monkeypatch.setattr("growtool.growing.grow", lambda *_, **__: pytest.fail("grown"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    code, _, err = growtool("grow", source, plan, "-o", tmp_path / "out")
    assert code == 1
    assert err == f"error: {tmp_path / 'out'}: the output exists; choose another name, or replace it with --force\n"
    code, _, err = growtool("grow", source, plan, "-o", tmp_path / "out", "--force")
    assert code == 1 and "found mine.txt, expected nothing but the files of a checkpoint" in err
    assert (tmp_path / "out" / "mine.txt").read_text() == "kept"


def test_an_existing_output_hides_no_other_mistake_of_the_call(growtool, tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    code, _, err = growtool("grow", source, "--width", "1.1", "-o", source)
    assert code == 1
    assert err.splitlines() == [
        f"error: {source}: the output exists; choose another name, or replace it with --force",
        "error: --width 1.1: embed_dim 8 x 1.1 = 8.8, num_heads 2 x 1.1 = 2.2 are not whole numbers; "
        "nearest factors that fit: 1.5",
    ]


def test_a_growth_that_grows_nothing_says_so(growtool, tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    code, out, _ = growtool("grow", source, "--width", "1", "-o", tmp_path / "out")
    assert code == 0 and "nothing grows: the target is as wide and as deep as the source" in out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"model_args": {"layers": [2, 2, 2, 2], "channels": [4, 8, 8, 16], "num_classes": 5}},
         r"source: the weights are not those of resnet18 .*\n- wrong shape \(\d+\): layer4\.0\.conv1\.weight is "
         r"\[12, 8, 3, 3\], expected \[16, 8, 3, 3\]"),
        ({"architecture": "resnet81"}, r"architecture: found 'resnet81', expected a name of timm's registry"),
    ],
    ids=["config", "architecture"],
)  # fmt: skip
def test_a_source_that_is_not_what_its_config_says(damage, message, growtool, tmp_path):
    source = write_folder(RESNET, tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | damage))
    plan = plan_file(tmp_path, {"target": {"model_args": {"channels": [8, 16, 16, 24]}}, "width": TILE})
    code, _, err = growtool("grow", source, plan, "-o", tmp_path / "out")
    assert code == 1
    assert re.search(message, err), err
    assert not (tmp_path / "out").exists()


def test_a_truncated_source(growtool, tmp_path):
    source = write_folder(RESNET, tmp_path / "source")
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    plan = plan_file(tmp_path, {"target": {"model_args": {"channels": [8, 16, 16, 24]}}, "width": TILE})
    code, _, err = growtool("grow", source, plan, "-o", tmp_path / "out")
    assert code == 1 and "truncated" in err
    assert not (tmp_path / "out").exists()


def test_a_missing_tensor_is_named(growtool, tmp_path):
    source = write_folder(RESNET, tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    del weights["layer3.1.bn2.bias"]
    save_file(weights, source / "model.safetensors")
    plan = plan_file(tmp_path, {"target": {"model_args": {"channels": [8, 16, 16, 24]}}, "width": TILE})
    code, _, err = growtool("grow", source, plan, "-o", tmp_path / "out")
    assert code == 1 and re.search(r"missing \(1\): layer3\.1\.bn2\.bias", err)
