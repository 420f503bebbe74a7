"""Outputs appear whole or not at all, replace only what they may, and are ordinary timm folders."""

import json
import os
import re
import stat

import pytest
import timm
import torch
from safetensors import safe_open

from growtool.checkpoint import open_checkpoint, refuse_existing, write_file, write_folder
from growtool.errors import PlanError
from tests.support.plain_timm import in_plain_timm

MODEL = torch.nn.Module()
MODEL.num_features = 12


@pytest.fixture
def source(resnet_folder):
    return open_checkpoint(resnet_folder)


def copy(source, out, **changes):
    arguments = {"model": MODEL, "documents": {}, "metadata": {"seed": "0"}} | changes
    write_folder(out, source.spec, source.tensors, source.read, **arguments)


def write_one_file(source, out, **changes):
    arguments = {"model": MODEL, "metadata": {"seed": "0"}} | changes
    write_file(out, source.spec, source.tensors, source.read, **arguments)


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def fail(*_):
    raise RuntimeError("broken on purpose")


def test_timm_loads_the_folder_strictly_without_growtool(source, tmp_path):
    out = tmp_path / "out"
    copy(source, out)
    code = (
        "import sys, timm\n"
        f"model = timm.create_model('local-dir:{out}', pretrained=True)\n"
        "assert 'growtool' not in sys.modules\n"
        "print(sum(t.double().sum().item() for t in model.state_dict().values()))"
    )
    done = in_plain_timm(code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(sum(t.double().sum().item() for t in source.state_dict().values()))


def test_the_folder_is_the_one_timm_wrote(source, tmp_path):
    out = tmp_path / "out"
    copy(source, out)
    written = json.loads((out / "config.json").read_text())
    saved = json.loads((source.path.parent / "config.json").read_text())
    assert written == saved
    assert list(written) == list(saved)
    assert (out / "config.json").read_text().endswith("}\n")
    with safe_open(out / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "seed": "0"}


def test_equal_inputs_give_equal_bytes(source, tmp_path):
    for name in ("a", "b"):
        copy(source, tmp_path / name, documents={"README.md": "x\n"})
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_documents_may_depend_on_what_was_written(source, tmp_path):
    out = tmp_path / "out"

    def documents(folder):
        assert not out.exists()
        assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes == 5
        return {"growth.json": json.dumps({"sha256": open_checkpoint(folder).sha256()})}

    copy(source, out, documents=documents)
    assert json.loads((out / "growth.json").read_text())["sha256"] == open_checkpoint(out).sha256()
    assert listing(out) == ["config.json", "growth.json", "model.safetensors"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_modes_follow_the_umask(source, tmp_path, mask):
    before = os.umask(mask)
    try:
        copy(source, tmp_path / "out", documents={"README.md": "x\n"})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~mask
    for path in (tmp_path / "out").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("place", ["produce", "documents"])
def test_a_failure_leaves_nothing_behind(source, tmp_path, place):
    before = listing(tmp_path)
    out = tmp_path / "new" / "parents" / "out"
    produce = fail if place == "produce" else source.read
    with pytest.raises(RuntimeError, match="on purpose"):
        write_folder(out, source.spec, source.tensors, produce, model=MODEL, documents=fail, metadata={})
    assert listing(tmp_path) == before


def test_a_failure_leaves_the_older_output_as_it_was(source, tmp_path):
    out = tmp_path / "out"
    copy(source, out, documents={"growth.json": "old"})
    before = listing(tmp_path)
    with pytest.raises(RuntimeError, match="on purpose"):
        copy(source, out, documents=fail, force=True)
    assert (out / "growth.json").read_text() == "old"
    assert listing(tmp_path) == before


def test_missing_parents_are_made(source, tmp_path):
    copy(source, tmp_path / "a" / "b" / "out")
    assert listing(tmp_path / "a" / "b") == ["out"]


def test_force_replaces_a_checkpoint(source, tmp_path):
    out = tmp_path / "out"
    copy(source, out, documents={"growth.json": "old", "README.md": "old"})
    copy(source, out, documents={"growth.json": "new"}, force=True)
    assert (out / "growth.json").read_text() == "new"
    assert listing(out) == ["config.json", "growth.json", "model.safetensors"]
    assert listing(tmp_path) == ["out", "resnet"]


def test_force_through_a_link_keeps_the_link(source, tmp_path):
    out = tmp_path / "out"
    copy(source, out)
    (tmp_path / "link").symlink_to(out)
    copy(source, tmp_path / "link", documents={"README.md": "new"}, force=True)
    assert (tmp_path / "link").is_symlink()
    assert (out / "README.md").read_text() == "new"


def refusal(out, *, force):
    with pytest.raises(PlanError) as caught:
        refuse_existing(out, force=force)
    return str(caught.value)


def test_existing_outputs_are_refused(source, tmp_path):
    out, single = tmp_path / "out", tmp_path / "x.safetensors"
    out.mkdir()
    single.touch()
    for path in (out, single):
        expected = f"{path}: the output exists; choose another name, or replace it with --force"
        assert refusal(path, force=False) == expected
        refuse_existing(path, force=True)
    with pytest.raises(PlanError, match="the output exists"):
        copy(source, out)


def test_force_removes_nothing_but_checkpoints(source, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    for name in ("thesis.tex", "model.safetensors", "b", "c", "d", "e"):
        (home / name).touch()
    assert refusal(home, force=True) == (
        f"{home}: found b, c, d, e and 1 more, expected nothing but the files of a checkpoint (README.md, config.json, "
        "ema.safetensors, growth.json, growth.svg, model.safetensors, optimizer.json, optimizer.safetensors, "
        "plan.yaml, raw.safetensors, state.json, training.json); --force does not remove anything else, choose another "
        "output"
    )
    with pytest.raises(PlanError, match="found b, c, d, e and 1 more"):
        copy(source, home, force=True)
    assert len(listing(home)) == 6


def test_force_does_not_take_a_runs_records_for_a_checkpoint(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.jsonl").touch()
    assert "found metrics.jsonl, expected nothing but" in refusal(tmp_path / "out", force=True)


def test_force_does_not_take_a_folder_for_a_known_file(tmp_path):
    (tmp_path / "out" / "config.json").mkdir(parents=True)
    assert "found config.json, expected nothing but" in refusal(tmp_path / "out", force=True)


@pytest.mark.parametrize("force", [False, True])
def test_a_file_is_no_folder(tmp_path, force):
    (tmp_path / "out").touch()
    (tmp_path / "x.safetensors").mkdir()
    assert refusal(tmp_path / "out", force=force) == (
        f"{tmp_path / 'out'}: found a file, expected to write a folder there; choose another output"
    )
    assert refusal(tmp_path / "x.safetensors", force=force) == (
        f"{tmp_path / 'x.safetensors'}: found a folder, expected to write a file there; choose another output"
    )


def test_a_single_file_carries_its_spec(source, tmp_path):
    out = tmp_path / "deep" / "x.safetensors"
    checked = []
    write_one_file(source, out, check=checked.append)
    assert len(checked) == 1
    assert listing(out.parent) == ["x.safetensors"]
    written = open_checkpoint(out)
    assert written.spec == source.spec
    assert {"format": "pt", "seed": "0"}.items() <= written.metadata.items()
    assert all(torch.equal(written.read(name), source.read(name)) for name in source.tensors)


def test_a_single_file_that_fails_its_check_does_not_appear(source, tmp_path):
    out = tmp_path / "x.safetensors"
    out.write_text("old")
    with pytest.raises(RuntimeError, match="on purpose"):
        write_one_file(source, out, check=fail, force=True)
    assert out.read_text() == "old"
    assert listing(tmp_path) == ["resnet", "x.safetensors"]


def test_a_folder_that_cannot_be_renamed_brings_the_old_one_back(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    copy(source, out, documents={"growth.json": "old"})
    rename = type(out).rename

    def refuse_staged(self, target):
        if re.search(r"\.tmp$", self.name):
            raise OSError("broken on purpose")
        return rename(self, target)

    monkeypatch.setattr(type(out), "rename", refuse_staged)
    with pytest.raises(OSError, match="on purpose"):
        copy(source, out, documents={"growth.json": "new"}, force=True)
    assert (out / "growth.json").read_text() == "old"
    assert listing(tmp_path) == ["out", "resnet"]
