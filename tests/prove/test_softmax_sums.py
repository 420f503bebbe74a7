"""Softmax over copied channels: exact where a sum over the same channels is all it is used for."""

import pytest
import torch
from torch import nn

from tests.support.stream_nets import apart, recipe_between


class Channels(nn.Module):
    """Two heads of `width` channels that attend to each other: a function of (self, q, k, v), [N, 2, width, tokens]."""

    def __init__(self, width: int, forward) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 4, 4), nn.Linear(2 * width, 3)
        self.q, self.k, self.v = (nn.Linear(6, 2 * width) for _ in "qkv")
        self.few, self.run = nn.Parameter(nn.init.normal_(nn.Linear(width, 4).weight.detach().clone())), forward
        self.num_classes, self.pretrained_cfg = 3, {"input_size": (3, 8, 8)}

    def forward(self, image):
        x = self.stem(image).flatten(2).mT
        q, k, v = (layer(x).mT.unflatten(1, (2, -1)) for layer in (self.q, self.k, self.v))
        return self.head(torch.tanh(self.run(self, *map(torch.tanh, (q, k, v)))).flatten(1, 2).mean(2))


KEPT = {
    "channels to channels": lambda s, q, k, v: (q @ k.mT).softmax(-1) @ v,
    "transposed twice": lambda s, q, k, v: (v.mT @ (q @ k.mT).softmax(-1).mT).mT,
    "summed over rows": lambda s, q, k, v: (k @ q.mT).softmax(-2).mT @ v,
    "two sums": lambda s, q, k, v: (a := (q @ k.mT).softmax(-1)) @ v + a @ k,
    "normalised by its length": lambda s, q, k, v: (
        nn.functional.normalize(q, dim=-1) @ nn.functional.normalize(k, dim=-1).mT).softmax(-1) @ v,
    "over the other channels": lambda s, q, k, v: (q @ k.mT).softmax(-1).mT @ v,
    "over the other ones of the same": lambda s, q, k, v: (q @ q.mT).softmax(-1).mT @ q,
    "weighted by weights": lambda s, q, k, v: ((q @ k.mT).softmax(-1) @ s.few.mT).mean(-1, keepdim=True) * v,
    "both weighted": lambda s, q, k, v: (q @ k.mT).softmax(-1) @ (k @ q.mT).softmax(-2) @ v,
}  # fmt: skip
LOST = {
    "read as well": lambda s, q, k, v: (a := (q @ k.mT).softmax(-1)) @ v + a.amax(-1, keepdim=True),
    "rectified": lambda s, q, k, v: ((q @ k.mT).softmax(-1) - 0.1).relu() @ v,
    "alone": lambda s, q, k, v: v.softmax(-2),
    "a sum without softmax beside it": lambda s, q, k, v: (q @ k.mT).softmax(-1) @ v + (q @ k.mT) @ v,
}


@pytest.mark.parametrize("operator", ["tile", "mixture"])
@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept(name, operator):
    small, large, recipe = recipe_between(KEPT[name], operator, 4, 8, net=Channels)
    assert recipe.promise.kind == "exact", recipe.promise
    assert apart(small, large, recipe) < 1e-11


@pytest.mark.parametrize("name", LOST)
def test_what_is_not_is_not_promised(name):
    *_, recipe = recipe_between(LOST[name], "tile", 4, 8, net=Channels)
    assert recipe.promise.kind == "lossy" and "copied channels" in str(recipe.promise)
