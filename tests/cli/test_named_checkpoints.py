"""Commands on checkpoints that are named: the same as on folders, in this process and as a user runs them."""

import json
import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import pyte
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from growtool.checkpoint import CONFIG, WEIGHTS
from tests.support.finetune import UNCLOSED_IMAGES, write_checkpoint, write_data
from tests.support.hub_server import TOKEN, Hub, serving
from tests.support.models import TINY, randomise_, write_folder

pytestmark = UNCLOSED_IMAGES
NAME = "test_resnet.r160_in1k"
TILE = "target: {model_args: {channels: [8, 16, 16, 24]}}\nwidth: {operator: tile}\n"
TRAINED = ["--batch-size", 8, "--workers", 0, "--device", "cpu", "--steps", 1]


@pytest.fixture
def tiny(hub, tmp_path, monkeypatch):
    """A repository `me/tiny`; its folder, beside images and a plan, is where commands run."""
    place = tmp_path / "place"
    write_checkpoint(place / "small")
    write_data(place / "data")
    (place / "tile.yaml").write_text(TILE)
    hub.add("me/tiny", place / "small")
    monkeypatch.chdir(place)
    return place


WORDS = {
    "inspect": ["inspect", "me/tiny"],
    "inspect two": ["inspect", "small", "me/tiny"],
    "advise": ["advise", "me/tiny", "--budget", "2x-macs"],
    "dry run": ["grow", "me/tiny", "tile.yaml", "--dry-run"],
    "grow": ["grow", "me/tiny@main", "tile.yaml", "-o", "out"],
    "verify": ["verify", "hf-hub:me/tiny", "small"],
    "verify with it": ["verify", "small", "me/tiny"],
    "evaluate": ["evaluate", "me/tiny", "--data", "data", "--workers", 0],
    "decompose": ["decompose", "me/tiny", "-o", "templates"],
    "finetune": ["finetune", "me/tiny", "--data", "data", *TRAINED, "-o", "run"],
    "teacher": ["finetune", "small", "--data", "data", *TRAINED, "--kd-teacher", "me/tiny", "-o", "run"],
    "set teacher": ["finetune", "small", "--data", "data", *TRAINED, "--set", "kd_teacher=me/tiny", "-o", "run"],
}
HEADER_ALONE = {"inspect", "inspect two", "advise", "dry run"}


@pytest.mark.parametrize(("what", "words"), WORDS.items(), ids=WORDS.keys())
def test_every_command_takes_a_name(hub, tiny, growtool, what, words):
    code, _, err = growtool(*words)
    assert code == 0, err
    assert len(hub.downloads()) == (what not in HEADER_ALONE)


def test_a_name_prints_what_a_folder_does(hub, tiny, growtool):
    def document(name):
        code, out, err = growtool("inspect", name, "--json")
        assert code == 0, err
        (found,) = json.loads(out)["checkpoints"]
        return found

    named, local = document("me/tiny"), document("small")
    assert (named.pop("repository"), local.pop("repository")) == ("me/tiny", None)
    assert (named.pop("commit"), local.pop("commit")) == (hub.repos["me/tiny"].refs["main"], None)
    assert (named.pop("name"), local.pop("name")) == ("me/tiny", "small") and named == local


def test_templates_in_the_hub_are_exported(hub, tiny, growtool):
    assert growtool("decompose", "small", "-o", "templates")[0] == 0
    hub.add("me/templates", tiny / "templates")
    code, _, err = growtool("export", "me/templates", "-o", "dense")
    assert code == 0, err
    assert torch.equal(load_file("dense/model.safetensors")["fc.bias"], load_file("small/model.safetensors")["fc.bias"])


def test_a_plan_names_its_second_source(hub, tiny, growtool):
    (tiny / "two.yaml").write_text(
        "target: {scale: 2}\nwidth: {operator: two_source}\nsecond: me/tiny@main\nallow_lossy: true\n"
    )
    code, _, err = growtool("grow", "small", "two.yaml", "--dry-run")
    assert code == 0 and hub.downloads() == [], err
    code, _, err = growtool("grow", "small", "two.yaml", "-o", "out")
    assert code == 0 and len(hub.downloads()) == 1, err
    assert "second: me/tiny@main" in (tiny / "out/plan.yaml").read_text()
    (tiny / "inner").mkdir()
    (tiny / "two.yaml").rename(tiny / "inner/two.yaml")  # a name is none of the folder's paths
    assert growtool("grow", "small", "inner/two.yaml", "-o", "again")[0] == 0


def test_a_second_source_that_timm_renames_is_taken_as_timm_takes_it(hub, tiny, growtool):
    folder = write_folder(TINY["swin"], tiny / "swin", dtype=torch.float32)
    state = load_file(folder / WEIGHTS)
    old = {name.replace("head.fc.", "head."): value for name, value in state.items()}
    save_file({n.replace("layers.1.downsample", "layers.0.downsample"): v for n, v in old.items()}, tiny / "old")
    hub.add("me/old", {CONFIG: (folder / CONFIG).read_bytes(), WEIGHTS: (tiny / "old").read_bytes()})
    plan = "target: {scale: 2}\nwidth: {operator: two_source}\nallow_lossy: true\nsecond: "
    written = []
    for number, second in enumerate(("swin", "me/old")):
        (tiny / "two.yaml").write_text(f"{plan}{second}\n")
        code, _, err = growtool("grow", "swin", "two.yaml", "-o", f"out{number}")
        assert code == 0, err
        written.append((tiny / f"out{number}" / WEIGHTS).read_bytes())
    one, other = (load_file(tiny / f"out{number}" / WEIGHTS) for number in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_schedule_and_a_run_start_from_a_name(hub, tiny, growtool):
    (tiny / "schedule.yaml").write_text(
        "checkpoint: me/tiny\n"
        "train: {data: data, lr: 1e-2, batch_size: 8, workers: 0, device: cpu}\n"
        "stages:\n  - grow: tile.yaml\n  - train: {steps: 1, kd_teacher: hf-hub:me/tiny}\n"
    )
    code, _, err = growtool("schedule", "schedule.yaml", "-o", "stages")
    assert code == 0, err
    (tiny / "run.yaml").write_text(
        "checkpoint: me/tiny@main\ndata: data\nworkers: 0\ndevice: cpu\nsteps: 1\nbatch_size: 8\n"
    )
    code, _, err = growtool("finetune", "--config", "run.yaml")
    assert code == 0 and (tiny / "tiny-finetuned/best" / WEIGHTS).is_file(), err
    assert "checkpoint: me/tiny@main\n" in (tiny / "tiny-finetuned/config.yaml").read_text()
    code, _, err = growtool("finetune", "-o", "tiny-finetuned", "--resume", "auto")
    assert code == 0, err
    assert len(hub.downloads()) == 1


@pytest.mark.slow
def test_a_comparison_starts_from_a_name(hub, tiny, growtool):
    words = ["compare", "me/tiny", "--plan", "tile.yaml", "--data", "data", "--budget", "1steps", "-o", "compared"]
    options = ["--baseline", "source", "--source-epochs", 1, "--set", "batch_size=8", "--set", "workers=0"]
    code, _, err = growtool(*words, *options, "--device", "cpu")
    assert code == 0, err


def test_growth_says_where_it_comes_from_and_how_it_is_published(hub, tiny, growtool, monkeypatch):
    commit = hub.repos["me/tiny"].refs["main"]
    code, out, err = growtool("grow", "me/tiny", "tile.yaml")
    assert code == 0 and "written: tiny-grown\n" in out, err
    report = json.loads((tiny / "tiny-grown/growth.json").read_text())
    assert report["source"] == {"name": "tiny", "repository": "me/tiny", "commit": commit, "architecture": "resnet18"}
    (step,) = json.loads((tiny / "tiny-grown" / CONFIG).read_text())["growtool"]["lineage"]
    assert (step["source_repository"], step["source_commit"]) == ("me/tiny", commit)
    card = (tiny / "tiny-grown/README.md").read_text()
    assert "\nbase_model: me/tiny\n" in card and f"grown from `me/tiny` at commit `{commit}` with growtool" in card
    (line,) = (line.removeprefix("publish it: ") for line in err.splitlines() if line.startswith("publish it: "))
    assert line == "hf upload YOUR-NAME/tiny-grown tiny-grown"
    assert "publish it" not in growtool("grow", "small", "tile.yaml")[2]
    # offline the command comes as far as the hub, once it has understood its words
    assert "offline mode is enabled" in published(line, tiny)
    code, _, err = growtool("grow", "me/tiny", "tile.yaml", "-o", "one file.safetensors")
    (line,) = (line.removeprefix("publish it: ") for line in err.splitlines() if line.startswith("publish it: "))
    assert line == "hf upload 'YOUR-NAME/one file' 'one file.safetensors' model.safetensors"


def published(line: str, folder: Path) -> str:
    program, *words = shlex.split(line)
    found = subprocess.run(
        [Path(sys.executable).with_name(program), *words],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    return found.stderr


MISTAKES = {
    "a typing error": ("width: {operator: tiel}", "did you mean 'tile'?"),
    "a smaller target": ("target: {model_args: {channels: [8, 16, 16, 2]}}", "growth never shrinks"),
    "no whole factor": (
        "target: {model_args: {channels: [7, 16, 16, 24]}}\nwidth: {operator: tile}",
        "whole multiples",
    ),
    "a loss by accident": (
        "target: {scale: 2}\nwidth: {operator: two_source}\nsecond: small",
        "or consent to the loss",
    ),
}


@pytest.mark.parametrize(("plan", "told"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_plan_that_cannot_be_is_refused_before_the_weights_come(hub, tiny, growtool, plan, told):
    (tiny / "plan.yaml").write_text(plan)
    code, _, err = growtool("grow", "me/tiny", "plan.yaml", "-o", "out")
    assert code == 1 and told in err and hub.downloads() == [], err


def test_what_timm_changes_while_loading_is_told(hub, tiny, growtool):
    folder = write_folder(TINY["resnet"], tiny / "offset", dtype=torch.float32)
    state = load_file(folder / WEIGHTS)
    save_file({**state, "fc.bias": torch.cat([state["fc.bias"][:1], state["fc.bias"]]),
               "fc.weight": torch.cat([state["fc.weight"][:1], state["fc.weight"]])}, folder / WEIGHTS)  # fmt: skip
    config = json.loads((folder / CONFIG).read_text())
    config["pretrained_cfg"]["label_offset"] = 1
    (folder / CONFIG).write_text(json.dumps(config))
    hub.add("me/offset", folder)
    code, out, err = growtool("grow", "me/offset", "--width", 2, "-o", "out")
    assert code == 0 and "  timm resamples or cuts fc.weight from [6, 12] to [5, 12]" in out, err
    assert "changed_while_loading" in (tiny / "out/growth.json").read_text()


def test_a_name_of_timm_is_counted_without_the_hub(hub, growtool):
    code, out, err = growtool("inspect", "resnet50")
    assert code == 0 and "25,557,032" in out and err == ""
    assert "timm/resnet50.a1_in1k, weights not fetched: counted as the library builds them" in out
    assert hub.asked == []


def test_a_gated_checkpoint_is_one_message_and_opens_with_a_token(hub, tiny, growtool, monkeypatch):
    hub.add("me/gated", tiny / "small", gated=True)
    code, out, err = growtool("evaluate", "me/gated", "--data", "data")
    assert (code, out) == (1, "") and err.startswith("error: me/gated: found a gated repository")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert growtool("inspect", "me/gated")[0] == 0


# As a user runs them: in a process of its own, which reads the environment


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A hub with the weights of `NAME`."""
    folder = tmp_path_factory.mktemp("served")
    model = randomise_(timm.create_model(NAME))
    save_for_hf(model, folder / "model", safe_serialization=True)
    with serving() as hub:
        hub.add(f"timm/{NAME}", folder / "model")
        yield hub


def environment(hub: Hub, folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, **hub.environment(folder / "cache"), **more}


def piped(hub: Hub, folder: Path, *words: object, **more: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command with each in a pipe."""
    found = subprocess.run(
        [sys.executable, "-m", "growtool", *map(str, words)],
        cwd=folder,
        env=environment(hub, folder, **more),
        capture_output=True,
        text=True,
    )
    return found.returncode, found.stdout, found.stderr


def shown(hub: Hub, folder: Path, *words: object) -> tuple[int, str, list[str]]:
    """Exit code, all that was written and the lines left on a terminal."""
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "growtool", *map(str, words)],
        cwd=folder,
        env=environment(hub, folder, TERM="xterm-256color", COLUMNS="120"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    raw = bytearray()
    try:
        while block := os.read(master, 65536):
            raw += block
    except OSError:  # the last one to write has gone
        pass
    os.close(master)
    screen = pyte.Screen(120, 200)
    pyte.Stream(screen).feed(raw.decode())
    return child.wait(), raw.decode(), [line.rstrip() for line in screen.display if line.strip()]


def test_in_a_pipe_a_download_is_one_line_and_the_cache_serves_it_offline(served, tmp_path):
    code, out, err = piped(served, tmp_path, "grow", NAME, "--width", 2, "-o", "grown")
    size = (tmp_path / "cache").rglob(WEIGHTS)
    assert code == 0 and [path.stat().st_size for path in size] == [1_895_056], err
    assert err.splitlines() == [
        f"fetching {WEIGHTS} of timm/{NAME} (1.81 MiB)",
        "growing",
        "verifying on 2 random images",
        'load it: timm.create_model("local-dir:grown", pretrained=True)',
        "publish it: hf upload YOUR-NAME/grown grown",
    ]
    asked = len(served.asked)
    words = ["verify", f"hf-hub:timm/{NAME}", "grown"]
    code, out, err = piped(served, tmp_path, *words, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert (code, err) == (0, "") and "same function" in out
    assert len(served.asked) == asked


def test_on_a_terminal_a_download_is_a_bar_that_goes_again(served, tmp_path):
    code, raw, lines = shown(served, tmp_path, "verify", NAME, f"timm/{NAME}")
    assert code == 0 and f"fetching {WEIGHTS} of timm/{NAME} (1.81 MiB)" in raw and "━" in raw
    assert [line.split()[0] for line in lines] == ["logits", "same"]
    assert "Downloading" not in raw and "it/s" not in raw, "a bar of the hub's own"


def test_a_mistake_is_told_without_a_traceback(served, tmp_path):
    code, out, err = piped(served, tmp_path, "inspect", "me/model", HF_ENDPOINT="http://127.0.0.1:9")
    assert (code, out) == (1, "") and err.startswith("error: me/model: found no answer from http://127.0.0.1:9 (")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["inspect", "verify", "advise", "grow", "decompose", "evaluate", "compare"])
def test_a_dot_says_that_a_folder_is_meant(tmp_path, monkeypatch, growtool, command):
    """`./resnet18` is no model of timm, be there such a folder or not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tile.yaml").write_text(TILE)
    more = {
        "verify": ["./resnet18"],
        "advise": ["--budget", "2x-params"],
        "grow": ["tile.yaml"],
        "evaluate": ["--data", "."],
        "compare": ["--plan", "tile.yaml", "--data", ".", "--budget", "1steps"],
    }
    code, _, said = growtool(command, "./resnet18", *more.get(command, []))
    assert code == 1 and "resnet18: no such file or folder" in said
