"""Optimizer state under parameter names: nothing is lost on the way to disk and back, and order does not matter."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import nn

from growtool.errors import CheckpointError
from growtool.finetune.optimizer_files import read_state, write_state
from growtool.finetune.optimizer_state import adopt, capture, restore

COMPILED = pytest.param("kron", marks=pytest.mark.slow)  # timm compiles a part of it
OPTIMIZERS = ["adamw", "sgd", "lion", "muon", "adafactor", COMPILED, "lookahead_adamw", "lamb"]


def model() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


def step(net: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    torch.manual_seed(number)
    optimizer.zero_grad()
    net(torch.randn(6, 3, 4, 4)).square().mean().backward()
    optimizer.step()


def optimizer_of(net: nn.Module, name: str) -> torch.optim.Optimizer:
    return create_optimizer_v2(net, opt=name, lr=0.01, weight_decay=0.1)


@pytest.mark.filterwarnings("ignore:It is highly recommended to have .opt_einsum")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_optimizer_takes_the_same_steps_to_the_bit(name: str, tmp_path: Path):
    one = model()
    first = optimizer_of(one, name)
    for number in range(3):
        step(one, first, number)
    write_state(tmp_path, capture(first, one))
    two = model()
    two.load_state_dict(one.state_dict())
    second = optimizer_of(two, name)
    restore(second, two, read_state(tmp_path), where="here")
    for number in range(3, 6):
        step(one, first, number)
        step(two, second, number)
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key]), key


def test_moments_stand_under_the_name_of_their_parameter(tmp_path: Path):
    net = model()
    optimizer = optimizer_of(net, "adamw")
    step(net, optimizer, 0)
    write_state(tmp_path, capture(optimizer, net))
    state = read_state(tmp_path)
    assert state.algorithm == "AdamW"
    assert set(state.slots("3.weight")) == {"step", "exp_avg", "exp_avg_sq"}
    assert torch.equal(state.slots("3.weight")["exp_avg"], optimizer.state[net[3].weight]["exp_avg"])
    assert {name for group in state.groups for name in group["params"]} == dict(net.named_parameters()).keys()


def shapes(net: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in net.named_parameters()}


def test_adopted_moments_follow_names_and_leave_the_options_alone():
    """The other optimizer holds its parameters in other groups and order, as after a change of options."""
    net = model()
    optimizer = optimizer_of(net, "adamw")
    step(net, optimizer, 0)
    other = torch.optim.AdamW([{"params": reversed(list(net.parameters()))}], lr=0.5)
    assert adopt(other, net, capture(optimizer, net), shapes(net)) == 6
    for parameter in net.parameters():
        assert torch.equal(other.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"])
    assert other.param_groups[0]["lr"] == 0.5
    grown = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 7))
    wider = optimizer_of(grown, "adamw")
    assert adopt(wider, grown, capture(optimizer, net), shapes(net)) == 4
    assert grown[3].weight not in wider.state
    assert adopt(optimizer_of(net, "sgd"), net, capture(optimizer, net), shapes(net)) == 0


@pytest.mark.filterwarnings("ignore:It is highly recommended to have .opt_einsum")
@pytest.mark.parametrize("name", [*OPTIMIZERS, "adagrad", "rmsprop"])
def test_a_parameter_of_another_shape_starts_without_whatever_the_optimizer_keeps(name: str):
    net = model()
    optimizer = optimizer_of(net, name)
    step(net, optimizer, 0)
    other = nn.Sequential(*net[:3], nn.Linear(16, 7))
    fresh, changed = optimizer_of(other, name), other[3].weight
    before = set(fresh.state[changed])  # of some optimizers there is a state before the first step
    assert 0 < adopt(fresh, other, capture(optimizer, net), shapes(net)) <= 4
    assert set(fresh.state[changed]) == before
    step(other, fresh, 1)


def test_the_state_of_another_optimizer_is_refused(tmp_path: Path):
    net = model()
    optimizer = optimizer_of(net, "adamw")
    step(net, optimizer, 0)
    state = capture(optimizer, net)
    with pytest.raises(
        CheckpointError, match=r"here: found the state of AdamW over 6 parameters .*expected SGD over 6"
    ):
        restore(optimizer_of(net, "sgd"), net, state, where="here")
    write_state(tmp_path, state)
    (tmp_path / "optimizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"the state of the optimizer .* cannot be read"):
        read_state(tmp_path)


def _set(place: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *path, last = place.split("/")
        for key in path:
            document = document[int(key) if key.isdecimal() else key]
        document[last] = value

    return change


DAMAGED = {
    "no list of parameters": (lambda document: document["groups"][0].pop("params"), r"KeyError: 'params'"),
    "parameters of other types": (_set("groups/0/params", [3]), "names of parameters that are not strings"),
    "a tensor of another shape": (_set("tensors/3.bias~step", [2]), r"3.bias/step: found \[\], expected \[2\]"),
    "a tensor that is not there": (_set("tensors/4.bias~step", []), r"4.bias/step: found None, expected \[\]"),
    "values that are no mapping": (_set("values", {"3.bias": 3}), "TypeError"),
    "a tuple that is none": (_set("groups/0/betas", {"$tuple": 3}), "TypeError"),
    "a reference that leads nowhere": (_set("extra", {"a": {"$tensor": "b"}}), "b: found no such tensor"),
}


@pytest.mark.parametrize("change, message", DAMAGED.values(), ids=DAMAGED)
def test_a_state_whose_two_files_are_no_pair_is_refused(change, message: str, tmp_path: Path):
    net = model()
    optimizer = optimizer_of(net, "adamw")
    step(net, optimizer, 0)
    write_state(tmp_path, capture(optimizer, net))
    path = tmp_path / "optimizer.json"
    document = json.loads(path.read_text().replace("3.bias/step", "3.bias~step"))
    change(document)
    path.write_text(json.dumps(document).replace("~", "/"))
    with pytest.raises(CheckpointError, match=rf"the state of the optimizer .* cannot be read \(.*{message}"):
        read_state(tmp_path)
    path.write_bytes(b'{"format": "\xc2"}')
    with pytest.raises(CheckpointError, match=r"optimizer.json: not JSON: not UTF-8 at byte 12"):
        read_state(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"), [("lr", "1"), ("betas", [0.9]), ("betas", 3), ("amsgrad", 1.0), ("eps", None)]
)
def test_options_of_other_types_are_refused_and_missing_ones_kept(key: str, value: object):
    net = model()
    optimizer = optimizer_of(net, "adamw")
    step(net, optimizer, 0)
    state = capture(optimizer, net)
    first, *others = state.groups
    with pytest.raises(
        CheckpointError, match=rf"here: option {key} of the optimizer: found .*, expected something like"
    ):
        restore(optimizer, net, replace(state, groups=[{**first, key: value}, *others]), where="here")
    lacking = {name: option for name, option in first.items() if name != key}
    restore(optimizer, net, replace(state, groups=[lacking, *others]), where="here")
    assert optimizer.param_groups[0].keys() >= {key}


def test_a_state_of_before_without_shapes_is_read(tmp_path: Path):
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    write_state(tmp_path, capture(optimizer, model))
    document = json.loads((tmp_path / "optimizer.json").read_text())
    del document["tensors"]
    (tmp_path / "optimizer.json").write_text(json.dumps(document))
    assert torch.equal(read_state(tmp_path).tensors["weight/exp_avg"], optimizer.state[model.weight]["exp_avg"])
