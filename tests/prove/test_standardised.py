"""Standardised weights grow by copies, and their gains make up for it; or the plan says that the function changes."""

from functools import partial

import pytest
import torch
from timm.layers import ScaledStdConv2d, StdConv2d
from torch import nn
from torch.nn.functional import conv_transpose2d

from tests.support.models import TINY, WIDER, difference, grown, load, resolved, write_folder
from tests.support.stream_nets import apart, recipe_between

EXACT = 1e-10


@pytest.mark.parametrize(
    "width",
    [
        {"operator": "tile", "split": "equal"},
        {"operator": "tile", "split": "random_projection"},
        {"operator": "centre_zero"},
        {"operator": "mixture"},
    ],
    ids=lambda width: " ".join(width.values()),
)
def test_a_network_without_norms_keeps_its_function(width, tmp_path):
    source = write_folder(TINY["nfnet"], tmp_path / "source")
    target = {"model_args": dict(WIDER["nfnet"])}
    made = grown(source, {"target": target, "width": width}, tmp_path / "out")
    assert made.summary.promise == "exact"
    assert difference(load(source), load(made.out), TINY["nfnet"].inputs()) < EXACT


def test_new_blocks_compute_what_their_origin_does(tmp_path):
    """Where they divide by a larger deviation than their origin, their gain is larger by as much."""
    source = write_folder(TINY["nfnet"], tmp_path / "source")
    target = {"model_args": {**WIDER["nfnet"], "depths": [3, 1, 1, 1]}}
    recipe = resolved(source, {"target": target, "width": {"operator": "tile"}, "depth": {"operator": "stack"}})
    old, new = (recipe.tensors[f"stages.0.{block}.conv1.gain"].rewrite for block in (1, 2))
    assert old.factor == pytest.approx(2**-0.5) and new.factor == pytest.approx((1.08 / 1.04 / 2) ** 0.5)


class Net(nn.Module):
    """A stem, a convolution with standardised weights between channels that grow, a head."""

    def __init__(self, width: int, run, layer: type[nn.Module] = ScaledStdConv2d) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, width, 1), layer(width, width, 3, padding=1), nn.Linear(width, 3)
        self.run, self.num_classes, self.pretrained_cfg = run, 3, {"input_size": (3, 8, 8)}

    def forward(self, image):
        return self.head(torch.tanh(self.run(self, torch.tanh(self.stem(image)))).mean((2, 3)))


def _standardised(conv: nn.Module) -> torch.Tensor:
    W, gain = conv.weight.reshape(1, conv.out_channels, -1), (conv.gain * conv.scale).view(-1)
    return nn.functional.batch_norm(W, None, None, gain, training=True, momentum=0.0, eps=conv.eps).view_as(conv.weight)


RUNS = {
    "once": lambda s, x: s.conv(x),
    "twice": lambda s, x: s.conv(torch.relu(s.conv(x))),
    "its weight read elsewhere": lambda s, x: s.conv(x) + s.conv.weight.square().sum(),
    "its gain read elsewhere": lambda s, x: s.conv(x) * s.conv.gain.view(1, -1, 1, 1),
    "its standardised weight read elsewhere": lambda s, x: (
        nn.functional.conv2d(x, W := _standardised(s.conv), padding=1) + W.abs().sum((1, 2, 3))[None, :, None, None]
    ),
    "transposed": lambda s, x: conv_transpose2d(x, _standardised(s.conv), padding=1),
}


@pytest.mark.parametrize("run", RUNS)
def test_only_a_weight_that_convolves_is_promised(run):
    small, large, recipe = recipe_between(RUNS[run], "tile", 4, 12, net=Net)
    if run == "its weight read elsewhere":
        assert recipe.promise.kind == "lossy"
    else:
        assert recipe.promise.kind == "exact", recipe.promise
        assert apart(small, large, recipe) < EXACT


@pytest.mark.parametrize(("layer", "after"), [(ScaledStdConv2d, 6), (StdConv2d, 8)], ids=["uneven copies", "no gain"])
def test_what_no_gain_makes_up_for_is_lossy(layer, after):
    operator = "tile" if after % 4 == 0 else "net2net"
    small, large, recipe = recipe_between(RUNS["once"], operator, 4, after, net=partial(Net, layer=layer))
    assert recipe.promise.kind == "lossy"
    assert "the weights are transformed (standardised, say) before use" in str(recipe.promise)
    assert apart(small, large, recipe) > 1e-3


class Normed(nn.Module):
    """A stem, norms and convolutions with standardised weights that have no gain, a head."""

    def __init__(self, width: int, run) -> None:
        super().__init__()
        self.stem, self.head, self.run = nn.Conv2d(3, width, 1), nn.Linear(width, 3), run
        self.conv, self.conv2 = (StdConv2d(width, width, 3, padding=1, bias=True) for _ in "ab")
        self.plain, self.gained = nn.Conv2d(width, width, 1), ScaledStdConv2d(width, width, 1)
        self.norm, self.batch, self.layer = nn.GroupNorm(2, width), nn.BatchNorm2d(width), nn.LayerNorm(width)
        self.bare = nn.GroupNorm(2, width, affine=False)
        self.num_classes, self.pretrained_cfg = 3, {"input_size": (3, 8, 8)}

    def forward(self, image):
        return self.head(torch.tanh(self.run(self, torch.tanh(self.stem(image)))).mean((2, 3)))


def after(norm, between, *layers):
    """The sum of what layers make of a norm's result."""

    def run(s, x):
        y = between(getattr(s, norm)(x))
        return sum(getattr(s, layer)(y) for layer in layers)

    return run


def added_in_place(s, x):
    y = s.norm(x)
    y.add_(x)
    return s.conv(y.relu())


def written_through_a_view(s, x):
    y = s.norm(x)
    y.flatten(2).add_(1)
    return s.conv(y)


def by_channels_last(s, x):
    return s.conv(s.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).relu_())


pooled = nn.MaxPool2d(3, 2, 1)
IN_FRONT = {
    "at once": after("norm", lambda y: y, "conv"),
    "ReLU": after("norm", torch.relu, "conv"),
    "ReLU in place": after("batch", torch.relu_, "conv"),
    "leaky, pooled and padded": after(
        "norm", lambda y: nn.functional.pad(pooled(nn.functional.leaky_relu(y)), (1,) * 4), "conv"),
    "two readers": after("norm", torch.relu, "conv", "conv2"),
    "one after the other": lambda s, x: s.conv2(s.batch(s.conv(s.norm(x).relu())).relu()),
    "channels last": by_channels_last,
    "read by a plain layer too": after("norm", torch.relu, "conv", "plain"),
    "read by a layer with a gain too": after("norm", torch.relu, "conv", "gained"),
    "multiplied by itself": lambda s, x: s.conv((y := s.norm(x)) * y),
    "its gain read elsewhere": lambda s, x: s.conv(s.norm(x)) * s.norm.weight[None, :, None, None],
    "a layer used twice": lambda s, x: s.conv(s.norm(s.conv(s.batch(x)))),
}  # fmt: skip
NOT_IN_FRONT = {
    "no norm": lambda s, x: s.conv(x.relu()),
    "a norm without gain": after("bare", torch.relu, "conv"),
    "GELU": after("norm", nn.functional.gelu, "conv"),
    "SiLU": after("norm", nn.functional.silu, "conv"),
    "ReLU6": after("norm", nn.functional.relu6, "conv"),
    "clamped above zero": after("norm", lambda y: y.clamp_min(0.5), "conv"),
    "padded by ones": after("norm", lambda y: nn.functional.pad(y, (1,) * 4, value=1.0), "conv"),
    "read by the stream too": lambda s, x: s.conv((y := s.norm(x)).relu()) + y,
    "another stream beside it": lambda s, x: s.conv(s.norm(x) + x),
    "stacked with another stream": lambda s, x: s.conv(torch.stack([s.norm(x), x]).sum(0)),
    "added in place": added_in_place,
    "written through a view": written_through_a_view,
    "a norm used twice": lambda s, x: s.conv(s.norm(x)) + s.norm(s.plain(x)),
}


@pytest.mark.parametrize("operator", ["tile", "mixture"])
@pytest.mark.parametrize("name", IN_FRONT)
def test_the_norm_in_front_makes_up_for_copies(name, operator):
    small, large, recipe = recipe_between(IN_FRONT[name], operator, 4, 8, net=Normed)
    assert recipe.promise.kind == "exact", recipe.promise
    assert apart(small, large, recipe) < EXACT


@pytest.mark.parametrize("name", NOT_IN_FRONT)
def test_a_norm_that_cannot_is_not_promised_to(name):
    small, large, recipe = recipe_between(NOT_IN_FRONT[name], "tile", 4, 8, net=Normed)
    assert recipe.promise.kind == "lossy"
    assert apart(small, large, recipe) > 1e-8
