"""Bad files: one message that says where, what was found, what was expected and what to do."""

import json
import shutil
import struct
import zipfile

import pytest
import safetensors.torch
import torch

from growtool.checkpoint import open_checkpoint, read_header
from growtool.errors import CheckpointError
from tests.support.foreign import lines_of, not_opened
from tests.support.models import TINY, write_folder

AGAIN = "copy or download the file again"


def framed(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = safetensors.torch.save({"a": torch.ones(2, 3), "b": torch.ones(4)}, metadata={"format": "pt"})


HEADER = 8 + struct.unpack("<Q", GOOD[:8])[0]


PICKLE = (
    "not a safetensors file: found a PyTorch pickle, expected safetensors; torch does not load it with weights_only "
    "(RuntimeError: Invalid magic number; corrupt file?); copy or download the file again, or save "
    "`model.state_dict()` alone where it was made"
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
    "a type that is no string": (
        framed({"a": {**entry(0, 4, [1]), "dtype": {}}}, bytes(4)),
        "damaged safetensors header (TypeError: a: found dtype {} and shape [1], expected a string and a list); "
        f"{AGAIN}",
    ),
    "a shape of fractions": (
        framed({"a": entry(0, 4, [1.5])}, bytes(4)),
        f"damaged safetensors header (TypeError: a: found shape [1.5] and offsets [0, 4], expected whole numbers); "
        f"{AGAIN}",
    ),
    "half a character": (
        framed(b'{"\\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', bytes(4)),
        "damaged safetensors header (UnicodeEncodeError: 'utf-8' codec can't encode character '\\ud800' in position 0: "
        f"surrogates not allowed); {AGAIN}",
    ),
    "nested without end": (
        framed(b'{"a":' + b"[" * 100_000),
        f"damaged safetensors header (nested too deeply); {AGAIN}",
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


@pytest.mark.parametrize(
    ("name", "converted"),
    [
        ("renamed.safetensors", "renamed-converted.safetensors"),
        ("model.pth", "model.safetensors"),
        ("pytorch_model.bin", "model.safetensors"),
        ("last.pth.tar", "last.safetensors"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickle_under_any_name_is_converted_by_the_lines_shown(tmp_path, name, converted, wrapped):
    path, state = tmp_path / name, {"a": torch.ones(2, 3).T}
    torch.save({"epoch": 3, "state_dict": state} if wrapped else state, path)
    assert zipfile.is_zipfile(path)
    message = not_opened(path)
    loading = f"state = torch.load('{path}', map_location='cpu', weights_only=True)"
    if path.suffix == ".safetensors":
        loading = loading.replace(f"'{path}'", "file").replace("state", f"with open('{path}', 'rb') as file: state", 1)
    assert message == (
        f"{path}: not a safetensors file: found a PyTorch pickle, expected safetensors; `growtool import {path} "
        "--model NAME -o FOLDER` makes a folder of it, without running code of the file; or convert it"
        f"{', the state dict under ' + repr('state_dict') if wrapped else ''}:\n"
        "  import torch; from safetensors.torch import save_file\n"
        f"  {loading}\n" + ("  state = state['state_dict']\n" if wrapped else "") +
        "  save_file({name: value.clone().contiguous() for name, value in state.items()}, "
        f"'{tmp_path / converted}', {{'format': 'pt'}})"
    )  # fmt: skip
    exec("\n".join(lines_of(message)), {})
    assert open_checkpoint(tmp_path / converted, architecture="x").read("a").equal(state["a"])


def test_nothing_there(tmp_path):
    missing = tmp_path / "missing"
    assert not_opened(missing) == (
        f"{missing}: no such file or folder; expected a .safetensors file or a folder of timm or transformers"
    )


def test_the_folder_of_a_run_is_told_from_its_checkpoints(tmp_path, resnet_folder):
    run = tmp_path / "run"
    run.mkdir()
    resnet_folder.rename(run / "best")
    assert not_opened(run) == (
        f"{run}: found the run of a training, expected one of its checkpoints; name {run / 'best'}"
    )
    shutil.copytree(run / "best", run / "last")
    assert not_opened(run).endswith(f"name {run / 'best'} or {run / 'last'}")


def test_folder_without_weights(tmp_path):
    advice = (
        "expected a folder of timm or transformers; write one with `timm.models.save_for_hf(model, folder, "
        "safe_serialization=True)`, or `save_pretrained` of transformers"
    )
    (tmp_path / "notes.txt").touch()
    assert not_opened(tmp_path) == f"{tmp_path}: no model.safetensors: found no weights at all, {advice}"
    (tmp_path / "model.onnx").touch()
    assert not_opened(tmp_path) == f"{tmp_path}: no model.safetensors: found model.onnx, {advice}"
    (tmp_path / "pytorch_model.bin").touch()
    assert not_opened(tmp_path) == (
        f"{tmp_path}: no model.safetensors: found model.onnx, pytorch_model.bin, expected a folder of timm or "
        "transformers; "
        f"{tmp_path / 'pytorch_model.bin'} is a PyTorch pickle: torch does not load it with weights_only (EOFError); "
        "copy or download the file again, or save `model.state_dict()` alone where it was made"
    )


def write_shards(tmp_path, stem):
    """`a` of ones and `b` of twos, each in a file, and an index, which is returned with the files."""
    files = [f"{stem}.{letter}.safetensors" for letter in "xy"]
    for number, (name, file) in enumerate(zip("ab", files, strict=True), 1):
        # what the index gives to another shard does not count
        part = {name: torch.full((2,), float(number)), "a" if name == "b" else "c": torch.zeros(2)}
        safetensors.torch.save_file(part, tmp_path / file)
    index = tmp_path / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip("ab", files, strict=True))}))
    safetensors.torch.save_file({"a": torch.full((2,), 9.0)}, tmp_path / "model-00001-of-00001.safetensors")
    return index, files


@pytest.mark.parametrize("named", ["folder", "index"])
def test_shards_are_read_by_their_index(tmp_path, named):
    index, _ = write_shards(tmp_path, "model")
    found = open_checkpoint({"folder": tmp_path, "index": index}[named], architecture="x")
    assert found.read("a").tolist() == [1, 1]
    assert found.read("b").tolist() == [2, 2]
    assert found.name == str(tmp_path)


OTHERS = [(stem, named) for stem in ("pytorch_model", "any other name") for named in ("folder", "index", "shard")]


@pytest.mark.parametrize("stem, named", [*OTHERS, ("model", "shard")])
def test_other_shards_are_merged_by_their_index(tmp_path, stem, named):
    index, files = write_shards(tmp_path, stem)
    source = {"folder": tmp_path, "index": index, "shard": tmp_path / files[0]}[named]
    message = not_opened(source)
    assert message.startswith(
        f"{source}: found a sharded checkpoint, expected one model.safetensors, or shards with "
        "model.safetensors.index.json in a folder; merge them first:\n  import json; from pathlib import Path; "
    )
    exec("\n".join(lines_of(message)), {})
    merged = open_checkpoint(tmp_path, architecture="x")
    assert set(merged.tensors) == {"a", "b"} and merged.read("a").tolist() == [1, 1]
    assert merged.read("b").tolist() == [2, 2]


def test_shards_of_torch_are_merged_by_their_index(tmp_path):
    for number, name in enumerate("ab"):
        torch.save({name: torch.full((2,), float(number))}, tmp_path / f"pytorch_model-{number}.bin")
    index = {"weight_map": {"a": "pytorch_model-0.bin", "b": "pytorch_model-1.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    exec("\n".join(lines_of(not_opened(tmp_path))), {})
    assert open_checkpoint(tmp_path, architecture="x").read("b").tolist() == [1, 1]


def test_an_index_without_its_shards_is_told(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    assert not_opened(tmp_path) == (
        f"{index}: lists 1 shards, and 1 of them are not beside it (model-1.safetensors); copy or download them, too"
    )
    index.write_text("[]")
    assert not_opened(tmp_path) == (
        f"{index}: found no map from tensors to shards, expected one; copy or download it again"
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


@pytest.mark.parametrize(("folder", "label"), [("small", "small"), ("run/last", "run-last"), ("run/best", "run-best")])
def test_a_checkpoint_of_a_run_is_labelled_by_the_run(tmp_path, folder, label):
    assert open_checkpoint(write_folder(TINY["vit"], tmp_path / folder)).label == label


@pytest.mark.parametrize("padding", [0, 1])
def test_a_large_tensor_stands_on_the_pages_of_the_file(tmp_path, padding, monkeypatch):
    """Writing to it leaves the file as it is; where its numbers stand askew, as no library writes them, it is read."""
    monkeypatch.setattr("growtool.checkpoint.reader.MAPPED", 8)
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    info = {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 60]}
    header = json.dumps({"x": info}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8 + padding)
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + values.numpy().tobytes())
    checkpoint = open_checkpoint(path, architecture="resnet18")
    assert torch.equal(checkpoint.read_stored("x", 1, mapped=True), values[1])
    found = checkpoint.read("x")
    assert torch.equal(found, values)
    found.zero_()
    assert torch.equal(checkpoint.read("x"), values)
    kept = checkpoint.state_dict()["x"]
    path.write_bytes(b"")
    assert torch.equal(kept, values)


@pytest.mark.parametrize("mapped", [False, True])
def test_a_file_that_is_cut_short_between_two_reads_is_told(tmp_path, mapped, monkeypatch):
    """The numbers that are no longer there would else be zeros."""
    monkeypatch.setattr("growtool.checkpoint.reader.MAPPED", 8)
    path = tmp_path / "x.safetensors"
    path.write_bytes(GOOD)
    checkpoint = open_checkpoint(path, architecture="resnet18")
    assert torch.equal(checkpoint.read_stored("b"), torch.ones(4))
    path.write_bytes(GOOD[:-8])
    with pytest.raises(OSError, match="became shorter") as caught:
        checkpoint.read_stored("b", mapped=mapped)
    assert caught.value.filename == str(path)
