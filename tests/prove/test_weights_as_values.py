"""Weights that are values themselves: put through functions, summed, divided by, read by each other."""

import pytest
import torch
from torch.nn.functional import linear

from growtool.errors import PlanError
from tests.support.stream_nets import Net, apart, recipe_between


def hidden(function):
    """A branch whose first weight is a function of the parameters."""
    return lambda s, x: x + s.out(torch.relu(x @ function(s, s.fc.weight).t()))


CASES = {
    "relu": hidden(lambda s, w: w.relu()),
    "abs": hidden(lambda s, w: w.abs()),
    "relu of what is read": lambda s, x: x + linear(s.fc(x).relu(), s.out.weight.relu()),
    "largest over columns": hidden(lambda s, w: w - w.amax(1, keepdim=True)),
    "largest over rows": hidden(lambda s, w: w - w.amax(0)),
    "sum over columns": hidden(lambda s, w: w + w.sum(1, keepdim=True)),
    "a vector added to rows": hidden(lambda s, w: w + s.fc.bias[:, None]),
    "read by itself": hidden(lambda s, w: w @ w.t() @ w),
    "divided by a vector": lambda s, x: x / s.g,
    "logarithm of a vector": lambda s, x: x + x * s.g.abs().log(),
    "norm over half of a layer": lambda s, x: x + s.norm(s.fc(x)[..., : x.shape[-1]]),
    "norm over half of a weight": lambda s, x: x + s.norm(linear(x, s.fc.weight)[..., : x.shape[-1]]),
}


@pytest.mark.parametrize("sizes", [(4, 8), (4, 6)])
@pytest.mark.parametrize("case", CASES)
def test_never_exact_and_wrong(case, sizes):
    for operator in ("tile", "mixture", "net2net", "zero", "centre_zero", "lemon"):
        try:
            small, large, recipe = recipe_between(lambda s, x: CASES[case](s, x).mean(1), operator, *sizes)
        except PlanError:
            continue
        if recipe.promise.kind != "lossy":
            assert apart(small, large, recipe) < 1e-9, (operator, recipe.promise)


@pytest.mark.parametrize("case", ["relu", "abs", "sum over columns"])
def test_rows_make_up_for_columns_that_are_copied(case):
    *_, recipe = recipe_between(lambda s, x: CASES[case](s, x).mean(1), "tile", 4, 8)
    assert recipe.promise.kind == ("lossy" if case.startswith("sum") else "exact"), recipe.promise


class Constant(Net):
    """A network with numbers of its constructor that no checkpoint holds, one for each channel."""

    def __init__(self, width, forward):
        super().__init__(width, forward)
        self.register_buffer("ones", torch.ones(width), persistent=False)


@pytest.mark.parametrize(
    "forward",
    [
        lambda s, x: x * (x @ (s.ones / x.shape[-1]))[..., None].tanh(),
        lambda s, x: x * (x @ s.ones)[..., None].tanh(),
        lambda s, x: x + s.out(torch.relu(s.fc(s.norm(x + s.ones)))),
    ],
    ids=["mean", "sum", "added"],
)
def test_constants_of_the_constructor_are_not_split(forward):
    for operator in ("tile", "zero", "centre_zero", "lemon"):
        small, large, recipe = recipe_between(lambda s, x: forward(s, x).mean(1), operator, 4, 8, net=Constant)
        if recipe.promise.kind != "lossy":
            assert apart(small, large, recipe) < 1e-9, (operator, recipe.promise)
