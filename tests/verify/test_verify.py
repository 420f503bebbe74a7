"""The comparison tells what differs, relative to the largest output, and what cannot be compared."""

import json
import math
import threading
from dataclasses import replace

import pytest
import timm
import torch

from growtool.checkpoint import TensorInfo, build, open_checkpoint
from growtool.checkpoint.match import matched
from growtool.errors import CheckpointError, PlanError
from growtool.verify import (
    Comparison,
    StreamedModel,
    common_inputs,
    compare,
    compare_each,
    default_tolerance,
    outputs_of,
    random_inputs,
)
from tests.support.models import random_images, randomise_, saved


def test_a_checkpoint_equals_itself(vit):
    result = compare(vit, vit, common_inputs(vit, vit, 3, seed=0))
    assert (result.relative_difference, result.max_abs, result.argmax_agreement, result.count) == (0, 0, 1, 3)
    assert result.dtype == "float32"
    assert result.within(0)


def test_difference_is_relative_to_the_largest_logit():
    a = torch.tensor([[4.0, -8.0], [1.0, 2.0]])
    result = Comparison.of(a, torch.tensor([[4.0, -8.0], [1.0, 0.0]]))
    assert result == Comparison(0.25, 2.0, 8.0, 0.5, 2, "float32")
    assert not result.within(0.2)
    parts = [Comparison.of(a[:1], a[:1]), Comparison.of(a[1:], torch.tensor([[1.0, 0.0]]))]
    assert Comparison.merge(parts) == result


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_logits_that_are_not_finite_never_agree(bad, side):
    logits = [torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]])]
    logits[side] = torch.tensor([[1.0, bad]])
    broken = Comparison.of(*logits)
    assert not broken.within(1e9)
    fine = Comparison.of(torch.ones(1, 2), torch.ones(1, 2))
    assert not Comparison.merge([fine, broken]).within(1e9)
    assert not Comparison.merge([broken, fine]).within(1e9)


def test_zero_logits_agree_with_zero_logits_alone():
    zero = torch.zeros(1, 2)
    assert Comparison.of(zero, zero).within(0)
    assert not Comparison.of(zero, torch.ones(1, 2)).within(1e9)


@pytest.mark.parametrize(
    ("stored", "computed", "tolerance"),
    [
        (("F64", "F64"), torch.float64, 1e-10),
        (("F64", "F32"), torch.float64, 1e-5),
        (("F64", "F64"), torch.float32, 1e-5),
        (("F32", "BF16"), torch.float32, 5e-2),
        (("F16", "I64"), torch.float32, 5e-3),
    ],
)
def test_tolerance_is_that_of_the_coarsest_type(vit, stored, computed, tolerance):
    pair = [replace(vit, stored={"weight": TensorInfo((1,), name)}) for name in stored]
    assert default_tolerance(*pair, computed) == tolerance


def test_models_that_run_beside_each_other_return_what_each_does_alone(vit, monkeypatch):
    inputs = common_inputs(vit, vit, 2, seed=0)
    threads, seen = torch.get_num_threads(), []
    run = StreamedModel.outputs

    def watched(model, given):
        seen.append((threading.get_ident() == here, torch.get_num_threads()))
        return run(model, given)

    here = threading.get_ident()
    monkeypatch.setattr(StreamedModel, "outputs", watched)
    try:
        torch.set_num_threads(1)
        found = {}
        for cores in (1, 2, 8):
            monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
            found[cores] = outputs_of([StreamedModel(vit), StreamedModel(vit), StreamedModel(vit)], inputs)
    finally:
        torch.set_num_threads(threads)
    assert seen == [(True, 1)] * 3 + [(False, 1)] * 6
    assert all(torch.equal(one, found[1][0][0]) for outputs in found.values() for (one,) in outputs)


def test_an_error_of_one_model_ends_those_beside_it(vit, monkeypatch):
    first, second = StreamedModel(vit), StreamedModel(vit)
    monkeypatch.setattr(first.library, "run", lambda model, inputs: second.library.missing)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    with pytest.raises(AttributeError):
        outputs_of([first, second], common_inputs(vit, vit, 1, seed=0))
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="the run was ended"):
        second.outputs(common_inputs(vit, vit, 1, seed=0))


def test_the_source_runs_once_for_all_eps(vit, monkeypatch):
    runs, run = [], StreamedModel.outputs
    monkeypatch.setattr(StreamedModel, "outputs", lambda model, given: runs.append(model) or run(model, given))
    inputs = common_inputs(vit, vit, 2, seed=0)
    plain, with_eps = compare_each(vit, vit, inputs, [({}, {}), ({}, {"norm": 0.5})])
    assert len(runs) == 3
    assert plain == compare(vit, vit, inputs)
    assert plain.relative_difference == 0 < with_eps.relative_difference


def test_the_source_runs_again_where_its_own_eps_is_another(vit):
    inputs, other = common_inputs(vit, vit, 2, seed=0), {"norm": 0.5}
    plain, alone, both = compare_each(vit, vit, inputs, [({}, {}), (other, {}), (other, other)])
    assert plain.relative_difference == both.relative_difference == 0 < alone.relative_difference


def test_random_inputs_are_those_of_the_seed(vit):
    model = build(vit.spec)
    a, b, again = (random_inputs(vit.spec, model, 2, seed=seed).tensors["images"] for seed in (1, 2, 1))
    assert (a.shape, a.dtype) == ((2, 3, 160, 160), torch.float64)
    assert torch.equal(a, random_images((3, 160, 160), 2, seed=1, dtype=torch.float64))
    assert torch.equal(a, again) and not torch.equal(a, b)


def test_what_cannot_be_compared_is_said_at_once(vit, tmp_path):
    args = {"num_classes": 7, "img_size": 64}
    other = open_checkpoint(saved(randomise_(timm.create_model("test_vit", **args).eval()), tmp_path, **args))
    with pytest.raises(PlanError) as error:
        compare(vit, other, random_images((3, 64, 64), 1))
    assert len(error.value.problems) == 2
    assert error.match(r"input size: .* takes 3x160x160 images, .* takes 3x64x64; expected the same")
    assert error.match(r"classes: .* has 5, .* has 7; expected the same number")


def test_features_that_are_no_numbers_are_further_apart_than_any():
    nan = torch.full((1, 2), math.nan)
    parts = [Comparison.of(a, a, decide=False) for a in (torch.ones(1, 2), nan)]
    assert Comparison.merge(parts).argmax_agreement is None
    assert not Comparison.merge(parts).within(1e9)


def test_strictness_names_every_kind_of_disagreement(resnet_folder):
    config = json.loads((resnet_folder / "config.json").read_text())
    config["model_args"] |= {"channels": [4, 8, 8, 16], "layers": [1, 1, 1, 2]}
    (resnet_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as error:
        matched(open_checkpoint(resnet_folder))
    assert error.match(
        r"the weights are not those of resnet18 with the model_args given \(\d+ tensors found, \d+ expected"
    )
    assert error.match(
        r"wrong shape \(\d+\): layer4\.0\.conv1\.weight is \[12, 8, 3, 3\], expected \[16, 8, 3, 3\]; .*and \d+"
    )
    assert error.match(r"missing \(\d+\): layer4\.1\.conv1\.weight \[16, 16, 3, 3\]; ")
    assert error.match("a config.json that does not match the weights")
    config["model_args"] |= {"channels": [4, 8, 8, 12], "layers": [1, 1, 1, 1], "num_classes": 0}
    (resnet_folder / "config.json").write_text(json.dumps(config | {"num_classes": 0}))
    with pytest.raises(
        CheckpointError, match=r"- unexpected \(2\): fc\.(bias|weight) [^;]*; fc\.(bias|weight) [^;]*\n"
    ):
        matched(open_checkpoint(resnet_folder))


@pytest.mark.parametrize("count", [10**13, 2**63 - 1])
def test_more_random_inputs_than_memory_holds_are_refused(count, vit):
    with pytest.raises(PlanError, match=rf"found {count} random inputs of 3x160x160, expected as many as fit"):
        random_inputs(vit.spec, build(vit.spec), count, 0)
