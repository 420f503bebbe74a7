"""RMSNorm: torch computes it in several operations; recognised as one, it takes zeros beside its channels.

Zeros make the mean square smaller by s, the share of channels that are old; the gain makes up for it with sqrt(s).
"""

import math

import pytest
import torch
from torch import nn

from growtool.trace import trace_model
from tests.support.models import TINY, difference, grown, load, resolved, write_folder
from tests.support.stream_nets import apart, pooled, recipe_between

EXACT = 1e-11
OPERATORS = ("centre_zero", "lemon", "zero")
VIT = TINY["vit"].with_args(norm_layer="rmsnorm")
ODD = {"embed_dim": 20, "num_heads": 5}


def by_hand(s, x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * s.rms.weight


def overwritten(s, x):
    y = x * 1.0
    size = torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5)
    return y.add_(1.0) * size * s.rms.weight


NORMS = {  # and whether it is an RMSNorm over the channels that can be told another eps
    "torch's": (lambda s, x: s.rms(x), True),
    "by hand": (by_hand, False),  # it is one, but there is no module to tell another eps
    "shifted between": (overwritten, False),
    "over tokens": (lambda s, x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-5) * s.rms.weight, False),
    "of another tensor": (lambda s, x: s.g * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5), False),
    "cubed": (lambda s, x: x * torch.rsqrt(x.pow(3).mean(-1, keepdim=True).abs() + 1e-5) * s.rms.weight, False),
    "a root used twice": (lambda s, x: _twice(s, x), False),
    "without a gain": (lambda s, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5), False),
    "one plus the gain": (lambda s, x: s.bare_rms(x) * (1 + s.rms.weight), False),
}


def _twice(s, x):
    size = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
    return x * size * s.rms.weight * size


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", NORMS)
def test_what_is_an_rms_norm_is_exact_up_to_eps_and_nothing_else_is(name, operator):
    norm, is_one = NORMS[name]
    small, large, recipe = recipe_between(lambda s, x: s.rms(pooled(x + s.branch(norm(s, x)))), operator)
    kind = recipe.promise.kind
    assert kind == ("exact up to eps" if is_one else "lossy"), recipe.promise
    assert kind == "lossy" or apart(small, large, recipe) < EXACT


def test_by_hand():
    """[3, 4] has mean square 12.5; a zero beside it makes that 25/3, and sqrt(2/3) brings the output back."""
    x, padded = (torch.tensor(v, dtype=torch.float64) for v in ([3.0, 4.0], [3.0, 4.0, 0.0]))
    before, after = (nn.functional.rms_norm(v, v.shape, eps=0.0) for v in (x, padded))
    torch.testing.assert_close(math.sqrt(2 / 3) * after[:2], before)


def test_the_trace_holds_one_step_for_it():
    found = [step for step in trace_model(VIT.create().to("meta"), (3, 32, 32)).forward.steps if "norm" in step.module]
    assert [step.name for step in found] == ["rms_norm"] * 5 and {step.args[3] for step in found} == {1e-6}


@pytest.mark.parametrize("operator", OPERATORS)
def test_transformers_of_any_width(operator, tmp_path):
    source = write_folder(VIT, tmp_path / "source")
    plan = {"target": {"model_args": ODD}, "width": {"operator": operator}}
    kept = grown(source, plan, tmp_path / "kept")
    assert kept.summary.promise == "exact up to eps" and "eps is 1e-06 and would have" in kept.summary.reasons[0]
    assert kept.proof is not None and kept.proof.with_eps is not None
    assert kept.proof.with_eps.relative_difference < EXACT < kept.proof.comparison.relative_difference < 1e-4
    plan["width"]["eps"] = "told"
    told = grown(source, plan, tmp_path / "told")
    assert told.summary.promise == "exact"
    assert difference(load(source), load(told.out), VIT.inputs()) < EXACT
    again = {"target": {"model_args": {"embed_dim": 28, "num_heads": 7}}, "width": plan["width"]}
    twice = grown(told.out, again, tmp_path / "twice")
    assert twice.summary.promise == "exact"
    assert difference(load(source), load(twice.out), VIT.inputs()) < EXACT


def test_norms_over_the_channels_of_a_head_stop_blanks_there(tmp_path):
    """The stream grows with zeros; q and k of a head keep their size, so their norms see nothing new."""
    source = write_folder(VIT.with_args(qk_norm=True), tmp_path / "source")
    plan = {"target": {"model_args": ODD}, "width": {"operator": "zero", "eps": "told"}}
    assert resolved(source, plan).promise.kind == "exact"
