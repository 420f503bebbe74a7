"""Closed blocks whatever is around them: sums in the caller, several streams, layers on the stream."""

import pytest
import timm
import torch

from growtool.checkpoint import ModelSpec, build
from growtool.errors import PlanError
from growtool.growing.execute import grown_tensors
from growtool.growing.summary import summarise
from growtool.library.timm import input_size
from growtool.trace import trace_model
from tests.support.promises import DEEPENING, OTHERS, TILE, deeper, promised
from tests.support.treacherous import name_of
from tests.support.treacherous_callers import CLOSED, DOUBTFUL
from tests.zoo.attempt import attempt
from tests.zoo.proofs import InMemory, source_model

MLP = ("b.weight", "b.bias")


@pytest.mark.parametrize("placement", ["interleaved", "end"])
@pytest.mark.parametrize("case", CLOSED)
def test_blocks_are_closed(case, placement):
    assert promised("called", case, {"depth": 3}, depth={"operator": "zero_out", "placement": placement}) == "exact"


@pytest.mark.parametrize("case", [*CLOSED, *DOUBTFUL])
def test_never_exact_and_wrong(case):
    for placement in ("interleaved", "end"):
        for operator in DEEPENING:
            promised("called", case, {"depth": 4}, depth={"operator": operator, "placement": placement})


@pytest.mark.parametrize("case", CLOSED)
def test_never_exact_and_wrong_where_it_grows_wider_too(case):
    for width in (TILE, *OTHERS):
        promised("called", case, {"depth": 3, "width": 2}, width=width, depth={"operator": "zero_out"})


@pytest.mark.parametrize("case", [case for case in CLOSED if "in place" not in case])  # which autograd does not take
def test_closed_blocks_learn(case):
    """Exactly what ends a branch is zero, and it has a gradient."""
    recipe = deeper(case)
    model = timm.create_model(recipe.target.architecture, **recipe.target.model_args).double()
    model.load_state_dict(grown_tensors(recipe))
    model(
        torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ).square().sum().backward()
    closing = {name: p for name, p in model.named_parameters() if recipe.tensors[name].zero}
    assert closing and all(name.startswith("blocks.2.") for name in closing)
    for name, parameter in closing.items():
        assert not parameter.any() and parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("case", "zero", "passing"),
    [
        ("added by the caller", MLP, ()),
        ("a block run in parts", MLP, ()),
        ("a block and a part of it", (*MLP, "c.weight", "c.bias"), ()),
        ("two streams", (*MLP, "c.weight", "c.bias"), ()),
        ("a convolution on the stream", MLP, ("other.weight", "other.bias")),
        (
            "depthwise and norm on the stream",
            MLP,
            ("local.weight", "local.bias", *(f"norm.{n}" for n in ("weight", "bias", "running_mean", "running_var"))),
        ),
        ("two convolutions in parallel", ("other.weight", "other.bias"), ("local.weight", "local.bias")),
    ],
)
def test_what_closes_a_block(case, zero, passing):
    tensors = deeper(case).tensors
    assert {name for name, t in tensors.items() if t.zero} == {f"blocks.2.{name}" for name in zero}
    assert {name for name, t in tensors.items() if t.implied is not None} == {f"blocks.2.{name}" for name in passing}


def test_parts_of_one_tensor_are_told_apart():
    """Each of two streams that one operation returned comes back at its own place."""
    model = build(ModelSpec(name_of("called", "two halves of a tensor")))
    call = next(c for c in trace_model(model, input_size(model)).forward.calls if c.path == "blocks.0")
    assert [out.same.number for out in call.outs] == list(call.ins)


@pytest.mark.parametrize(("case", "norms"), [("depthwise and norm on the stream", True), ("two streams", False)])
def test_statistics_of_norms_on_the_stream_are_to_be_estimated_anew(case, norms):
    advice = summarise(deeper(case)).advice
    assert any("the new BatchNorm layers have none of the data yet" in line for line in advice) == norms


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "a chain",
            r"block 2: zero_out needs a residual connection around the block, and the trace found none: relu in it "
            r"changes what it received, and no sum adds what it returns to it; use stack or interleave",
        ),
        ("activation on the stream", r"the trace found none: tanh in it changes what it received, and no sum"),
        ("places missing", r"the trace found none: cat in it changes what it received"),
        (
            "one layer in all blocks",
            r"and the one the trace found takes blocks\.0\.shared\.bias to be closed, which is not the block's alone",
        ),
    ],
)  # fmt: skip
def test_why_a_block_cannot_be_closed(case, message):
    with pytest.raises(PlanError, match=message):
        deeper(case)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "last two returned",
            "the model itself: with the new blocks closed, tanh reads other values than in the source",
        ),
        (
            "a number by depth, activated",
            "the model itself: the source computes mul(0.707106781), the target mul(0.5773",
        ),
    ],
)
def test_why_closed_blocks_change_the_rest(case, message):
    promise = deeper(case).promise
    assert promise.kind == "lossy" and promise.reasons[0].startswith(message)


@pytest.mark.parametrize(
    ("architecture", "args", "more"),
    [
        (
            "tnt_s_legacy_patch16_224",
            {"embed_dim": 16, "inner_dim": 8, "depth": 2, "num_heads_inner": 2, "num_heads_outer": 2, "num_classes": 5},
            {"depth": 3},
        ),
        (
            "tiny_vit_5m_224",
            {"embed_dims": [8, 8, 16, 16], "depths": [1, 2, 1, 1], "num_heads": [2, 2, 2, 2], "num_classes": 5},
            {"depths": [1, 3, 1, 1]},
        ),
        ("nf_resnet26", {"depths": [2, 1, 1, 1], "width_factor": 0.25, "num_classes": 5}, {"depths": [3, 1, 1, 1]}),
        (
            "vit_dpwee_patch16_reg1_gap_256",
            {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 32, "num_classes": 5},
            {"depth": 4},
        ),
    ],
    ids=["two streams", "convolutions on the stream", "a factor by depth", "a number by depth in each block"],
)
def test_networks_of_timm(architecture, args, more):
    spec = ModelSpec(architecture, args)
    model = source_model(spec)
    found = attempt("arguments", {"model_args": more}, {"depth": "zero_out"}, InMemory.of(spec, model), model)
    assert found.verdict == "exact", found
