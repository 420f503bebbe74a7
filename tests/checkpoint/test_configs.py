"""What a checkpoint says it is: by its config.json, its metadata, or a plan; one message where that is wrong."""

import json
import sys

import pytest
import safetensors.torch
import torch

from growtool.checkpoint import ModelSpec, build, open_checkpoint
from growtool.checkpoint.documents import SPEC_KEY
from growtool.errors import CheckpointError
from tests.support.foreign import not_opened

CONFIGS = {
    "not JSON": ("{", "{path}:1:2: not JSON: Expecting property name enclosed in double quotes; restore the file"),
    "not text": (b"\xff{}", "{path}: not JSON: not UTF-8 at byte 0; restore the file"),
    "a list": ("[]", "{path}: found list, expected a JSON object as timm writes it"),
    "no architecture": ('{"a": 1}', "{path}: architecture: found None, expected the name of a timm model"),
    "empty": ("{}", "{path}: architecture: found None, expected the name of a timm model"),
    "half of a character": (
        '{"architecture": "\\ud800"}',
        "{path}: not JSON that can be read: 'utf-8' codec can't encode character '\\ud800' in position 18: surrogates "
        "not allowed; restore the file",
    ),
    "nested": ("[" * 100_000, "{path}: not JSON that can be read: nested too deeply; restore the file"),
    "how images are prepared": (
        json.dumps(
            {
                "architecture": "resnet18",
                "num_classes": "3",
                "pretrained_cfg": {
                    "mean": [[0.5, 0.5], 0.4, 0.4],
                    "std": 0,
                    "input_size": [3, 224],
                    "crop_pct": "1",
                    "interpolation": None,
                },
            }
        ),
        "{path}: pretrained_cfg: input_size: found [3, 224], expected three whole numbers from 1: channels, height, "
        "width; restore the file\n"
        "{path}: pretrained_cfg: mean: found [[0.5, 0.5], 0.4, 0.4], expected a number, or one for each channel; "
        "restore the file\n"
        "{path}: pretrained_cfg: std: found 0, expected a number above 0, or one for each channel; restore the file\n"
        "{path}: pretrained_cfg: crop_pct: found '1', expected a number from 0.01 to 100; restore the file\n"
        "{path}: num_classes: found '3', expected a whole number from 0; restore the file",
    ),
    "several": (
        '{"architecture": 3, "model_args": []}',
        "{path}: architecture: found 3, expected the name of a timm model\n"
        "{path}: model_args: found list, expected a mapping",
    ),
}


@pytest.mark.parametrize("content, message", CONFIGS.values(), ids=CONFIGS.keys())
def test_bad_config(resnet_folder, content, message):
    path = resnet_folder / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert not_opened(resnet_folder) == message.replace("{path}", str(path))


def test_lone_file_without_architecture(resnet_folder):
    (resnet_folder / "config.json").unlink()
    path = resnet_folder / "model.safetensors"
    assert not_opened(path) == (
        f"{path}: no architecture: found neither a config.json beside it nor a spec in its metadata, expected one; "
        "put the config.json that was saved with it beside it"
    )
    assert not_opened(path, remedy="name it").endswith("expected one; name it")
    checkpoint = open_checkpoint(path, architecture="resnet18", model_args={"num_classes": 5})
    assert checkpoint.spec == ModelSpec("resnet18", {"num_classes": 5})


def test_plan_and_config_of_different_minds(resnet_folder):
    assert not_opened(resnet_folder, architecture="resnet34") == (
        f"{resnet_folder / 'config.json'}: architecture: found 'resnet18', the plan says model: 'resnet34'; "
        "drop `model` from the plan or name the matching checkpoint"
    )
    assert open_checkpoint(resnet_folder, architecture="resnet18").spec.architecture == "resnet18"


def test_spec_in_the_metadata_comes_before_a_config_beside(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"a": torch.ones(1)}, path, metadata={SPEC_KEY: '{"architecture": "resnet34"}'})
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    assert open_checkpoint(path).spec.architecture == "resnet34"
    safetensors.torch.save_file({"a": torch.ones(1)}, path, metadata={SPEC_KEY: "{}"})
    assert not_opened(path) == (
        f"{path}: metadata {SPEC_KEY}: architecture: found None, expected the name of a timm model"
    )


def test_unknown_architecture():
    with pytest.raises(CheckpointError) as caught:
        build(ModelSpec("resnet81"), where="plan.yaml")
    assert str(caught.value) == (
        "plan.yaml: architecture: found 'resnet81', expected a name of timm's registry; "
        "did you mean resnet18, resnet61q, resnet51q? --plugin FILE.py registers a model of your own"
    )


def test_arguments_the_constructor_refuses():
    with pytest.raises(CheckpointError) as caught:
        build(ModelSpec("vit_tiny_patch16_224", {"embed_dimm": 64}), where="folder")
    said = "VisionTransformer.__init__() got an unexpected keyword argument 'embed_dimm'"
    guess = ". Did you mean 'embed_dim'?" if sys.version_info >= (3, 13) else ""  # Python's own
    assert str(caught.value) == (
        f"folder: timm cannot build vit_tiny_patch16_224 with embed_dimm=64: TypeError: {said}{guess}; check "
        "model_args against the constructor of vit_tiny_patch16_224"
    )
