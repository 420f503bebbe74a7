"""The published protocol: members side by side are their ensemble, new blocks are what was asked, toys run through."""

import json
import os
import shlex
import signal
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import timm
import torch

from growtool.algebra.axis_map import AxisMap
from growtool.checkpoint import ModelSpec, open_checkpoint
from growtool.errors import PlanError
from growtool.finetune.state.records import Progress
from growtool.templates.convert import export_dense, write_tensors
from growtool.workflows.protocol.diagonal import NewVectors, beside, grid_of, growth_maps, two_sided, write_grown
from growtool.workflows.protocol.file import load_protocol
from growtool.workflows.protocol.member import write_copy, write_member
from growtool.workflows.protocol.run import run_protocol
from tests.support.finetune import CLASSES, UNCLOSED_IMAGES, write_data
from tests.support.models import load
from tests.support.processes import in_processes
from tests.support.protocol import MODEL_ARGS, write_protocol

CHANNELS = {"twice": [8, 16, 16, 24], "thrice": [12, 24, 24, 36], "uneven": [6, 13, 15, 19]}
SIZE = {"input_size": [3, 32, 32]}


def spec(channels):
    return ModelSpec("resnet18", {**MODEL_ARGS, "channels": list(channels), "stem_width": channels[0] // 2}, SIZE)


MEMBER = spec(MODEL_ARGS["channels"])


def members(folder, grown):
    """Two members with every number random, in float64 where they are dense."""
    growing = two_sided(growth_maps(MEMBER, grown)[0])
    found = []
    for number in range(2):
        start = folder / f"start_{number}"
        write_member(start, MEMBER, growing, templates=3, seed=number)
        checkpoint = open_checkpoint(start)
        tensors = {name: checkpoint.read_stored(name) for name in checkpoint.stored}
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not name.startswith("banks."):
                drawn = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number)) * 0.3
                tensors[name] = 0.5 + drawn.abs() if name.endswith("running_var") else drawn
        rewrite(start, tensors, checkpoint)
        found.append(start)
    return tuple(found)


def rewrite(folder, tensors, checkpoint):
    model = timm.create_model(checkpoint.spec.architecture, **checkpoint.spec.model_args)
    write_tensors(folder, checkpoint.spec, model, tensors, checkpoint.form, force=True)


def dense(folder, out):
    export_dense(out, open_checkpoint(folder))
    return load(out)


@pytest.mark.parametrize("name", ["twice", "thrice"])
def test_zero_vectors_give_the_sum_of_the_members(name, tmp_path):
    """BatchNorm networks: each channel goes its own way until the classifier reads both."""
    grown = spec(CHANNELS[name])
    pair = members(tmp_path, grown)
    write_grown(tmp_path / "grown", grown, pair, NewVectors("zero", 1.0, 0))
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        logits = [dense(folder, tmp_path / f"d{i}")(images) for i, folder in enumerate(pair)]
        whole = dense(tmp_path / "grown", tmp_path / "d")(images)
    torch.testing.assert_close(whole, logits[0] + logits[1], rtol=1e-6, atol=1e-6)  # biases are stored in float32
    assert (logits[0] - logits[1]).abs().max() > 0.01


@pytest.mark.parametrize("name", CHANNELS)
def test_blocks_norms_and_classifier_stand_where_they_should(name, tmp_path):
    grown = spec(CHANNELS[name])
    pair = members(tmp_path, grown)
    write_grown(tmp_path / "grown", grown, pair, NewVectors("orthogonal", 1.0, 0))
    result, first, last = (open_checkpoint(folder) for folder in (tmp_path / "grown", *pair))
    conv, norm, small = "layer2.0.conv2.weight", "layer2.0.bn2.running_mean", MODEL_ARGS["channels"][1]
    width = CHANNELS[name][1]
    copies, rest = -(-width // small), width - (-(-width // small) - 1) * small
    W, mean = result.read(conv), result.read(norm)
    torch.testing.assert_close(W[:small, :small], first.read(conv))
    torch.testing.assert_close(W[-rest:, -rest:], last.read(conv)[:rest, :rest])
    torch.testing.assert_close(mean[:small], first.read(norm))
    torch.testing.assert_close(mean[-rest:], last.read(norm)[:rest])
    assert W.shape[:2] == (width, width) and result.stored[f"{conv}.coefficients"].shape[:2] == (copies, copies)
    classes, head = MODEL_ARGS["channels"][3], CHANNELS[name][3]
    cut = head - (-(-head // classes) - 1) * classes
    fc = result.read("fc.weight")
    torch.testing.assert_close(fc[:, :classes], first.read("fc.weight"))
    torch.testing.assert_close(fc[:, -cut:], last.read("fc.weight")[:, :cut])
    assert not fc[:, classes:-cut].any()
    torch.testing.assert_close(result.read("fc.bias"), first.read("fc.bias") + last.read("fc.bias"))


def test_the_published_grid_by_hand():
    """Templates 2 and 5 with (1, 0): the orthogonal vector is (0, 1), so block 2 is 5; zero leaves the diagonal."""
    first, last, values = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]), torch.tensor([2.0, 5.0, 3.0, 7.0])
    C = grid_of(first, last, 2, 2, NewVectors("orthogonal", 1.0, 0), "x")
    assert (C @ values).tolist() == [[2.0, 5.0], [6.0, 14.0]]  # [[0, 2], [3, 1]]; block 3 from the second set
    C = grid_of(first, last, 2, 2, NewVectors("zero", 1.0, 0), "x")
    assert (C @ values).tolist() == [[2.0, 0.0], [0.0, 14.0]]
    C = grid_of(first, last, 2, 2, NewVectors("copy", 0.5, 0), "x")
    assert (C @ values).tolist() == [[2.0, 1.0], [7.0, 14.0]]


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (2, 3), (3, 2)])
def test_new_blocks_take_the_sets_in_turn_and_are_orthogonal(rows, columns):
    drawn = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    C = grid_of(drawn[0], drawn[1], rows, columns, NewVectors("orthogonal", 1.0, 3), "x")
    new = [C[i, j] for i in range(rows) for j in range(columns) if (i, j) not in ((0, 0), (rows - 1, columns - 1))]
    for number, vector in enumerate(new):
        own, other = (vector[:4], vector[4:]) if number % 2 == 0 else (vector[4:], vector[:4])
        member = drawn[number % 2]
        assert not other.any() and abs(float(own @ member)) < 1e-5
        torch.testing.assert_close(own.norm(), member.norm())
        assert own[own.abs().argmax()] > 0


def test_a_tensor_without_templates_holds_each_member_once():
    """Rows in two parts and columns in three: the first block, the last one, and zeros between them."""

    def parts(count, *, sums):
        index, replica = torch.arange(2 * count) % 2, torch.arange(2 * count) // 2
        return AxisMap.shared(2, index, replica, torch.ones(2 * count)) if sums else AxisMap.copied(2, index, replica)

    first, last = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    grown = beside(first, last, torch.ones(4, 6), (parts(2, sums=False), parts(3, sums=True)), sums=False)
    expected = torch.zeros(4, 6)
    expected[:2, :2], expected[2:, 4:] = first, last
    assert torch.equal(grown, expected)


def test_templates_start_with_the_variance_of_the_layer(tmp_path):
    wide = ModelSpec("resnet18", {**MODEL_ARGS, "channels": [32] * 4, "stem_width": 16}, SIZE)
    narrow = wide.with_args(channels=[16] * 4, stem_width=8)
    write_member(tmp_path / "m", narrow, two_sided(growth_maps(narrow, wide)[0]), templates=4, seed=0)
    member = open_checkpoint(tmp_path / "m")
    with torch.random.fork_rng():
        model = timm.create_model("resnet18", **narrow.model_args)
    name = "layer3.0.conv2.weight"
    assert float(member.read(name).std()) == pytest.approx(float(model.get_parameter(name).detach().std()), rel=0.1)
    assert "conv1.0.weight" not in member.form.tensors and "fc.weight" not in member.form.tensors


def test_a_copy_differs_by_its_noise(tmp_path):
    pair = members(tmp_path, spec(CHANNELS["twice"]))
    write_copy(tmp_path / "copy", pair[0], noise=0.1, seed=1)
    first, copy = open_checkpoint(pair[0]), open_checkpoint(tmp_path / "copy")
    for name in first.stored:
        a, b = first.read_stored(name), copy.read_stored(name)
        if name.startswith("banks."):
            assert float((a - b).std() / a.std()) == pytest.approx(0.1, rel=0.3)
        else:
            assert torch.equal(a, b)


@UNCLOSED_IMAGES
@pytest.mark.parametrize("changes", [{}, {"second": "copy", "noise": 0.2, "coefficients": "random", "gain": 0.5}])
def test_a_toy_runs_through_the_command_line(changes, tmp_path, growtool):
    data = write_data(tmp_path / "data")
    file = write_protocol(tmp_path / "p.yaml", data, **changes)
    code, out, err = growtool("protocol", file, "-o", tmp_path / "out", "--json")
    assert code == 0, err
    steps = json.loads(out)["steps"]
    assert [step["name"] for step in steps] == ["member_0", "member_1", "grown"]
    assert [step["steps"] for step in steps] == [2, 2, 4]
    assert json.loads((tmp_path / "out" / "protocol.json").read_text())["steps"] == steps
    code, _, err = growtool("export", tmp_path / "out" / "grown" / "run" / "last", "-o", tmp_path / "d")
    assert code == 0, err
    model = timm.create_model(f"local-dir:{tmp_path / 'd'}", pretrained=True)
    assert model.num_classes == len(CLASSES) and model.layer1[0].conv1.weight.shape[0] == 8


def run_as_rank(file, output, rank):
    assert [step.steps for step in run_protocol(load_protocol(file), output)] == [2, 2, 4]


@UNCLOSED_IMAGES
def test_several_processes_share_one_group_and_the_first_one_writes(tmp_path):
    file = write_protocol(tmp_path / "p.yaml", write_data(tmp_path / "data"))
    in_processes(2, partial(run_as_rank, file, tmp_path / "out"))
    assert (tmp_path / "out" / "protocol.json").is_file()


class Stopping(Progress):
    """SIGTERM after some updates, counted over the trainings."""

    def __init__(self, after):
        self.left = after

    def advanced(self, step):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


@UNCLOSED_IMAGES
@pytest.mark.parametrize(
    ("after", "where"),
    [
        (1, "member_0/run/checkpoints/step-00000001"),
        pytest.param(2, "member_0/run/last", marks=pytest.mark.slow),
    ],
)
def test_a_protocol_that_is_stopped_goes_on_by_the_line_it_prints(after, where, tmp_path, monkeypatch, growtool):
    """Within a training, and at its last update, where it is over and the next would begin."""
    file = write_protocol(tmp_path / "p.yaml", write_data(tmp_path / "data"))
    monkeypatch.setattr("growtool.cli.commands.protocol.shown_progress", lambda: nullcontext(Stopping(after)))
    code, out, err = growtool("protocol", file, "-o", tmp_path / "out")
    assert (code, out) == (143, "")
    assert f"stopped after update {after}, saved as {tmp_path}/out/{where}; continue with\n" in err
    line = shlex.split(err.splitlines()[-1])
    assert line == ["growtool", "protocol", str(file), "-o", str(tmp_path / "out"), "--resume"]
    monkeypatch.setattr("growtool.cli.commands.protocol.shown_progress", lambda: nullcontext(None))
    code, _, err = growtool("protocol", file, "-o", tmp_path / "out")
    assert code == 1 and f"choose another place, or go on with\n{shlex.join(line)}\n" in err
    assert growtool(*line[1:])[0] == 0
    assert growtool("protocol", file, "-o", tmp_path / "whole")[0] == 0
    weights = "grown/run/last/model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    file.write_text(file.read_text() + "# changed\n")
    code, _, err = growtool(*line[1:])
    assert code == 1 and "reads differently than when the protocol" in err


def test_what_is_wrong_is_told_with_its_place(tmp_path):
    file = write_protocol(tmp_path / "p.yaml", tmp_path, noise=0.1, templates=0, train={"checkpoint": "x", "lrr": 1})
    with pytest.raises(PlanError) as error:
        load_protocol(file)
    text = str(error.value)
    for part in ("noise", "found noise without second: copy", "templates", "the protocol decides this", "'lr'"):
        assert part in text


def test_what_is_wrong_between_options_is_told_with_its_place(tmp_path):
    file = write_protocol(tmp_path / "p.yaml", tmp_path, grown={"kd_weight": 0.1})
    with pytest.raises(PlanError, match=r"p.yaml:\d+:\d+ grown.kd_weight: given without --kd-teacher"):
        load_protocol(file)


def test_options_of_a_training_are_its_own_over_the_common_ones(tmp_path):
    common = {"data": "images", "val_data": "others", "kd_teacher": "/teacher", "epochs": 2, "warmup_epochs": 1}
    own = {"steps": 40, "warmup_steps": 10, "data": "~/images"}
    loaded = load_protocol(write_protocol(tmp_path / "p.yaml", tmp_path, seed=3, train=common, grown=own))
    assert loaded.trainings["member_0"] == {
        "seed": 3, "epochs": 2, "warmup_epochs": 1, "data": str(tmp_path / "images"),
        "val_data": str(tmp_path / "others"), "kd_teacher": "/teacher",
    }  # fmt: skip
    assert loaded.trainings["grown"] == {
        "seed": 3, "steps": 40, "warmup_steps": 10, "data": str(Path.home() / "images"),
        "val_data": str(tmp_path / "others"), "kd_teacher": "/teacher",
    }  # fmt: skip


def test_members_must_be_narrower():
    with pytest.raises(PlanError, match="member_args: the member is as wide as the model"):
        growth_maps(MEMBER, MEMBER)
    with pytest.raises(PlanError, match="in the model alone, and both members would lack them"):
        growth_maps(MEMBER, MEMBER.with_args(channels=[6, 8, 8, 12]))
    with pytest.raises(PlanError, match=r"conv1.0.weight, .* two members cannot share it"):
        growth_maps(MEMBER.with_args(channels=[4, 4, 4, 6]), MEMBER)


def test_values_of_a_protocol_are_explained_as_those_of_a_plan(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("model: 3\ntemplate: 1\nsecond: copied\ngain: -1\ninput_size: [3, 32]\ntrain: {lrr: 1}\n")
    with pytest.raises(PlanError) as error:
        load_protocol(file)
    assert [problem.removeprefix(f"{file}:") for problem in error.value.problems] == [
        "1:1 member_args: missing, expected the arguments that make a member instead",
        "1:8 model: found 3, expected a string",
        "2:1 template: unknown key, expected one of model, model_args, member_args, input_size, templates, second, "
        "noise, coefficients, gain, train, member_0, member_1, grown, seed; did you mean 'templates'?",
        "3:9 second: found 'copied', expected one of scratch, copy; did you mean 'copy'?",
        "4:7 gain: found -1, expected at least 0",
        "5:13 input_size: found a list, list should have at least 3 items after validation, not 2",
        "6:9 train.lrr: unknown key; did you mean 'lr'?",
    ]
