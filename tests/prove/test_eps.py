"""A module has one eps: where its norms would need several, nothing is promised up to eps."""

import pytest
import torch
from torch import nn

from tests.support.stream_nets import apart, recipe_between

HIDDEN, EXACT = 6, 1e-11


class Module(nn.Module):
    """Two layers, each behind an RMSNorm with the module's eps; the second over `channels` hidden units."""

    def __init__(self, width: int, hidden: int, second: bool) -> None:
        super().__init__()
        self.eps, self.second = 1e-2, second
        self.g, self.h = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(hidden))
        self.fc, self.out = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        hidden = self.fc(self.norm(x) * self.g)
        return self.out(self.norm(hidden) * self.h if self.second else hidden * self.h)

    def norm(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


class Network(nn.Module):
    def __init__(self, width: int, second: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, width, 4, 4), nn.Linear(width, 3)
        self.module, self.num_classes = Module(width, HIDDEN, second), 3
        self.pretrained_cfg = {"input_size": (3, 8, 8)}

    def forward(self, image):
        return self.head(self.module(self.stem(image).flatten(2).mT)).mean(1)


@pytest.mark.parametrize("second", [False, True])
def test_one_eps_serves_one_norm(second):
    small, large, recipe = recipe_between(second, "zero", 4, 6, net=Network)
    if second:
        assert "norms over several sets of channels have one eps" in str(recipe.promise)
    else:
        assert recipe.promise.kind == "exact up to eps"
        assert apart(small, large, recipe) < EXACT
