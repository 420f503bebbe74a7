"""The command line: what it prints where, its exit codes, and that bad input ends in one message and no traceback."""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from growtool.cli import app as cli
from growtool.cli.command import global_options_first
from growtool.cli.console import note
from growtool.cli.tables import show_figures
from growtool.finetune.stopping import Stopped, StopRequest
from growtool.report.page import TableText
from tests.support.models import TINY, random_images, write_folder


@pytest.fixture
def other_folder(resnet_folder, tmp_path):
    """The ResNet with another bias of its classifier."""
    folder = tmp_path / "other"
    shutil.copytree(resnet_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["fc.bias"] += torch.arange(5.0)
    save_file(weights, folder / "model.safetensors")
    return folder


def test_module_and_version():
    run = subprocess.run([sys.executable, "-m", "growtool", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == f"growtool {version('growtool')}\n"
    assert run.stderr == ""


def test_debug_and_quiet_may_stand_anywhere_before_two_dashes():
    assert global_options_first(["inspect", "x", "--debug", "-q"]) == ["--debug", "-q", "inspect", "x"]
    assert global_options_first(["inspect", "--", "--debug"]) == ["inspect", "--", "--debug"]


def test_brackets_of_notes_and_of_cells_are_printed_as_they_are(capsys):
    note("pip install 'growtool[plot]'")
    show_figures(TableText(("run", "top-1"), (("first[a]", "80 %"), ("[/second]", "81 %"))))
    out, err = capsys.readouterr()
    assert err == "pip install 'growtool[plot]'\n"
    assert "first[a]" in out and "[/second]" in out


def test_an_interrupt_exits_as_shells_expect(growtool, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("growtool.checkpoint.open_checkpoint", interrupted)
    assert growtool("inspect", "x") == (130, "", "interrupted\n")


@pytest.mark.parametrize(("rank", "told"), [("0", True), ("1", False)])
def test_a_stop_is_told_by_the_first_process_of_a_distributed_run_alone(growtool, monkeypatch, rank, told):
    def stop(*args: object, **kwargs: object) -> None:
        raise Stopped(4, "run/checkpoints/step-4", StopRequest(), line="growtool finetune --resume auto")

    monkeypatch.setattr(cli, "app", stop)
    monkeypatch.setenv("RANK", rank)
    code, out, err = growtool("inspect", "x")
    assert (code, out) == (143, "") and ("stopped after update 4" in err) == told


def test_permission_denied_names_file_and_remedy(growtool, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied", "secret.safetensors")

    monkeypatch.setattr("growtool.checkpoint.open_checkpoint", denied)
    code, _, err = growtool("inspect", "x")
    assert code == 1
    assert err == "error: secret.safetensors: Permission denied; check the permissions or choose another place\n"


@pytest.mark.parametrize("how", ["first", "last", "variable"])
def test_debug_shows_the_traceback(monkeypatch, tmp_path, how):
    words = ["inspect", str(tmp_path / "no")]
    words = {"first": ["--debug", *words], "last": [*words, "--debug"], "variable": words}[how]
    monkeypatch.setattr(sys, "argv", ["growtool", *words])
    if how == "variable":
        monkeypatch.setenv("GROWTOOL_DEBUG", "1")
    with pytest.raises(ValueError, match="no such file or folder"):
        cli.main()


def test_each_problem_is_a_block_of_its_own_with_its_brackets_intact(growtool, resnet_folder, tmp_path):
    code, _, err = growtool(
        "inspect", resnet_folder / "model.safetensors", "--model-args", "[red]x", "--model-args", "y"
    )
    assert code == 1
    assert err == (
        "error: --model-args [red]x: expected KEY=VALUE, such as depth=4 or channels=[24,48]\n"
        "error: --model-args y: expected KEY=VALUE, such as depth=4 or channels=[24,48]\n"
    )


def _missing(folder: Path) -> None:
    shutil.rmtree(folder)


def _empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def _pickle(folder: Path) -> None:
    torch.save({"fc.weight": torch.zeros(1)}, folder / "model.safetensors")


def _truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _other_config(folder: Path) -> None:
    _edit_config(folder, model_args={"layers": [1, 1, 1, 1], "channels": [4, 8, 8, 16]})


def _unknown_architecture(folder: Path) -> None:
    _edit_config(folder, architecture="resnet19")


def _edit_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


BAD_INPUT = {
    _missing: r"bad: no such file or folder; expected a \.safetensors file or a folder of timm or transformers",
    _empty: r"bad/model\.safetensors: the file is empty, expected safetensors data; ",
    _pickle: r"bad/model\.safetensors: not a safetensors file: found a PyTorch pickle, .*`growtool import ",
    _truncated: r"bad/model\.safetensors: truncated: found \d+ bytes, expected \d+; ",
    _other_config: r"bad: the weights are not those of resnet18.*\n- wrong shape \(\d+\): .*\n(.*\n)*a config\.json",
    _unknown_architecture: r"architecture: found 'resnet19', expected a name of timm's registry; did you mean .*",
}


@pytest.mark.parametrize("command", ["inspect", "verify"])
@pytest.mark.parametrize("damage", BAD_INPUT, ids=lambda damage: damage.__name__.strip("_"))
def test_bad_input_is_one_message_and_no_traceback(growtool, resnet_folder, tmp_path, command, damage):
    bad = tmp_path / "bad"
    shutil.copytree(resnet_folder, bad)
    damage(bad)
    code, out, err = growtool(command, resnet_folder, bad)
    assert (code, out) == (1, "")
    assert re.match(f"error: .*{BAD_INPUT[damage]}", err), err
    assert err.count("error:") == 1
    assert "Traceback" not in err


def test_a_lone_file_needs_its_model_and_takes_it_from_the_options(growtool, resnet_folder, tmp_path):
    lone = tmp_path / "lone.safetensors"
    shutil.copy(resnet_folder / "model.safetensors", lone)
    code, _, err = growtool("inspect", lone)
    assert code == 1
    assert err.startswith(f"error: {lone}: no architecture: ")
    assert err.endswith("name the timm model with --model (and --model-args)\n")
    code, _, err = growtool("inspect", lone, "--model", "resnet34")
    assert code == 1
    assert err.endswith(
        "is it another model? Correct what was given for it as --model and --model-args, or as `model` "
        "and `model_args` in the plan\n"
    )
    options = ["--model", "resnet18", "--model-args", "layers=[1,1,1,1]", "--model-args", "channels=[4,8,8,12]"]
    code, out, _ = growtool("verify", lone, resnet_folder, *options, "--model-args", "num_classes=5", "--inputs", 1)
    assert (code, "same function" in out) == (0, True)
    code, _, err = growtool("inspect", resnet_folder, *options)
    assert code == 1
    assert (
        err == "error: --model resnet18: found a config for every checkpoint, expected a lone file; drop the option\n"
    )
    code, _, err = growtool("inspect", lone, "--model-args", "depth=3")
    assert code == 1
    assert err == "error: --model-args: found without --model, expected both; name the timm model with --model\n"


def test_a_lone_file_grows_as_the_model_that_the_options_name(growtool, resnet_folder, tmp_path):
    lone = tmp_path / "lone.safetensors"
    shutil.copy(resnet_folder / "model.safetensors", lone)
    code, _, err = growtool("grow", lone, "--depth", 2, "--dry-run")
    assert (code, err.endswith("in the plan, or to `growtool grow` with --model\n")) == (1, True)
    options = ["--model", "resnet18", "--model-args", "layers=[1,1,1,1]", "--model-args", "channels=[4,8,8,12]"]
    options += ["--model-args", "num_classes=5"]
    code, out, _ = growtool("grow", lone, "--width", 2, *options, "-o", tmp_path / "wide")
    assert (code, "promise: exact" in out) == (0, True)
    plan = yaml.safe_load((tmp_path / "wide" / "plan.yaml").read_text())
    assert (plan["model"], plan["model_args"]["channels"]) == ("resnet18", [4, 8, 8, 12])
    code, _, _ = growtool("verify", lone, tmp_path / "wide", *options)
    assert code == 0
    code, _, err = growtool("grow", resnet_folder, "--width", 2, "--model", "resnet34", "--dry-run")
    assert (code, "architecture: found 'resnet18', the plan says model: 'resnet34'" in err) == (1, True)


def test_inspect_prints_numbers_for_people_on_stdout(growtool, resnet_folder):
    code, out, err = growtool("inspect", resnet_folder)
    assert (code, err) == (0, "")
    for expected in (r"parameters +16,\d{3} \(16\.\d k\)", r"MACs +\d", r"FLOPs +\d", r"layer4 +Sequential +2,328 "):
        assert re.search(expected, out), expected


def test_inspect_prints_one_json_document_on_stdout(growtool, resnet_folder, other_folder):
    code, out, err = growtool("inspect", resnet_folder, other_folder, "--json", "--coupling", "--depth", 2)
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["ratios"] == {"parameters": 1, "bytes": 1, "macs": 1, "flops": 1}
    for checkpoint in document["checkpoints"]:
        assert checkpoint["flops"] == 2 * checkpoint["macs"] > 0
        assert {"layer1", "layer1.0", "fc"} <= {row["name"] for row in checkpoint["modules"]}
        group = next(
            g
            for g in checkpoint["coupling"]["groups"]
            if {"tensor": "fc.weight", "dim": 1, "role": "consumer"} in g["members"]
        )
        assert (group["size"], group["fixed"]) == (12, None)


def test_inspect_shows_two_side_by_side(growtool, resnet_folder, other_folder):
    _, out, _ = growtool("inspect", resnet_folder, other_folder, "--depth", 1)
    assert re.search(r"^ +resnet +other +ratio *$", out, re.MULTILINE)
    assert re.search(r"parameters +16,\d{3} .* 1x", out)


def test_inspect_shows_groups_and_why_others_are_fixed(growtool, resnet_folder):
    _, out, _ = growtool("inspect", resnet_folder, "--coupling", "--depth", 0)
    assert re.search(r"^ hidden channels +12 +1 +layer4\.0", out, re.MULTILINE)
    assert re.search(r"the model's output +1 +5", out)


def test_inspect_shows_whatever_the_lineage_holds(growtool, resnet_folder):
    step = {"source": "small [v1]", "operators": ["tile"], "verified": {"relative_difference": 1e-7}}
    _edit_config(resnet_folder, growtool={"lineage": [step]})
    _, out, _ = growtool("inspect", resnet_folder, "--depth", 0)
    assert re.search(r"grown, step 1 of 1", out)
    assert re.search(r"source +small \[v1\]", out)
    assert re.search(r"verified +relative_difference: 1e-07", out)


def test_verify_exits_by_its_tolerance(growtool, resnet_folder, other_folder):
    code, out, err = growtool("verify", resnet_folder, resnet_folder, "--inputs", 2)
    assert (code, err) == (0, "")
    assert "logits on 2 random inputs: relative difference 0.00e+00, 100.00% decided alike" in out
    assert "same function (tolerance 1e-05 in float32)" in out
    code, out, _ = growtool("verify", resnet_folder, other_folder, "--inputs", 2, "--dtype", "float64")
    assert code == 1
    assert "different functions (tolerance 1e-05 in float64)" in out  # the files hold float32
    assert growtool("verify", resnet_folder, other_folder, "--inputs", 2, "--tolerance", 100)[0] == 0


def test_verify_prints_one_json_document_on_stdout(growtool, resnet_folder, other_folder):
    code, out, err = growtool("verify", resnet_folder, other_folder, "--inputs", 2, "--json", "--seed", 3)
    assert (code, err) == (1, "")
    document = json.loads(out)
    assert (document["agree"], document["tolerance"], document["random_inputs"]["count"]) == (False, 1e-5, 2)
    assert document["random_inputs"]["max_abs"] == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("parent", ["", "validation"])
def test_verify_names_the_images_that_change_class(growtool, resnet_folder, other_folder, tmp_path, parent):
    for i, pixels in enumerate(random_images((40, 40, 3), 5)):
        folder = tmp_path / "images" / parent / f"class_{i}"
        folder.mkdir(parents=True)
        Image.fromarray((pixels.clamp(-2, 2) * 60 + 128).byte().numpy()).save(folder / "image.png")
    arguments = "verify", resnet_folder, other_folder, "--data", tmp_path / "images", "--inputs", 1
    code, out, _ = growtool(*arguments, "--json")
    images = json.loads(out)["images"]
    assert (code, images["logits"]["count"]) == (1, 5)
    assert [change["label"] for change in images["changed"]] == sorted(change["label"] for change in images["changed"])
    _, out, _ = growtool(*arguments)
    assert f"; {len(images['changed'])} of 5 decisions changed" in out
    for change in images["changed"]:
        assert f"{change['file']}: class {change['label']}, decided {change['source']} and {change['target']}" in out


def test_verify_refuses_other_classes(growtool, resnet_folder, tmp_path):
    (tmp_path / "images" / "only").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "only" / "image.png")
    code, _, err = growtool("verify", resnet_folder, resnet_folder, "--data", tmp_path / "images", "--inputs", 1)
    assert code == 1
    assert re.match(r"error: .*images: found 1 class folders \(only\), expected 5", err)


def test_operators_have_a_readable_row_each_on_a_narrow_terminal(growtool, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = growtool("list", "operators")
    assert re.search(r"^operator +axis +sizes +same function +what it does *$", out, re.MULTILINE)
    for name, axis in (("tile", "width"), ("variance_transfer", "width"), ("net2deeper", "depth")):
        assert re.search(rf"^{name} +{axis} +\S", out, re.MULTILINE)


@pytest.mark.parametrize(("bank", "cosine"), [("raw", ""), ("svd", " as the bank holds them")])
def test_banks_keep_their_headers_whole_on_a_narrow_terminal(growtool, monkeypatch, tmp_path, bank, cosine):
    monkeypatch.setenv("COLUMNS", "80")
    source = write_folder(TINY["vit"], tmp_path / "source")
    code, out, _ = growtool("decompose", source, "--bank", bank)
    assert code == 0
    assert re.search(r"bank +layers +templ\. +spectrum +cosine +cond\. +error +in span +stored", out)
    assert f"cosine: mean between layers{cosine}; in span: how much" in " ".join(out.split())


def test_operators_are_listed_with_their_promise(growtool):
    _, out, _ = growtool("list", "operators")
    for name in ("tile", "net2net", "mixture", "stack", "interleave", "zero_out"):
        assert re.search(rf"^{name} +(width|depth) ", out, re.MULTILINE)
    _, out, _ = growtool("list", "operators", "--json")
    assert all({"name", "axis", "summary", "promise", "source"} <= set(info) for info in json.loads(out)["operators"])


def test_families_are_timms(growtool):
    _, out, _ = growtool("list", "families", "--json")
    families = json.loads(out)["families"]
    assert families["vision_transformer"]["models"] > 50
    _, out, _ = growtool("list", "families")
    assert re.search(r"^resnet +\d+ ", out, re.MULTILINE)
    assert f"{sum(found['models'] for found in families.values())} models in {len(families)} families" in out


def test_the_real_checkpoints_are_inspected_and_verified(growtool, shared):
    for folder in sorted((shared / "checkpoints").glob("*_s0")):
        assert growtool("inspect", folder)[0] == 0
        assert growtool("verify", folder, folder, "--inputs", 1)[0] == 0
