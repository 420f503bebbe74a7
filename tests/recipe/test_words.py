"""Channels and places in a user's words, and what messages propose in them."""

import re

import pytest

from growtool.checkpoint import open_checkpoint
from growtool.errors import PlanError
from growtool.plan import Plan
from growtool.recipe import resolve
from growtool.trace import channels_of, places, trace_model
from tests.support.models import TINY, Tiny, write_folder

VIT = Tiny("test_vit", {"img_size": 32, "embed_dim": 64, "num_heads": 2, "depth": 3, "num_classes": 5})


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        (["blocks.0", "blocks.1", "blocks.2", "blocks.4"], "blocks 0-2, 4"),
        (["stages.1.blocks.0", "stages.1.blocks.1"], "stage 1, blocks 0-1"),
        (["stages.0.blocks.0", "stages.1.blocks.0"], "stage 0, block 0; stage 1, block 0"),
        (["layer1.0", "layer1.1"], "layer1.0-1"),
        (["s3.b1", "s3.b2", "s3.b4"], "s3.b1-2, 4"),
        (["blocks.0.attn", "blocks.1.attn"], "attn of blocks 0-1"),
        (["blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2"], "norm1 and norm2 of blocks 0-1"),
        (["blocks.3.attn", "norm", ""], "blocks.3.attn, norm, the model itself"),
        (["a", "b", "c", "blocks.0", "blocks.1"], "a, b, c and 2 more"),
    ],
)
def test_places_are_told_as_ranges(paths, text):
    assert places(paths) == text


def words(tiny):
    model = tiny.create().eval()
    trace = trace_model(model, (3, tiny.size, tiny.size))
    found = {}
    for group, channels in channels_of(trace).items():
        if group.fixed is None:
            found.setdefault(f"{channels.what} {group.size}", []).extend(channels.where)
    return {what: places(where, None) for what, where in found.items()}


def test_the_channels_of_a_transformer():
    assert words(VIT) == dict.fromkeys(
        ["residual stream 64", "heads 2", "head size 32", "hidden units of mlp 192"], "blocks 0-2"
    )


def test_the_channels_of_a_residual_network():
    found = words(Tiny("resnet18", {"num_classes": 5}))
    assert found["residual stream 128"] == found["hidden channels 128"] == "layer2.0-1"
    assert len(found) == 8


def test_groups_and_squeeze_layers_are_no_heads():
    found = words(Tiny("regnety_002", {"num_classes": 5}))
    assert found["groups 19"] == "s3.b1-4" and found["residual stream 152"] == "s3.b1-4"
    assert found["hidden units of se 14"] == "s3.b1" and not any("head" in what for what in found)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return open_checkpoint(write_folder(VIT, tmp_path_factory.mktemp("words") / "vit"))


def plan(args, operator):
    width = {"width": {"operator": operator}} if operator else {}
    return Plan.model_validate({"target": {"model_args": args}, **width})


@pytest.mark.parametrize(
    ("args", "operator", "advice"),
    [
        ({"embed_dim": 100}, "tile", "head size 32 would become 50; take embed_dim 128 with num_heads 4"),
        ({"embed_dim": 101}, None, "head size 32 does not divide this width; take embed_dim 96 with num_heads "
         "3, or embed_dim 128 with num_heads 4"),
        ({"embed_dim": 128, "num_heads": 8}, "tile", "head size 32 would become 16; take embed_dim 128 with num_heads "
         "4, or embed_dim 256 with num_heads 8"),
    ],
)  # fmt: skip
def test_whole_heads_are_proposed_and_accepted(source, args, operator, advice):
    with pytest.raises(PlanError) as raised:
        resolve(plan(args, operator), source)
    assert raised.value.problems[-1] == f"target.model_args: {advice}"
    for width, heads in re.findall(r"embed_dim (\d+) with num_heads (\d+)", advice):
        recipe = resolve(plan({"embed_dim": int(width), "num_heads": int(heads)}, operator), source)
        assert recipe.widths and not any(change.channels.what == "head size" for change in recipe.widths)


def test_a_lossy_plan_that_cuts_heads_is_told_what_keeps_them(source):
    recipe = resolve(plan({"embed_dim": 100}, None), source)
    assert recipe.promise.reasons[-1] == (
        "head size 32 would become 50; take embed_dim 96 with num_heads 3, or embed_dim 128 with num_heads 4"
    )


def test_other_classes_are_left_to_finetune(source):
    with pytest.raises(PlanError) as raised:
        resolve(plan({"num_classes": 7}, "tile"), source)
    assert raised.value.problems == (
        "target.model_args.num_classes: the source has 5 classes, the target 7; growth keeps the classifier, leave "
        "num_classes out; train other classes with `growtool finetune CKPT --num-classes 7`",
    )


def test_no_message_names_a_group(source):
    with pytest.raises(PlanError) as raised:
        resolve(Plan.model_validate({"target": {"scale": {"width": 1.5}}, "width": {"operator": "tile"}}), source)
    assert raised.value.problems[0].startswith(
        "residual stream 64 -> 96 (blocks 0-2), heads 2 -> 3 (blocks 0-2), hidden units of mlp 192 -> 288 (blocks "
        "0-2): tile takes whole multiples"
    )
    assert "[0]" not in str(raised.value)


def test_every_tiny_family_has_words():
    for name in ("swin", "convnext", "xcit", "nfnet"):
        assert all(what and where for what, where in words(TINY[name]).items()), name
