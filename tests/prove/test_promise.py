"""What a growth promises, decided before any weight is read: the reasons, and that no reason is found where none is."""

import re

import pytest
import torch

from growtool.algebra.expansion import Expansion, tiled
from growtool.prove.obstacle import Why, obstacles
from growtool.prove.promise import Promise, copies_per_position
from growtool.trace import ChannelGroup
from tests.support.models import TINY, WIDER, Tiny, resolved, write_folder

NET2NET, TILE = {"operator": "net2net"}, {"operator": "tile"}
RESNET = Tiny("resnet18", {"layers": [2, 2, 2, 2], "channels": [4, 8, 8, 12], "num_classes": 5})


def promise(tiny: Tiny, folder, plan: dict) -> Promise:
    return resolved(write_folder(tiny, folder / "source"), plan).promise


def test_a_promise_is_told_with_its_reasons():
    assert str(Promise("exact")) == "exact"
    assert str(Promise("lossy", tuple(obstacles(Why.VALUES, ("a: b", "c: d"))))) == "lossy: a: b; c: d"


@pytest.mark.parametrize(
    ("layout", "copies"),
    [
        ("a", 2),  # each channel twice
        ("b", None),  # one channel once, the other twice
        ("a*a", 4),
        ("a|a", 2),
        ("a|c", None),  # a part twice, another once
        ("c|c", 1),
        ("a*c", 2),
        ("a*b", None),
    ],
)
def test_copies_per_position(layout, copies):
    a, b, c = ChannelGroup(4), ChannelGroup(3), ChannelGroup(5)
    expansions = {a: tiled(2, 4), b: Expansion(2, torch.tensor([0, 1, 1]))}
    names = {"a": a, "b": b, "c": c}
    axis = tuple(tuple(names[factor] for factor in segment.split("*")) for segment in layout.split("|"))
    assert copies_per_position(axis, expansions) == copies
    assert copies_per_position(((axis,),), expansions) == copies


@pytest.mark.parametrize(
    ("tiny", "args", "width", "reasons"),
    [
        (TINY["vit"], {"embed_dim": 24, "num_heads": 6}, TILE, []),
        (
            TINY["vit"], {"embed_dim": 12, "num_heads": 3}, NET2NET,
            [r"^norm1 and norm2 of blocks 0-1, norm: LayerNorm over channels that are not all copied equally often "
             r"\(residual stream 8 -> 12\)$"],
        ),
        (
            TINY["vit"], {"embed_dim": 12}, NET2NET,
            [r"^attn of blocks 0-1: two activations are multiplied and summed over the copied channels "
             r"\(head size 4 -> 6\)$"],
        ),
        (TINY["convnext"], {"dims": [4, 6, 8, 11]}, NET2NET, [r"^stages\.3.*LayerNorm .*residual stream 8 -> 11\)$"]),
        (TINY["vit"], {"mlp_ratio": 4.5}, NET2NET, []),  # the hidden units of a ViT pass no norm: any number
        (TINY["swin"], {"mlp_ratio": 4.5}, NET2NET, []),
        (RESNET, {"channels": [5, 9, 9, 13]}, NET2NET, []),
        (TINY["xcit"], {"embed_dim": 16}, NET2NET, [r"LayerNorm over", r"the copied channels \(head size 4 -> 8\)$"]),
        (TINY["nfnet"], WIDER["nfnet"], NET2NET, [r"the weights are transformed \(standardised, say\) before use"]),
        (RESNET, {"global_pool": "max"}, TILE, [r"^global_pool.*the source computes mean"]),
        (RESNET, {"act_layer": "gelu"}, TILE, [r"the source computes relu, the target gelu"]),
        (RESNET, {"output_stride": 16}, TILE, [r"^layer4.*: the source computes convolution\(\(2, 2\), "]),
    ],
    ids=["heads", "uneven norm", "head size", "last stage", "hidden units", "hidden units swin", "any channels",
         "channels attend", "standardised", "pooling", "activation", "stride"],
)  # fmt: skip
def test_reasons(tiny, args, width, reasons, tmp_path):
    found = promise(tiny, tmp_path, {"target": {"model_args": dict(args)}, "width": width})
    assert found.kind == ("lossy" if reasons else "exact"), found
    for reason in reasons:
        assert any(re.search(reason, line) for line in found.reasons), found.reasons


def test_a_skip_connection_that_is_gone_is_the_one_reason(tmp_path):
    """Wider stages of equal width in the source, unequal in the target: MobileNetV3 at half and at full width."""
    found = promise(
        TINY["mobilenetv3"], tmp_path, {"target": {"model": "mobilenetv3_small_100"}, "width": NET2NET, "verify": False}
    )
    assert found.reasons == ("blocks.3.0: the source has a skip connection here, the target has none",)


def test_closed_blocks_give_no_reasons(tmp_path):
    """What runs inside a block that starts as the identity does not matter, whatever it does to copied channels."""
    plan = {
        "target": {"model_args": {"embed_dim": 16, "num_heads": 4, "depth": 4}},
        "width": TILE,
        "depth": {"operator": "zero_out"},
    }
    assert promise(TINY["vit"], tmp_path, plan) == Promise("exact")


def test_an_operator_that_is_not_used_gives_no_reason(tmp_path):
    plan = {
        "target": {"model_args": {"depth": 3}},
        "width": {"operator": "mixture", "compensate": False},
        "depth": {"operator": "zero_out"},
    }
    assert promise(TINY["vit"], tmp_path, plan) == Promise("exact")
