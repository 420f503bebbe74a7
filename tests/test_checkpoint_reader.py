"""Bad files: one message that says where, what was found, what was expected and what to do."""

import json
import re
import struct
import zipfile

import pytest
import safetensors.torch
import torch

from growtool.checkpoint import ModelSpec, build, open_checkpoint, read_header
from growtool.checkpoint.reader import SPEC_KEY
from growtool.errors import CheckpointError

AGAIN = "copy or download the file again"


def framed(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = safetensors.torch.save({"a": torch.ones(2, 3), "b": torch.ones(4)}, metadata={"format": "pt"})
HEADER = 8 + struct.unpack("<Q", GOOD[:8])[0]
PICKLE = (
    "not a safetensors file: found a PyTorch pickle, expected safetensors; growtool never unpickles; convert it with "
    "`safetensors.torch.save_file` where you trust the file"
)
BAD = {
    "empty": (b"", f"the file is empty, expected safetensors data; {AGAIN}"),
    "a few bytes": (
        b"abc",
        "not a safetensors file: found the bytes b'abc', expected a length and a JSON header; "
        "convert the file to safetensors",
    ),
    "foreign": (
        b"\x89PNG\r\n\x1a\n and so on",
        r"not a safetensors file: found the bytes b'\x89PNG\r\n\x1a\n', expected a length and a JSON header; "
        "convert the file to safetensors",
    ),
    "pickle": (b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s.", PICKLE),
    "truncated in the header": (
        GOOD[: HEADER - 9],
        f"truncated: found {HEADER - 9} bytes, expected a header of {HEADER - 8}; {AGAIN}",
    ),
    "truncated in the data": (GOOD[:-1], f"truncated: found {len(GOOD) - 1} bytes, expected {len(GOOD)}; {AGAIN}"),
    "trailing bytes": (GOOD + b"\0\0", f"trailing bytes: found {len(GOOD) + 2} bytes, expected {len(GOOD)}; {AGAIN}"),
    "absurd header": (
        struct.pack("<Q", 2**62) + b'{"a":1}',
        f"damaged: found a header of {2**62} bytes, expected at most 100000000; {AGAIN}",
    ),
    "header not JSON": (
        framed(b'{"a": '),
        f"damaged safetensors header (JSONDecodeError: Expecting value: line 1 column 7 (char 6)); {AGAIN}",
    ),
    "header without shape": (
        framed({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)),
        f"damaged safetensors header (KeyError: 'shape'); {AGAIN}",
    ),
    "unknown type": (
        framed({"a": entry(0, 4, [8], "F4")}, bytes(4)),
        "found the element types F4, expected U64, I64, F64, C64, F32, U32, I32, BF16, F16, U16, I16, F8_E4M3, "
        "F8_E5M2, I8, U8, BOOL; convert the tensors to one of these",
    ),
    "overlap": (
        framed({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)),
        f"b: overlaps the tensor before it: found offset 4, expected 8; {AGAIN}",
    ),
    "hole": (
        framed({"a": entry(0, 8, [2]), "b": entry(12, 20, [2])}, bytes(20)),
        f"b: leaves a hole before it: found offset 12, expected 8; {AGAIN}",
    ),
    "offsets against the shape": (
        framed({"a": entry(0, 8, [3])}, bytes(8)),
        f"a: found 8 bytes for [3] of F32, expected 12; {AGAIN}",
    ),
    "negative shape": (
        framed({"a": entry(0, 8, [-1, -2])}, bytes(8)),
        f"a: found 8 bytes for [-1, -2] of F32, expected a shape without negative sizes; {AGAIN}",
    ),
    "offsets out of range": (
        framed({"a": entry(0, 4000, [1000])}, bytes(8)),
        f"truncated: found 83 bytes, expected 4075; {AGAIN}",
    ),
}


@pytest.mark.parametrize("content, message", BAD.values(), ids=BAD.keys())
def test_bad_file(tmp_path, content, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert caught.value.problems == (f"{path}: {message}",)


def test_every_damaged_tensor_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(framed({"a": entry(0, 8, [3]), "b": entry(8, 16, [1])}, bytes(16)))
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert [problem.split(": ")[1] for problem in caught.value.problems] == ["a", "b"]


def test_a_pickle_under_any_name(tmp_path):
    renamed = tmp_path / "renamed.safetensors"
    torch.save({"a": torch.ones(2)}, renamed)
    assert zipfile.is_zipfile(renamed)
    for path in (renamed, renamed.rename(tmp_path / "model.pth")):
        if not path.exists():
            torch.save({"a": torch.ones(2)}, path)
        with pytest.raises(CheckpointError, match=re.escape(f"{path}: {PICKLE}")):
            open_checkpoint(path)


def refused(source, **kwargs):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(source, **kwargs)
    return "\n".join(caught.value.problems)


def test_nothing_there(tmp_path):
    missing = tmp_path / "missing"
    assert refused(missing) == f"{missing}: no such file or folder; expected a .safetensors file or a timm folder"


def test_folder_without_weights(tmp_path):
    advice = "expected a timm folder; write one with `timm.models.save_for_hf(model, folder, safe_serialization=True)`"
    assert refused(tmp_path) == f"{tmp_path}: no model.safetensors: found nothing, {advice}"
    (tmp_path / "pytorch_model.bin").touch()
    assert refused(tmp_path) == f"{tmp_path}: no model.safetensors: found pytorch_model.bin, {advice}"


def test_sharded_folder(tmp_path):
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    assert refused(tmp_path) == (
        f"{tmp_path}: found a sharded checkpoint, expected one model.safetensors; timm cannot load shards, "
        "merge them first"
    )


CONFIGS = {
    "not JSON": ("{", "{path}:1:2: not JSON: Expecting property name enclosed in double quotes; restore the file"),
    "not text": (b"\xff{}", "{path}: not JSON: not UTF-8 at byte 0; restore the file"),
    "a list": ("[]", "{path}: found list, expected a JSON object as timm writes it"),
    "no architecture": ('{"a": 1}', "{path}: architecture: found None, expected the name of a timm model"),
    "empty": ("{}", "{path}: architecture: found None, expected the name of a timm model"),
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
    assert refused(resnet_folder) == message.replace("{path}", str(path))


def test_lone_file_without_architecture(resnet_folder):
    (resnet_folder / "config.json").unlink()
    path = resnet_folder / "model.safetensors"
    assert refused(path) == (
        f"{path}: no architecture: found neither a config.json beside it nor a spec in its metadata, expected one; "
        "name the timm model with `model:` (and `model_args:`) in the plan"
    )
    checkpoint = open_checkpoint(path, architecture="resnet18", model_args={"num_classes": 5})
    assert checkpoint.spec == ModelSpec("resnet18", {"num_classes": 5})


def test_plan_and_config_of_different_minds(resnet_folder):
    assert refused(resnet_folder, architecture="resnet34") == (
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
    assert refused(path) == (
        f"{path}: metadata {SPEC_KEY}: architecture: found None, expected the name of a timm model"
    )


def test_unknown_architecture():
    with pytest.raises(CheckpointError) as caught:
        build(ModelSpec("resnet81"), where="plan.yaml")
    assert str(caught.value) == (
        "plan.yaml: architecture: found 'resnet81', expected a name of timm's registry; "
        "did you mean resnet18, resnet61q, resnet51q?"
    )


def test_arguments_the_constructor_refuses():
    with pytest.raises(CheckpointError) as caught:
        build(ModelSpec("vit_tiny_patch16_224", {"embed_dimm": 64}), where="folder")
    assert str(caught.value) == (
        "folder: timm cannot build vit_tiny_patch16_224 with {'embed_dimm': 64}: TypeError: "
        "VisionTransformer.__init__() got an unexpected keyword argument 'embed_dimm'; check model_args against the "
        "constructor of vit_tiny_patch16_224"
    )


def test_folder_file_and_prefix_name_the_same_checkpoint(resnet_folder):
    opened = [
        open_checkpoint(source)
        for source in (resnet_folder, f"local-dir:{resnet_folder}", resnet_folder / "model.safetensors")
    ]
    assert len({(c.name, c.sha256()) for c in opened}) == 1
    assert opened[0].spec.model_args["channels"] == [4, 8, 8, 12]


def test_values_are_those_timm_saved(resnet_folder):
    expected = safetensors.torch.load_file(resnet_folder / "model.safetensors")
    found = open_checkpoint(resnet_folder).state_dict()
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)
