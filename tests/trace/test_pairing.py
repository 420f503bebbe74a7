"""Laying a small model beside a large one: which axis grows into which, and what cannot be matched."""

import pytest

from growtool.library.timm import input_size
from growtool.trace import GroupPair, PairedAxis, Trace, Unchanged, pair, torn_groups, trace_model
from tests.support.models import TINY, WIDER, Tiny


def traced(tiny: Tiny) -> Trace:
    model = tiny.create()
    return trace_model(model, input_size(model))


def paired(small: Tiny, large: Tiny) -> tuple[dict[str, tuple[PairedAxis, ...]], list[str]]:
    return pair(traced(small), traced(large), lambda name: name)


def sizes(axis: PairedAxis) -> list[list]:
    """Segments as lists of (before, after), or one number for what stays."""
    shown = {GroupPair: lambda f: f.sizes, Unchanged: lambda f: f.size, PairedAxis: sizes}
    return [[shown[type(factor)](factor) for factor in segment] for segment in axis.segments]


@pytest.mark.parametrize("family", sorted(WIDER))
def test_every_tensor_of_a_wider_model_finds_its_origin(family):
    small, large = TINY[family], TINY[family].with_args(**WIDER[family])
    axes, problems = paired(small, large)
    assert problems == []
    before, after = ({n: tuple(t.shape) for n, t in tiny.create().state_dict().items()} for tiny in (small, large))
    for name, shape in after.items():
        assert tuple(_size(axis, 1) for axis in axes[name]) == shape, name
        assert tuple(_size(axis, 0) for axis in axes[name]) == before[name], name


def _size(axis: PairedAxis, side: int) -> int:
    total = 0
    for segment in axis.segments:
        product = 1
        for factor in segment:
            if isinstance(factor, GroupPair):
                product *= factor.sizes[side]
            else:
                product *= factor.size if isinstance(factor, Unchanged) else _size(factor, side)
        total += product
    return total


def test_packed_rows_grow_by_heads():
    axes, _ = paired(TINY["vit"], TINY["vit"].with_args(embed_dim=16, num_heads=4))
    rows, columns = axes["blocks.0.attn.qkv.weight"]
    assert sizes(rows) == [[(2, 4), (4, 4)]] * 3
    assert sizes(columns) == [[(8, 16)]]
    assert sizes(axes["head.weight"][0]) == [[5]]


def test_one_head_becomes_several():
    """A single head leaves no factor in the small model's layout."""
    small = TINY["vit"].with_args(num_heads=1)
    axes, problems = paired(small, TINY["vit"].with_args(embed_dim=24, num_heads=3))
    assert problems == []
    assert sizes(axes["blocks.0.attn.qkv.weight"][0]) == [[(1, 3), (8, 8)]] * 3


def test_the_same_model_pairs_with_itself():
    axes, problems = paired(TINY["densenet"], TINY["densenet"])
    assert problems == []
    assert all(g.sizes[0] == g.sizes[1] for dims in axes.values() for axis in dims for g in axis.growths())


@pytest.mark.parametrize(
    ("family", "args", "message"),
    [
        ("vit", {"num_classes": 7}, "head.weight: outputs: 5 would become 7; growth keeps them, "),
        ("vit", {"embed_dim": 6}, "blocks.0: residual stream 8 would become 6; growth never shrinks"),
        (
            "vit",
            {"embed_dim": 12, "num_heads": 4},
            "blocks.0: head size 4 would become 3; growth never shrinks",
        ),
        (
            "densenet",
            {"block_config": [3, 2]},
            "features.transition1.conv.weight: made of 3 parts in the source and of 4 in the target",
        ),
        (
            "vit",
            {"img_size": 48},
            "pos_embed: positions: 5 would become 10; growth keeps them, leave the sizes of images",
        ),
    ],
)  # fmt: skip
def test_what_does_not_match_is_named(family, args, message):
    _, problems = paired(TINY[family], TINY[family].with_args(**args))
    assert any(f"{tensor}: {why}".startswith(message) for tensor, why in problems), problems


def test_blocks_pair_by_their_source_name():
    small, large = traced(TINY["vit"]), traced(TINY["vit"].with_args(depth=3))
    axes, problems = pair(small, large, lambda name: name.replace("blocks.2.", "blocks.0."))
    assert problems == []
    assert (
        axes["blocks.2.mlp.fc1.weight"][0].growths()[0].source is axes["blocks.0.mlp.fc1.weight"][0].growths()[0].source
    )


def test_a_group_that_falls_apart_is_found():
    """A MobileNet whose wider form has no skip connection where the small one has: one stream becomes two."""
    small, large = (Tiny(name, {"num_classes": 5}) for name in ("mobilenetv3_small_050", "mobilenetv3_small_100"))
    axes, problems = paired(small, large)
    assert problems == []
    (line,) = torn_groups(axes, list(axes), {})
    assert "blocks.2" in line and "blocks.3" in line
    assert line.endswith("share their channels in the source, not in the target")
    rest = [name for name in axes if not name.startswith(("blocks.3", "blocks.4.0.conv_pw."))]
    assert torn_groups(axes, rest, {}) == []
