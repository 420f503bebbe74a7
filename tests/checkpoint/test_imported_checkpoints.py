"""What training leaves behind, imported: state dicts in pickles of many shapes, and shards.

Every line that a message gives to copy is run here, on a file of the kind that makes it appear.
"""

import argparse
import json
import pathlib
import sys
import types

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from growtool.checkpoint import CONFIG, WEIGHTS, open_checkpoint
from growtool.checkpoint.foreign.importing import import_checkpoint
from growtool.checkpoint.foreign.torch_file import read_state_dict
from growtool.checkpoint.match import matched
from growtool.errors import CheckpointError
from tests.support.foreign import assert_same, by_timm, folder_of, lines_of
from tests.support.models import TINY, write_folder

STATE = timm.create_model("resnet18", **TINY["resnet"].args).state_dict()


OTHER = {name: value + 1 for name, value in STATE.items()}


WRAPPED = {
    "train.py": {
        "epoch": 3, "arch": "resnet18", "state_dict": OTHER, "state_dict_ema": STATE, "version": 2, "metric": 71.2,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"params": [0]}]},
        "args": argparse.Namespace(lr=0.1, data_dir=pathlib.Path("/data")),
    },
    "no average": {"state_dict": STATE, "state_dict_ema": None},
    "DeiT": {"model": OTHER, "model_ema": STATE, "scaler": {"scale": 1.0}},
    "averaged": {"model_ema": {"n_averaged": torch.tensor(3), **{f"module.{n}": v for n, v in STATE.items()}}},
    "model_state_dict": {"model_state_dict": STATE, "best": np.float64(3), "count": np.int64(2)},
    "net": {"net": {f"module.{name}": value for name, value in STATE.items()}, "acc": torch.tensor(1.0)},
    "Lightning": {"state_dict": {f"model.{name}": value for name, value in STATE.items()}, "loops": {}},
    "DINO": {
        "student": {f"module.backbone.{name}": value for name, value in OTHER.items()},
        "teacher": {**{f"backbone.{name}": v for name, v in STATE.items()}, "head.mlp.weight": torch.ones(2, 2)},
    },
    "nested": {"checkpoint": {"model": {}}, "state_dict": {"model": STATE}},
    "another key": {"my_weights": STATE, "epoch": 3},
    "with a number": {**STATE, "version": 3},
    "bare": STATE,
}  # fmt: skip


@pytest.mark.parametrize("content", WRAPPED.values(), ids=WRAPPED.keys())
@pytest.mark.parametrize("way", ["lines", "import", "lines without config"])
def test_training_checkpoints_are_unwrapped(tmp_path, content, way):
    source = write_folder(TINY["resnet"], tmp_path / "run", dtype=torch.float32)
    (source / WEIGHTS).unlink()
    path = source / "pytorch_model.bin"
    torch.save(content, path)
    out = tmp_path / "out"
    if way == "import":
        import_checkpoint(path, out, model=None, model_args={})
    else:
        if way == "lines without config":
            (source / CONFIG).rename(source / "kept.json")
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(source)
        torch.serialization.clear_safe_globals()
        exec("\n".join(lines_of(str(caught.value))), {})
        if way == "lines without config":
            (source / "kept.json").rename(source / CONFIG)
        torch.serialization.clear_safe_globals()
        out = source
    if way == "lines without config" and "teacher" in content:  # without a model none can say what the rest is for
        with pytest.raises(CheckpointError, match=r"the model's names stand after 'backbone\."):
            matched(open_checkpoint(out))
        return
    found = matched(open_checkpoint(out))
    assert all(torch.equal(found.read(name), value) for name, value in STATE.items())
    assert_same(by_timm(out), open_checkpoint(out))


@pytest.mark.parametrize("home", ["pathlib", "pathlib._local"])  # the second: Python 3.13
@pytest.mark.parametrize("name", ["PosixPath", "WindowsPath"])
def test_paths_of_other_systems_and_versions_of_python(tmp_path, monkeypatch, home, name):
    path_type = type(name, (), {"__module__": home, "__reduce__": lambda self: (type(self), ("/", "data"))})
    module = types.ModuleType(home)
    setattr(module, name, path_type)
    source = write_folder(TINY["resnet"], tmp_path / "run", dtype=torch.float32)
    (source / WEIGHTS).unlink()
    path = source / "pytorch_model.bin"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, home, module)
        torch.save({"state_dict": STATE, "args": argparse.Namespace(data_dir=path_type())}, path)
    import_checkpoint(path, tmp_path / "out", model=None, model_args={})
    assert_same(by_timm(tmp_path / "out"), open_checkpoint(tmp_path / "out"))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(source)
    torch.serialization.clear_safe_globals()
    exec("\n".join(lines_of(str(caught.value))), {})
    torch.serialization.clear_safe_globals()
    assert_same(by_timm(source), open_checkpoint(source))


def test_the_command_tells_what_it_took(growtool, tmp_path):
    path = tmp_path / "last.pth.tar"
    said = argparse.Namespace(mean=[0.1, 0.2, 0.3], std=None, lr=0.1)
    torch.save({**WRAPPED["train.py"], "args": said}, path)
    code, _, err = growtool("import", path, "-o", tmp_path / "out")
    assert code == 1 and "its `arch` is resnet18: --model resnet18" in err
    arguments = [word for key, value in TINY["resnet"].args.items() for word in ("--model-args", f"{key}={value}")]
    code, _, err = growtool("import", path, "--model", "resnet18", "-o", tmp_path / "out")
    assert code == 1 and "wrong shape" in err and not (tmp_path / "out").exists()
    code, out, err = growtool("import", path, "--model", "resnet18", *arguments, "-o", tmp_path / "out")
    assert code == 0, err
    assert f"taken: state_dict_ema of {path}\nnot taken: state_dict\n" in out
    assert by_timm(tmp_path / "out").pretrained_cfg["mean"] == [0.1, 0.2, 0.3]
    code, out, err = growtool("import", path, "--model", "resnet18", *arguments, "-o", tmp_path / "one.safetensors",
                              "--json")  # fmt: skip
    assert code == 0 and json.loads(out)["keys"] == ["state_dict_ema"], err
    assert torch.equal(open_checkpoint(tmp_path / "one.safetensors").read("fc.bias"), STATE["fc.bias"])


@pytest.mark.parametrize(("name", "value"), [("fc.bias", float("nan")), ("bn1.running_var", float("inf"))])
def test_numbers_that_are_not_finite_are_not_imported(tmp_path, name, value):
    source = folder_of("resnet", tmp_path / "source", lambda state: state | {name: state[name] * value})
    with pytest.raises(CheckpointError, match=rf"{name} holds {value}, expected finite numbers"):
        import_checkpoint(source, tmp_path / "out", model=None, model_args={})
    assert not (tmp_path / "out").exists()


def test_shards_are_imported_by_their_index(tmp_path):
    source = folder_of("resnet", tmp_path / "source")
    state = load_file(source / WEIGHTS)
    (source / WEIGHTS).unlink()
    parts = {"one.safetensors": sorted(state)[:9], "two.safetensors": sorted(state)[9:]}
    for file, names in parts.items():
        save_file({name: state[name] for name in names}, source / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (source / "x.safetensors.index.json").write_text(json.dumps(index))
    import_checkpoint(source, tmp_path / "out", model=None, model_args={})
    found = matched(open_checkpoint(tmp_path / "out"))
    assert all(torch.equal(found.read(name), value) for name, value in state.items())


class Code:
    """Something that takes code to unpickle."""


def test_code_is_never_run(tmp_path):
    torch.save({"state_dict": STATE, "config": Code()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"it holds .*Code; growtool runs no code of a file"):
        read_state_dict(tmp_path / "x.pth")
    torch.save({"a": STATE, "b": OTHER}, tmp_path / "y.pth")
    with pytest.raises(CheckpointError, match="found several state dicts, under a, b"):
        read_state_dict(tmp_path / "y.pth")
