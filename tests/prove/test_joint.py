"""Operations that treat channels jointly, and functions of weights: all are found in the one run over the target."""

import pytest
import torch
from torch import nn

from growtool.prove.lockstep import Lockstep
from growtool.prove.scales.scaling import scaling
from growtool.trace import trace_model
from tests.support.stream_nets import Net, recipe_between

WIDTH = 4


def found(forward):
    """What is found in a network around `forward`, of which nothing grows."""
    trace = trace_model(Net(WIDTH, lambda s, x: forward(s, x.mean(1))).eval(), (3, 8, 8))
    lockstep = Lockstep(trace, trace, lambda path: path, lambda path: False)
    return trace, scaling(lockstep, {}, {}, {}, copying=False)


@pytest.mark.parametrize(
    ("forward", "kind"),
    [
        (lambda s, x: x.softmax(1), "softmax"),
        (lambda s, x: x.log_softmax(1), "softmax"),
        (lambda s, x: x / x.norm(dim=1, keepdim=True), "linalg_vector_norm"),
        (lambda s, x: x - x.mean(1, keepdim=True), "mean"),
        (lambda s, x: x + x.var(1, keepdim=True), "variance by N - 1"),
        (lambda s, x: x + x.var(1, keepdim=True, correction=0), "var"),
        (lambda s, x: x + x.prod(1, keepdim=True), "prod"),
        (lambda s, x: x * torch.logsumexp(x, 1, keepdim=True), "logsumexp"),
        (lambda s, x: s.norm(x), "layer_norm"),
        (lambda s, x: s.rms(x), "rms_norm"),
        (lambda s, x: nn.functional.group_norm(x, 2), "group_norm"),
        (lambda s, x: x + (x[:, None] @ x[:, :, None])[:, 0], "product"),
    ],
)
def test_what_treats_channels_jointly_is_found(forward, kind):
    trace, scaled = found(forward)
    (channels,) = trace.tensors["stem.weight"][0][0] if kind != "group_norm" else [None]
    axes = [joint.axis for joint in scaled.joint if joint.kind == kind]
    assert axes and (channels is None or ((channels,),) in axes)


def test_a_batch_norm_by_the_batch_is_found_and_one_in_evaluation_is_none():
    assert any(joint.kind == "batch_norm" for joint in found(lambda s, x: by_the_batch(x))[1].joint)
    assert not any(joint.kind == "batch_norm" for joint in found(lambda s, x: s.batch(x))[1].joint)


def by_the_batch(x):
    return nn.functional.batch_norm(x[None], None, None, training=True)[0]


@pytest.mark.parametrize(
    "function",
    [
        lambda w, g: w * w,
        lambda w, g: w.softmax(0),
        lambda w, g: w / w.norm(dim=0),
        lambda w, g: g / w[:WIDTH],
        lambda w, g: w.tanh(),
        lambda w, g: w + 1,
        lambda w, g: w.relu(),
        lambda w, g: w - w.amax(1, keepdim=True),
    ],
    ids=["square", "softmax", "normalised", "divisor", "tanh", "shifted", "relu", "largest"],
)
def test_functions_of_weights_are_found(function):
    assert "fc.weight" in found(lambda s, x: (x @ function(s.fc.weight, s.g).t())[:, :WIDTH])[1].transformed


@pytest.mark.parametrize("function", [lambda w: w, lambda w: -w, lambda w: 2 * w, lambda w: w + w])
def test_a_split_passes_what_is_linear(function):
    assert "fc.weight" not in found(lambda s, x: (x @ function(s.fc.weight).t())[:, :WIDTH])[1].transformed


@pytest.mark.parametrize("operator", ["tile", "mixture", "zero"])
def test_a_sum_with_what_no_parameter_brought_along_is_lossy(operator):
    def forward(s, x):
        column = s.head.bias[:1].expand(x.shape[-1])[:, None]
        return (x + torch.sigmoid(x) @ column).mean(1)

    *_, recipe = recipe_between(forward, operator, WIDTH, 2 * WIDTH)
    assert recipe.promise.kind == "lossy", recipe.promise
    assert "not split among their copies" in str(recipe.promise) or "no parameter's own" in str(recipe.promise)
