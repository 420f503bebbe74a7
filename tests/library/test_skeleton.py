"""Skeletons cost no memory for weights, keep their buffers, and leave the world's random numbers alone."""

import pytest
import timm
import torch
from torch.nn.modules import module

from growtool.errors import CheckpointError
from growtool.library import ModelSpec, build, building
from growtool.library.timm import input_size
from growtool.library.timm.config import read_config, written_config
from growtool.library.timm.loading import count_classes

MODELS = [
    ModelSpec("resnet18", {"channels": [4, 8, 8, 12], "in_chans": 1}),
    ModelSpec("swin_tiny_patch4_window7_224", {"embed_dim": 24}),  # its bias tables follow the device of a parameter
    ModelSpec("eva02_tiny_patch14_224", {"embed_dim": 48, "depth": 1, "num_heads": 2}),  # rotary tables
    ModelSpec("mobilenetv3_small_050"),
]


@pytest.mark.parametrize("spec", MODELS, ids=lambda spec: spec.architecture)
def test_skeleton_is_timms_model_without_its_weights(spec):
    before = torch.random.get_rng_state()
    model = build(spec)
    assert torch.random.get_rng_state().equal(before)
    assert not module._global_parameter_registration_hooks
    whole = timm.create_model(spec.architecture, **spec.model_args)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert {n: (p.shape, p.dtype) for n, p in model.named_parameters()} == {
        n: (p.shape, p.dtype) for n, p in whole.named_parameters()
    }
    buffers = dict(model.named_buffers())
    assert buffers.keys() == dict(whole.named_buffers()).keys()
    assert all(buffers[name].equal(buffer) for name, buffer in whole.named_buffers())
    assert not model.training


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (MODELS[0], (1, 224, 224)),
        (ModelSpec("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 4, "depth": 1}), (3, 32, 32)),
        (ModelSpec("resnet18", {}, {"input_size": [3, 64, 48], "first_conv": "conv1"}), (3, 64, 48)),
    ],
)
def test_input_size(spec, size):
    assert input_size(build(spec)) == size


def test_spec_survives_its_own_config():
    config = {
        "architecture": "resnet18", "num_classes": 10, "num_features": 12, "global_pool": "avg",
        "model_args": {"num_classes": 10, "global_pool": "avg", "channels": [4, 8, 8, 12]},
        "pretrained_cfg": {"input_size": [3, 32, 32]}, "label_names": ["a", "b"], "growtool": {"lineage": []},
    }  # fmt: skip
    spec = read_config(config, where="config.json")
    assert written_config(spec, 12) == config
    assert list(written_config(spec, 12)) == list(config)
    assert (count_classes(spec), spec.label_names) == (10, ("a", "b"))


def test_arguments_timm_keeps_at_the_top_count():
    spec = read_config({"architecture": "resnet18", "num_classes": 7}, where="config.json")
    assert spec.model_args == {"num_classes": 7}
    assert spec.with_args(depth=2).model_args == {"num_classes": 7, "depth": 2}
    assert count_classes(ModelSpec("x", {}, {"num_classes": 4})) == 4
    assert count_classes(ModelSpec("x")) is None


@pytest.mark.parametrize(
    ("argument", "remedy"),
    [("cache_dir", r"the entry point of resnet18 has to take `\*\*kwargs`"), ("depth", r"check model_args against")],
)
def test_what_timm_hands_over_is_not_blamed_on_the_arguments(monkeypatch, argument, remedy):
    def refuses(*_, **__):
        raise TypeError(f"net() got an unexpected keyword argument '{argument}'")

    monkeypatch.setattr("timm.models.model_entrypoint", lambda name: refuses)
    with pytest.raises(CheckpointError, match=remedy):
        build(ModelSpec("resnet18", {"depth": 3}))


def test_a_mistyped_number_of_blocks_is_refused_instead_of_built(monkeypatch):
    monkeypatch.setattr(building, "MOST_PARAMETERS", 500)
    with pytest.raises(CheckpointError, match=r"found more than 500 tensors, expected a number of blocks"):
        build(ModelSpec("resnet18", {"layers": [1, 1, 2**63, 1], "channels": [4, 8, 8, 12]}))
    assert build(ModelSpec("resnet18", {"layers": [1, 1, 2, 1], "channels": [4, 8, 8, 12]}))


def test_an_argument_that_is_null_is_handed_on_as_timm_does_for_a_folder():
    """`timm.create_model` drops such an argument of its own, and keeps one that a config.json holds."""
    with pytest.raises(CheckpointError, match=r"check model_args against the constructor of resnet18"):
        build(ModelSpec("resnet18", {"channels": [4, 8, 8, 12], "in_chans": None}))
    model = build(
        ModelSpec("vit_tiny_patch16_224", {"depth": 1, "embed_dim": 12, "class_token": None, "global_pool": "avg"})
    )
    assert model.cls_token is None
