"""Checkpoints as others leave them, and what is said of those that are refused."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from growtool.checkpoint import CONFIG, WEIGHTS, open_checkpoint
from growtool.checkpoint.match import matched
from growtool.errors import CheckpointError
from tests.support.models import TINY, write_folder


def folder_of(kind, folder, change=lambda state: state):
    """A timm folder in float32 whose state dict `change` has changed."""
    write_folder(TINY[kind], folder, dtype=torch.float32)
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, {"format": "pt"})
    return folder


def edited(folder, change):
    """The folder with another config."""
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def by_timm(folder):
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def lines_of(message):
    """The lines that a message gives to copy: nothing else in it is indented."""
    return [line[2:] for line in message.splitlines() if line.startswith("  ")]


def refused(source, **told):
    """What is said of a checkpoint whose tensors are not its model's."""
    return problems_of(lambda: matched(open_checkpoint(source, **told)))


def not_opened(source, **told):
    """What is said of a checkpoint that is not even opened."""
    return problems_of(lambda: open_checkpoint(source, **told))


def problems_of(act):
    with pytest.raises(CheckpointError) as caught:
        act()
    return "\n".join(caught.value.problems)


def assert_same(model, checkpoint):
    """Every tensor of the model is the checkpoint's."""
    found = matched(checkpoint).state_dict()
    state = model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name].to(tensor.dtype), tensor) for name, tensor in state.items())
