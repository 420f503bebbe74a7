"""What a user typed: a path, a repository of the hub, or a name that timm knows."""

from pathlib import Path

import pytest
import torch

from growtool.errors import CheckpointError
from growtool.finetune.config import RunConfig
from growtool.finetune.prepare import prepare
from growtool.hub.names import Name, named
from growtool.plan.load import checkpoint_in

IN_HUB = {
    "hf-hub:timm/resnet50.a1_in1k": ("timm/resnet50.a1_in1k", None),
    "hf-hub:org/name@v1.0": ("org/name", "v1.0"),
    "hf_hub:org/name@refs/pr/1": ("org/name", "refs/pr/1"),
    "hf-hub:gpt2": ("gpt2", None),
    "hf-hub:folder/inside": ("folder/inside", None),  # the prefix leaves no doubt
    "org/name": ("org/name", None),
    "timm/resnet50.a1_in1k": ("timm/resnet50.a1_in1k", None),
    "org/name.with.dots@0123abc": ("org/name.with.dots", "0123abc"),
    "timm/beit3_base_patch16_224.pt": ("timm/beit3_base_patch16_224.pt", None),
}
KNOWN = {
    "resnet50": None,
    "resnet50.a1_in1k": None,
    "vit_small_patch16_224.augreg_in21k@main": "main",
    "resnet50.no_such_tag": None,  # timm knows what it is a tag of
    "beit3_base_patch16_224.pt": None,  # a tag, not the ending of a file
}
PATHS = [
    "resnet18",  # a folder of this name is there
    "folder/inside",
    "folder/missing",  # in a folder that is there
    "./resnet50",
    "../org/name",
    "/org/name",
    "~/resnet50",
    "local-dir:org/name",
    "org/name.safetensors",
    "resnet50.safetensors",
    "model_best.pth.tar",
    "resnet50.pt",
    "org/resnet50.pth",
    "a/b/c",
    "neither_path_nor_name",
    "org/",
    "",
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    for folder in ("resnet18", "folder/inside"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("text", "expected"), IN_HUB.items(), ids=str)
def test_an_address_of_the_hub(place, text, expected):
    name = named(text)
    assert name is not None and name.in_hub and (name.word, name.revision) == expected
    assert (name.address.repository, name.address.revision) == expected and name.text == text


@pytest.mark.parametrize(("text", "revision"), KNOWN.items(), ids=str)
def test_a_name_of_a_library(place, text, revision):
    assert named(text) == Name(text, text.partition("@")[0], revision, in_hub=False)


@pytest.mark.parametrize("text", PATHS)
def test_what_is_a_path_stays_one(place, text):
    assert named(text) is None


def test_paths_start_where_the_file_stands_that_names_them(place):
    assert named("inside", place / "folder") is None and named("resnet18", place / "folder") is not None
    assert named("folder/missing", place / "elsewhere") is not None
    assert named(str(Path("resnet18")), place) is None


@pytest.mark.parametrize("text", PATHS)
def test_what_a_file_calls_a_path_is_none_where_it_is_opened_either(place, text):
    assert named(checkpoint_in(text, Path())) is None


@pytest.mark.parametrize("text", [*IN_HUB, *KNOWN])
def test_a_name_in_a_file_stays_as_it_was_typed(place, text):
    assert checkpoint_in(text, Path()) == text


def test_a_training_takes_a_path_that_is_missing_for_no_name(place):
    with pytest.raises(CheckpointError, match=r"^\./resnet50: no such file or folder"):
        prepare(RunConfig(checkpoint="./resnet50", data=place, output=place / "run"), torch.device("cpu"))
