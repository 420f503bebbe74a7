"""Checkpoints that timm itself would change: refused with lines that make a folder of what it loads.

Every line that a message gives to copy is run here, on a file of the kind that makes it appear.
"""

import io

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from growtool.checkpoint import CONFIG, WEIGHTS, open_checkpoint
from growtool.checkpoint.foreign.importing import import_checkpoint
from growtool.checkpoint.match import matched
from growtool.cli import console as console_module
from growtool.errors import CheckpointError
from tests.support.foreign import assert_same, by_timm, edited, folder_of, lines_of, refused
from tests.support.models import TINY

CHANGED = {
    "prefix": (
        "resnet", lambda s: {f"backbone.{name}": v for name, v in s.items()}, lambda c: None,
        "the model's names stand after 'backbone.' in the file. timm takes it without them",
    ),
    "prefix among others": (
        "resnet",
        lambda s: {**{f"module.model.{name}": v for name, v in s.items()}, "loss.weight": torch.ones(2)},
        lambda c: None,
        "the model's names stand after 'module.model.' in the file. timm takes it without them",
    ),
    "other classes": (
        "resnet", lambda s: s, lambda c: c.update(num_classes=5) or c["model_args"].update(num_classes=7),
        "starts anew, with numbers of its own, fc.weight, fc.bias",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "config", "told"), CHANGED.values(), ids=CHANGED.keys())
@pytest.mark.parametrize("way", ["lines", "import"])
def test_what_timm_changes_is_told_with_what_makes_a_folder_of_it(tmp_path, kind, change, config, told, way):
    source = edited(folder_of(kind, tmp_path / "it's", change), config)
    message = refused(source)
    assert told in message
    out = tmp_path / "it's-loaded"
    if way == "lines":
        exec("\n".join(lines_of(message)), {})
    elif told.startswith("starts anew"):
        with pytest.raises(CheckpointError, match=r"not take the tensors as those of .* with .*num_classes=7"):
            import_checkpoint(source, out, model=None, model_args={})
        return
    else:
        import_checkpoint(source, out, model=None, model_args={})
    loaded = by_timm(out)
    assert_same(loaded, open_checkpoint(out))


def test_the_lines_for_a_lone_file_name_its_model(tmp_path):
    source = folder_of("resnet", tmp_path / "source", lambda s: {f"backbone.{name}": v for name, v in s.items()})
    (source / CONFIG).unlink()
    (lone := source / WEIGHTS).rename(lone := tmp_path / "lone.safetensors")
    message = refused(lone, architecture="resnet18", model_args=TINY["resnet"].args)
    assert f"`growtool import {lone} --model NAME -o FOLDER`" in message
    exec("\n".join(lines_of(message)), {})
    found = matched(open_checkpoint(tmp_path / "lone-loaded"))
    expected = {name.removeprefix("backbone."): value for name, value in load_file(lone).items()}
    assert all(torch.equal(found.read(name), value) for name, value in expected.items())


def test_timm_is_not_asked_to_build_a_model_of_many_times_the_numbers(tmp_path, monkeypatch):
    def widen(config):
        config["model_args"]["channels"] = [4, 8, 8, 12_000]

    folder = edited(folder_of("resnet", tmp_path / "model"), widen)
    monkeypatch.setattr("growtool.library.timm.loading.load", lambda *_: pytest.fail("timm was asked"))
    assert "config.json that does not match the weights?" in refused(folder)


def test_a_model_that_timm_does_not_load_either_is_told_to_be_another(tmp_path):
    source = edited(folder_of("resnet", tmp_path / "source"), lambda c: c["model_args"].update(channels=[4, 8, 8, 16]))
    message = refused(source)
    assert message.endswith("correct its architecture and model_args") and not lines_of(message)


def test_a_model_that_timm_would_save_under_another_name_is_imported(tmp_path):
    source = folder_of("resnet", tmp_path / "source", lambda s: {f"net.{name}": v for name, v in s.items()})
    edited(source, lambda c: c.update(architecture="growtool_open", model_args={"base": "resnet18", **c["model_args"]}))
    message = refused(source)
    assert message.endswith(f"`growtool import {source} -o FOLDER` makes a folder of what timm loads")
    assert not lines_of(message)
    import_checkpoint(source, tmp_path / "out", model=None, model_args={})
    assert_same(by_timm(tmp_path / "out"), open_checkpoint(tmp_path / "out"))


def test_a_terminal_shows_lines_of_code_whole(monkeypatch):
    shown = Console(width=30, force_terminal=True, file=io.StringIO(), color_system=None)
    monkeypatch.setattr(console_module, "console", lambda: shown)
    code = "  import torch; from safetensors.torch import save_file"
    console_module.print_problems((f"x: a long text that has to be broken somewhere:\n{code}",))
    lines = shown.file.getvalue().splitlines()
    assert code in lines and len(lines) > 2
