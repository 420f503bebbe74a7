"""Norms by a standard deviation with N - 1: their gains make up for copies, exactly once their eps may change."""

import pytest
import torch
from torch import nn

from growtool.checkpoint import ModelSpec
from growtool.plan import Plan
from growtool.recipe import resolve
from growtool.trace import trace_model
from growtool.trace.reading.norms import norm_call
from tests.support.stream_nets import apart, recipe_between
from tests.zoo.proofs import InMemory, source_model

EXACT = 1e-11


class VarianceNorm(nn.Module):
    """What `run`, a function of (self, x, variance), makes of a stream and its variance over the channels."""

    def __init__(self, width: int, run) -> None:
        super().__init__()
        self.weight, self.eps, self.run = nn.Parameter(torch.ones(width)), 1e-2, run

    def forward(self, x):
        return self.run(self, x, x.var(-1, keepdim=True))


class Normed(nn.Module):
    def __init__(self, width: int, run) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, width, 4, 4), VarianceNorm(width, run), nn.Linear(width, 3)
        self.num_classes, self.pretrained_cfg = 3, {"input_size": (3, 8, 8)}

    def forward(self, image):
        return self.head(self.norm(self.stem(image).flatten(2).mT))


def normed(s, x, variance):
    return x * torch.rsqrt(variance + s.eps) * s.weight


def changed_between(s, x, variance):
    scale = torch.rsqrt(variance + s.eps)
    x.mul_(2)
    return x * scale * s.weight


KEPT = {  # where there is no gain, what reads the result makes up for it
    "no gain": lambda s, x, v: x * torch.rsqrt(v + s.eps),
    "the gain beside one": lambda s, x, v: x * torch.rsqrt(v + s.eps) * (s.weight + 1),
    "the normed read elsewhere": lambda s, x, v: (y := x * torch.rsqrt(v + s.eps)) * s.weight + y,
}
LOST = {
    "the gain read elsewhere": lambda s, x, v: normed(s, x, v) + s.weight,
    "the variance read elsewhere": lambda s, x, v: normed(s, x, v) * v,
    "another variance": lambda s, x, v: normed(s, x, v) * x.var(-1, keepdim=True),
    "another stream": lambda s, x, v: x.tanh() * torch.rsqrt(v + s.eps) * s.weight,
    "changed between": changed_between,
    "a square root": lambda s, x, v: x * (v + s.eps).sqrt() * s.weight,
    "half the channels": lambda s, x, v: x * torch.rsqrt(
        x[..., : len(s.weight) // 2].var(-1, keepdim=True) + s.eps) * s.weight + 0 * v,
}  # fmt: skip


@pytest.mark.parametrize("operator", ["tile", "mixture", "net2net"])
@pytest.mark.parametrize("after", [8, 12])
def test_exact_up_to_eps(operator, after):
    small, large, recipe = recipe_between(normed, operator, 4, after, net=Normed)
    if operator == "net2net":  # some channels are copied more often than others
        assert recipe.promise.kind == "lossy"
        return
    assert recipe.promise.kind == "exact up to eps"
    copies = after // 4
    assert recipe.eps == {"norm": pytest.approx(1e-2 * copies * 3 / (copies * 4 - 1))}
    assert apart(small, large, recipe) < EXACT  # with that eps


@pytest.mark.parametrize("name", KEPT)
def test_another_weight_makes_up_for_it(name):
    small, large, recipe = recipe_between(KEPT[name], "tile", 4, 8, net=Normed)
    assert recipe.promise.kind == "exact up to eps"
    assert apart(small, large, recipe) < EXACT


def test_what_is_off_is_told():
    """At eps 0.01 and variance 1 the norm is off by 0.01 (7 / 6 - 1) / 2 from 4 to 8 channels."""
    *_, recipe = recipe_between(normed, "tile", 4, 8, net=Normed)
    assert "too small by 8.3e-04 (relative)" in str(recipe.promise)


@pytest.mark.parametrize("name", LOST)
def test_anything_else_is_lossy(name):
    *_, recipe = recipe_between(LOST[name], "tile", 4, 8, net=Normed)
    assert recipe.promise.kind == "lossy" and "variance by N - 1" in str(recipe.promise)


def test_the_norm_is_found():
    model = Normed(6, normed).eval()
    forward = trace_model(model, (3, 8, 8)).forward
    [norm] = filter(None, (norm_call(step, forward) for step in forward.steps))
    assert (norm.kind, forward.stored[norm.gain], norm.eps) == ("SimpleNorm", ("norm.weight",), pytest.approx(1e-2))


def test_convnext():
    spec = ModelSpec("convnext_zepto_rms", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16], "num_classes": 5})
    plan = {"target": {"scale": {"width": 2}}, "width": {"operator": "tile"}}
    recipe = resolve(Plan.model_validate(plan), InMemory.of(spec, source_model(spec)))
    assert recipe.promise.kind == "exact up to eps"
