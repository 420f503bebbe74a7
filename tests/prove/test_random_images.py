"""Small convolutional programs drawn at random: whatever is promised to be exact is, every number random."""

import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support.random_steps import Rule, RuleOfTwo, drawn_step
from tests.support.stream_nets import wrong

# Kinds of values: maps [N, w, 4, 4], wide [N, 2w, 4, 4], one [N, 1, 4, 4], pooled [N, w, 1, 1].

OF_MAPS: list[tuple[str, Rule]] = [
    ("maps", lambda s, x: x.relu()),
    ("maps", lambda s, x: functional.gelu(x)),
    ("maps", lambda s, x: x * s.gain),
    ("maps", lambda s, x: s.batch(x)),
    ("maps", lambda s, x: s.group(x)),
    ("maps", lambda s, x: s.groups(x)),
    ("maps", lambda s, x: s.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
    ("maps", lambda s, x: s.each(x)),
    ("maps", lambda s, x: s.conv(x)),
    ("maps", lambda s, x: s.grouped(x)),
    ("maps", lambda s, x: s.prelu(x)),
    ("maps", lambda s, x: functional.max_pool2d(x, 3, 1, 1)),
    ("maps", lambda s, x: functional.avg_pool2d(x, 3, 1, 1)),
    ("maps", lambda s, x: functional.pad(x, (1, 0, 1, 0))[..., :4, :4]),
    ("maps", lambda s, x: functional.interpolate(x, scale_factor=2.0, mode="bilinear")[..., ::2, ::2]),
    ("maps", lambda s, x: functional.normalize(x, dim=1)),
    ("maps", lambda s, x: x.softmax(1)),
    ("maps", lambda s, x: x.flatten(2).softmax(-1).unflatten(-1, (4, 4))),
    ("wide", lambda s, x: s.widen(x)),
    ("wide", lambda s, x: s.double(x)),
    ("wide", lambda s, x: torch.cat([x, x.relu()], 1)),
    ("wide", lambda s, x: torch.cat([x * 0.5, s.each(x)], 1)),
    ("one", lambda s, x: x.mean(1, keepdim=True)),
    ("one", lambda s, x: x.sum(1, keepdim=True)),
    ("one", lambda s, x: x.sum(1, keepdim=True) / s.d),
    ("one", lambda s, x: x.amax(1, keepdim=True)),
    ("one", lambda s, x: s.single(x)),
    ("pooled", lambda s, x: x.mean((2, 3), keepdim=True)),
    ("pooled", lambda s, x: x.amax((2, 3), keepdim=True)),
]
OF_WIDE: list[tuple[str, Rule]] = [
    ("wide", lambda s, x: x.sigmoid()),
    ("wide", lambda s, x: s.wide_batch(x)),
    ("wide", lambda s, x: s.wide_each(x)),
    ("maps", lambda s, x: s.narrow(x)),
    ("maps", lambda s, x: s.pairs(x)),
    ("maps", lambda s, x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1].sigmoid()),
    ("maps", lambda s, x: x.unflatten(1, (2, -1)).sum(1)),
    ("maps", lambda s, x: x.unflatten(1, (-1, 2)).mean(2)),
    ("wide", lambda s, x: x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)),
]
OF_ONE: list[tuple[str, Rule]] = [
    ("one", lambda s, x: x.tanh()),
    ("one", lambda s, x: functional.avg_pool2d(x, 3, 1, 1)),
    ("maps", lambda s, x: s.spread(x)),
]
OF_POOLED: list[tuple[str, Rule]] = [
    ("pooled", lambda s, x: s.second(s.first(x).relu()).sigmoid()),
    ("pooled", lambda s, x: x.softmax(1)),
    ("pooled", lambda s, x: s.along(x.squeeze(-1).transpose(1, 2)).transpose(1, 2).unsqueeze(-1)),
]
RULES = {"maps": OF_MAPS, "wide": OF_WIDE, "one": OF_ONE, "pooled": OF_POOLED}
OF_TWO: dict[tuple[str, str], list[tuple[str, RuleOfTwo]]] = {
    ("maps", "maps"): [
        ("maps", lambda s, x, y: x + y),
        ("maps", lambda s, x, y: x * y),
        ("wide", lambda s, x, y: torch.cat([x, y], 1)),
        ("wide", lambda s, x, y: torch.stack([x, y], 2).flatten(1, 2)),
        ("one", lambda s, x, y: (x * y).sum(1, keepdim=True)),
    ],
    ("maps", "one"): [
        ("maps", lambda s, x, y: x * y),
        ("maps", lambda s, x, y: x + y),
        ("wide", lambda s, x, y: torch.cat([x, y.expand_as(x)], 1)),
    ],
    ("maps", "pooled"): [("maps", lambda s, x, y: x * y), ("maps", lambda s, x, y: x - y)],
    ("wide", "wide"): [("wide", lambda s, x, y: x + y)],
}


class ImageProgram(nn.Module):
    """A stem and a head of fixed widths, and between them a random program whose maps have `width` channels."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        self.d, self.seed, self.num_classes, self.pretrained_cfg = width, seed, 3, {"input_size": (3, 8, 8)}
        self.stem, self.out, self.head = nn.Conv2d(3, 6, 2, 2), nn.Conv2d(width, 6, 1), nn.Linear(6, 3)
        self.into = nn.ModuleList(nn.Conv2d(6, width, 1) for _ in range(3))
        self.gain, self.prelu = nn.Parameter(torch.ones(width, 1, 1)), nn.PReLU(width)
        self.batch, self.wide_batch = nn.BatchNorm2d(width), nn.BatchNorm2d(2 * width)
        self.group, self.groups, self.layer = nn.GroupNorm(1, width), nn.GroupNorm(2, width), nn.LayerNorm(width)
        self.each = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.double = nn.Conv2d(width, 2 * width, 3, padding=1, groups=width)
        self.pairs = nn.Conv2d(2 * width, width, 1, groups=width)
        self.wide_each = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width, bias=False)
        self.conv, self.grouped = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1, groups=2)
        self.widen, self.narrow = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1, bias=False)
        self.single, self.spread = nn.Conv2d(width, 1, 1), nn.Conv2d(1, width, 3, padding=1)
        self.first, self.second, self.along = (
            nn.Conv2d(width, 5, 1),
            nn.Conv2d(5, width, 1),
            nn.Conv1d(1, 1, 3, padding=1),
        )

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        values = [("maps", layer(x)) for layer in self.into]
        draw = random.Random(self.seed)
        for _ in range(draw.randint(3, 9)):
            values.append(drawn_step(self, values, draw, RULES, OF_TWO, 0.4))
        total = sum(y for kind, y in values[3:] if kind != "wide") + values[2][1]
        if draw.random() < 0.7:
            total = total.relu()
        return self.head((x + self.out(total)).mean((2, 3)))


@pytest.mark.parametrize("operator", ["tile", "mixture", "net2net", "centre_zero"])
@pytest.mark.parametrize("seed", range(15))
def test_no_program_is_promised_too_much(seed, operator):
    found = wrong(seed, operator, 4, 6 if operator in ("net2net", "centre_zero") else 8, ImageProgram)
    assert found is None or found < 1e-9


def test_many_programs_are_exact():
    assert sum(wrong(seed, "tile", 4, 8, ImageProgram) is not None for seed in range(15)) >= 3


class Scaled(ImageProgram):
    """Half of the channels that a depthwise convolution reads are sums over copies, which grow with their number."""

    def forward(self, image: Tensor) -> Tensor:
        x = self.into[0](self.stem(image))
        read = self.wide_each(torch.cat([x, x.sum(1, keepdim=True).expand_as(x)], 1))
        channels, sums = read.chunk(2, 1)
        return self.head(self.out(channels + sums / (self.d if self.seed else 4)).mean((2, 3)))


@pytest.mark.parametrize("operator", ["tile", "mixture"])
@pytest.mark.parametrize("by_width", [True, False])
def test_each_channel_has_its_own_factor_behind_a_depthwise_convolution(by_width, operator):
    """Divided by the width, sums are what they were; else the convolution makes up for the copies in each."""
    found = wrong(by_width, operator, 4, 8, Scaled)
    assert found is not None and found < 1e-9
