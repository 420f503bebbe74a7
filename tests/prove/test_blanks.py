"""New channels that copy none: what passes through which operation, and what a norm makes of zeros and means.

The hand cases are LayerNorm on two or three numbers. The small networks hold one operation each between a stem and a
head: whatever is promised there is compared with what comes out, in float64, every number random.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from growtool.algebra.axis_map import axis_map
from growtool.algebra.expansion import BLANK, Expansion, circular, padded
from growtool.algebra.layers import complete, copy_positions, split_evenly
from growtool.algebra.rewrite import Rewrite
from growtool.prove.blanks.propagation import propagate_blanks
from growtool.trace import ChannelGroup, GroupPair, PairedAxis, Unchanged
from tests.support.stream_nets import Headless, apart, pooled, random, recipe_between

EXACT = 1e-11
OPERATORS = ("centre_zero", "lemon", "zero")


def norm(x: list[float], gain: float = 1.0, eps: float = 0.0) -> list[float]:
    numbers = torch.tensor(x, dtype=torch.float64)
    return (gain * nn.functional.layer_norm(numbers, (len(x),), eps=eps)).tolist()


@pytest.mark.parametrize(
    ("x", "gain", "expected"),
    [
        ([1, 3], 1.0, [-1, 1]),
        ([1, 3, 1, 3], 1.0, [-1, 1, -1, 1]),  # whole copies change nothing
        ([1, 3, 1], 1.0, [-0.70711, 1.41421, -0.70711]),  # uneven copies do
        ([1, 3, 0], 1.0, [-0.26726, 1.33631, -1.06904]),  # zeros beside a mean of two do
        ([1, 3, 2], math.sqrt(2 / 3), [-1, 1, 0]),  # the mean beside it does not
        ([-1, 1, 0], math.sqrt(2 / 3), [-1, 1, 0]),  # nor do zeros beside a mean of zero
    ],
)
def test_layer_norm_by_hand(x, gain, expected):
    assert norm(x, gain) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("variance", "off"), [(1e-4, 1 - 0.99753), (1.0, 2.5e-7)])
def test_eps_by_hand(variance, off):
    """Two channels become three, eps stays 1e-6: the output is too small by eps (1/s - 1) / (2 variance), s = 2/3."""
    x, s = [-math.sqrt(variance), math.sqrt(variance)], 2 / 3
    kept = norm([*x, 0.0], math.sqrt(s), eps=1e-6)[1] / norm(x, eps=1e-6)[1]
    told = norm([*x, 0.0], math.sqrt(s), eps=1e-6 * s)[1] / norm(x, eps=1e-6)[1]
    assert 1 - kept == pytest.approx(off, rel=1e-2)
    assert told == pytest.approx(1.0, abs=1e-15)


def test_padding_is_whole_copies_and_then_blanks():
    assert padded(2, 5).index.tolist() == [0, 1, 0, 1, BLANK]
    assert padded(2, 5, copies=1).index.tolist() == [0, 1, BLANK, BLANK, BLANK]
    assert circular(2, 5).index.tolist() == [0, 1, 0, 1, 0]
    expansion = padded(2, 5)
    assert expansion.copies == 2 and expansion.multiplicity is None and expansion.has_blanks
    assert expansion.counts.tolist() == [2, 2, 2, 2, 1] and expansion.replica.tolist() == [0, 0, 1, 1, 0]
    assert padded(2, 4).multiplicity == 2 and not padded(2, 4).has_blanks


@pytest.mark.parametrize("free", [True, False])
def test_maps_with_blanks_are_dense_matrices_with_rows_of_zeros(free):
    """E has a row of zeros for each blank; any left inverse may hold anything in its column, the split holds zeros."""
    outer, inner = GroupPair(ChannelGroup(2), ChannelGroup(3)), GroupPair(ChannelGroup(2), ChannelGroup(5))
    grown = {outer: padded(2, 3), inner: padded(2, 5)}
    axis = PairedAxis(((outer, Unchanged(2), inner),))
    found = axis_map(axis, grown, frozenset(grown), frozenset([inner]) if free else frozenset())
    E = torch.kron(torch.kron(dense(grown[outer]), torch.eye(2)), dense(grown[inner])).double()
    assert torch.equal(copy_positions(torch.eye(8).double(), (found,)), E)
    R = split_evenly(torch.eye(8).double(), (copied(8), found))
    torch.testing.assert_close(R @ E, torch.eye(8).double())
    # free where only `inner` is blank: what `outer` forbids stays forbidden
    expected = [bool(free and i < 2 and k == 4) for i in range(3) for _ in range(2) for k in range(5)]
    assert found.free.tolist() == expected


def dense(expansion: Expansion) -> Tensor:
    return torch.stack(
        [torch.eye(expansion.size)[i] if i >= 0 else torch.zeros(expansion.size) for i in expansion.index]
    )


def copied(size: int):
    return axis_map(PairedAxis(((Unchanged(size),),)), {}, frozenset())


def test_any_draft_is_completed_beside_blanks():
    stream = GroupPair(ChannelGroup(2), ChannelGroup(5))
    maps = (copied(3), axis_map(PairedAxis(((stream,),)), {stream: padded(2, 5)}, frozenset([stream])))
    W, draft = random(3, 2), random(3, 5, seed=1)
    done = complete(draft.clone(), W, maps)
    torch.testing.assert_close(done @ dense(padded(2, 5)).double(), W)
    torch.testing.assert_close(done[:, 4], draft[:, 4])


def test_rewriting_is_centring_after_scaling():
    W, gamma = random(3, 2), random(3, seed=1)
    size = gamma.square().mean().sqrt()
    done = Rewrite(scale="g", centre=True).apply(W, {"g": gamma}.__getitem__)
    level = Rewrite(level=True).apply(gamma, {}.__getitem__)
    C = torch.eye(3).double() - 1 / 3
    torch.testing.assert_close(level[:, None] * done, C @ (gamma[:, None] * W))
    assert level.tolist() == [float(size)] * 3
    assert torch.equal(Rewrite(factor=0.5).apply(W, {}.__getitem__), W / 2)
    assert not Rewrite(scale="g").apply(W, {"g": torch.zeros(3).double()}.__getitem__).any()


PASSING = {
    "plain": lambda s, x: s.last(pooled(x + s.branch(s.norm(x)))),
    "tokens picked": lambda s, x: s.last(pooled((x + s.branch(s.norm(x)))[:, [2, 0]])),
    "a scale per channel": lambda s, x: s.last(pooled(x + s.g * s.branch(s.norm(x)))),
    "a gate": lambda s, x: s.last(pooled(x + _gated(s, s.norm(x)))),
    "a layer of two names": lambda s, x: s.last(pooled(x + s.branch(s.norm(x)) + s.again(torch.relu(s.fc(s.norm(x)))))),
    "in place": lambda s, x: s.last(pooled(x.add_(s.branch(s.norm(x))))),
    "no shift": lambda s, x: s.last(pooled(2.0 * x - s.branch(s.norm(x)))),
}
STOPPING = {
    "read by the head": lambda s, x: pooled(x + s.branch(s.norm(x))),
    "read by a branch": lambda s, x: s.last(pooled(x + s.branch(x))),
    "rectified": lambda s, x: s.last(pooled(torch.relu(x) + s.branch(s.norm(x)))),
    "channel by channel": lambda s, x: s.last(pooled(x + s.wide(x.transpose(1, 2)).transpose(1, 2))),
    "normalised after": lambda s, x: s.last(pooled(s.norm(x + s.branch(x)))),
    "without a gain": lambda s, x: s.last(pooled(x + s.branch(s.bare(x)))),
    "a gain with another use": lambda s, x: s.last(pooled(x + s.branch(s.norm(x) * s.norm.weight))),
    "shifted": lambda s, x: s.last(pooled(x + s.branch(s.norm(x)) + 1.0)),
    "a softmax of channels": lambda s, x: s.last(pooled(x + s.branch(s.norm(x).softmax(-1)))),
    "channels attend": lambda s, x: s.last(pooled(x + s.norm(x) @ (s.norm(x).transpose(1, 2) @ s.norm(x)).softmax(-1))),
    "a mean of channels": lambda s, x: s.last(pooled(x + s.branch(s.norm(x) * x.mean(-1, keepdim=True)))),
    "a scale used twice": lambda s, x: s.last(pooled(x * s.g + s.g * s.branch(s.norm(x)))),
    "batch statistics": lambda s, x: s.last(pooled(s.batch(x.transpose(1, 2)).transpose(1, 2) + s.branch(s.norm(x)))),
    "an overwritten view": lambda s, x: s.last(pooled(_overwritten(x) + s.branch(s.norm(x)))),
}


def _gated(s, x):
    return s.out(torch.relu(s.fc(x)) * torch.sigmoid(s.fc(pooled(x)))[:, None])


def _overwritten(x):
    x.transpose(1, 2).sigmoid_()
    return x


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", PASSING)
def test_features_with_blanks_keep_those_of_the_source(name, operator):
    small, large, recipe = recipe_between(PASSING[name], operator, net=Headless)
    assert recipe.promise.kind == "exact up to eps"
    assert recipe.outputs[0][0].kept.tolist() == [0, 1, 2, 3]
    assert apart(small, large, recipe) < EXACT


def test_channels_that_are_returned_are_not_centred():
    """Every norm is blind to it, whoever reads the features is not."""
    *_, recipe = recipe_between(STOPPING["read by the head"], "centre_zero", net=Headless)
    assert recipe.promise.kind == "lossy"
    [growth] = recipe.matching.paired["stem.weight"][0].growths()
    blanks = {**{g.target: e for g, e in recipe.expansions.items()}, growth.target: padded(4, 7)}
    found = propagate_blanks(recipe.matching.target.trace, growth.target, "silent", blanks, frozenset(), {})
    assert ("", "the model returns the channels themselves, not through a norm") in found.reasons


NORMS = {
    "batch": lambda s, y: s.batch(y.mT).mT,
    "batch without statistics": lambda s, y: (
        nn.functional.batch_norm(y.mT, None, None, s.batch.weight, s.batch.bias, training=True).mT
    ),
    "group": lambda s, y: nn.functional.group_norm(y.mT, 1, s.batch.weight, s.batch.bias).mT,
}


@pytest.mark.parametrize(("closed", "passes"), [({"batch.weight"}, False), ({"batch.weight", "batch.bias"}, True)])
@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_is_zero_if_gain_and_shift_are(norm, closed, passes):
    """Whatever it reads, and whatever its running mean is."""

    def norm_last(s, x):
        return s.last(pooled(x + NORMS[norm](s, x)))

    *_, recipe = recipe_between(norm_last, "centre_zero")
    [growth] = recipe.matching.paired["stem.weight"][0].growths()
    blanks = {**{g.target: e for g, e in recipe.expansions.items()}, growth.target: padded(4, 7)}
    found = propagate_blanks(recipe.matching.target.trace, growth.target, "silent", blanks, frozenset(closed), {})
    assert bool(found.reasons) != passes


def batch_shifted(s, x):
    y = nn.functional.batch_norm(s.branch(s.norm(x)).mT, None, None, None, s.batch.bias, training=True)
    return s.last(pooled(x + y.mT))


def layer_shifted(s, x):
    y = nn.functional.layer_norm(s.branch(s.norm(x)), x.shape[-1:], None, s.batch.bias)
    return s.last(pooled(x + y))


@pytest.mark.parametrize("forward", [batch_shifted, layer_shifted])
def test_a_norm_without_gain_is_not_zero_with_its_shift(forward):
    *_, recipe = recipe_between(forward, "centre_zero")
    [growth] = recipe.matching.paired["stem.weight"][0].growths()
    blanks = {**{g.target: e for g, e in recipe.expansions.items()}, growth.target: padded(4, 7)}
    trace = recipe.matching.target.trace
    assert propagate_blanks(trace, growth.target, "silent", blanks, frozenset({"batch.bias"}), {}).reasons


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", PASSING)
def test_what_passes(name, operator):
    small, large, recipe = recipe_between(PASSING[name], operator)
    assert recipe.promise.kind == "exact up to eps", recipe.promise
    assert apart(small, large, recipe) < EXACT


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", STOPPING)
def test_what_does_not_pass_is_not_promised(name, operator):
    small, large, recipe = recipe_between(STOPPING[name], operator)
    if recipe.promise.kind == "lossy":
        assert recipe.promise.reasons and all(": " in reason for reason in recipe.promise.reasons)
    else:  # some stop one kind of blank only
        assert apart(small, large, recipe) < EXACT


def test_most_of_it_stops_centring():
    lossy = {name for name in STOPPING if recipe_between(STOPPING[name], "centre_zero")[2].promise.kind == "lossy"}
    assert lossy == set(STOPPING)
