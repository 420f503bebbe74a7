"""State dicts with the names and the layout of the public MixtureGrowth reference become template checkpoints."""

import json

import pytest
import timm
import torch

from growtool.checkpoint import open_checkpoint
from growtool.checkpoint.foreign.torch_file import read_state_dict
from growtool.errors import CheckpointError
from growtool.templates.reference import from_reference, member_places
from tests.support.reference import ARGS, LAYERS, PLUGIN, reference
from tests.support.terminal import in_pipe


def test_places_of_members():
    assert member_places(1, 1) == [(0, 0)] and member_places(1, 2) == [(0, 0), (0, 1)]
    assert member_places(2, 2) == [(0, 0), (1, 1), (0, 1), (1, 0)]
    assert member_places(3, 3)[:5] == [(0, 0), (2, 2), (0, 1), (0, 2), (1, 0)]


def test_the_command_writes_a_template_checkpoint(tmp_path):
    state, whole = reference()
    torch.save({"state_dict": state}, tmp_path / "model.pth")
    names = {name: path for name, (path, _) in LAYERS.items()}
    plugin = tmp_path / "their_resnet_plugin.py"
    plugin.write_text(PLUGIN.format(name="their_resnet", args=ARGS, names=names))
    words = ("import", tmp_path / "model.pth", "--model", "their_resnet", "--plugin", plugin)
    # in a process of its own: timm's registry keeps what it is told
    done = in_pipe((*words, "-o", tmp_path / "out", "--json"), tmp_path)
    assert done.code == 0, done.streams["stderr"]
    assert json.loads(done.streams["stdout"])["templated"] == sorted(LAYERS)
    written = open_checkpoint(tmp_path / "out")
    for name, tensor in whole.items():
        torch.testing.assert_close(written.read(name), tensor)
    assert torch.equal(written.read("fc.weight"), state["module.fc.weight"])
    assert written.form.banks == dict.fromkeys(("layer2_0_conv2_weight", "layer4_0_conv2_weight"), "trained")


def test_every_tensor_that_does_not_fit_is_named():
    state, _ = reference()
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    del state["bn1.weight"], state["stages.1.conv_b.coefficients.coefs_member_3"]
    state["fc.bias"] = torch.zeros(9)
    names = {name: path for name, (path, _) in LAYERS.items()}
    with pytest.raises(CheckpointError) as error:
        from_reference(state, timm.create_model("resnet18", **ARGS), names, where="x.pth")
    text = str(error.value)
    for part in (
        "bn1.weight: not in the file", "coefs_member_3: found none, expected [3]", "fc.bias: found [9], expected [3]",
    ):  # fmt: skip
        assert part in text


def test_numbers_that_are_not_finite_are_not_taken():
    state, _ = reference()
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    state["stages.1.conv_b.trainable_parameters.template_set_1"][0, 0, 0] = float("nan")
    names = {name: path for name, (path, _) in LAYERS.items()}
    with pytest.raises(CheckpointError, match=r"x\.pth: banks\.\S+\.templates holds nan, expected finite numbers"):
        from_reference(state, timm.create_model("resnet18", **ARGS), names, where="x.pth")


class Other:
    """Not a tensor."""


def test_nothing_but_tensors_is_unpickled(tmp_path):
    torch.save({"state_dict": Other()}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="torch does not load it with weights_only"):
        read_state_dict(tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        read_state_dict(tmp_path / "absent.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="found no state dict"):
        read_state_dict(tmp_path / "list.pth")
