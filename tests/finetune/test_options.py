"""Options from a file, from words and from flags: the later wins, mistakes are named together with their place."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from growtool.cli.app import app
from growtool.errors import PlanError
from growtool.finetune.options.merging import make_config, read_config, read_words
from tests.support.finetune import UNCLOSED_IMAGES, losses, write_checkpoint, write_data

NEEDED = {"checkpoint": "c", "data": "d"}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_flags_win_over_words_and_words_over_the_file(tmp_path: Path):
    path = written(tmp_path, "lr: 1e-4\nopt: sgd\nhflip: 0\nscale: [0.5, 1]\nepochs: null\n")
    words = read_words(["opt=lamb", "seed=3", "opt_kwargs.betas=[0.9, 0.95]", "opt-kwargs.eps=1e-6", "log=[wandb]"])
    config = make_config(NEEDED, read_config(path), words, {"seed": 5})
    assert (config.lr, config.opt, config.hflip, config.scale, config.seed) == (1e-4, "lamb", 0.0, (0.5, 1.0), 5)
    assert config.opt_kwargs == {"betas": [0.9, 0.95], "eps": 1e-6}
    assert (config.checkpoint, config.output, config.log) == ("c", Path("c-finetuned"), ("wandb",))


def test_another_way_to_say_how_long_wins_over_the_files(tmp_path: Path):
    path = written(tmp_path, "epochs: 3\nsteps: null\nwarmup_steps: 5\n")
    config = make_config(NEEDED, read_config(path), {"steps": 7, "warmup_epochs": 0.5})
    assert (config.epochs, config.steps, config.macs) == (None, 7, None)
    assert (config.warmup_steps, config.warmup_epochs) == (None, 0.5)
    kept = make_config(NEEDED, read_config(path), {"lr": 1.0})
    assert (kept.epochs, kept.warmup_steps) == (3, 5)
    with pytest.raises(PlanError, match=r"^--epochs and --steps: 2 given, expected one of them"):
        make_config(NEEDED, {"epochs": 3, "steps": 7})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "lr: 1\nrate: 2\n",
            r".*run.yaml:2:1 rate: unknown key, expected an option as `growtool finetune --help-all`",
        ),
        ("epoch: 2\n", r".*:1:1 epoch: unknown key; did you mean 'epochs'\?"),
        ("lr: 1\nlr: 2\n", r".*run.yaml:2:1 lr: found again, first at 1:1; keep one"),
        ("- lr\n", r".*run.yaml:1:1 found a list, expected a mapping of options"),
        ("data: [a]\n", r".*run.yaml:1:7 data: found a list, expected a path"),
        ("seed: 1\nopt: [sgd]\n", r".*run.yaml:2:6 opt: found a list, expected a string"),
        ("lr: 1e-3\nkd_weight: 2\n", r".*run.yaml:2:12 kd_weight: found 2, expected at most 1"),
        ("epochs: '3'\n", r".*run.yaml:1:9 epochs: found '3', expected an integer"),
        ("lr: true\n", r".*run.yaml:1:5 lr: found True, expected a number"),
        ("sched: cosin\n", r".*run.yaml:1:8 sched: found 'cosin', expected one of cosine, .*; did you mean 'cosine'\?"),
        ("log: [wandb, mlflow]\n", r".*run.yaml:1:14 log\[1\]: found 'mlflow', expected one of tensorboard"),
        ("seed: 9223372036854775808\n", r".*run.yaml:1:7 seed: found 9223372036854775808, expected an integer of less"),
        ('data_kwargs: {"a\\0": 1}\n', r".*run.yaml:1:15 data_kwargs: found the character '\\x00', which no"),
        ('"\\ud800": 1\n', r".*run.yaml:1:1 found the character '\\ud800', which no"),
        ('data: "a\\0b"\n', r".*run.yaml:1:7 data: found the character '\\x00', which no name and no path holds"),
        ('data: "\\ud800"\n', r".*run.yaml:1:7 data: found the character '\\ud800', which no name and no path holds"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, text: str, message: str):
    with pytest.raises(PlanError) as caught:
        read_config(written(tmp_path, text))
    assert re.match(message, str(caught.value))


def test_bad_words_and_bad_values_are_named_at_once():
    with pytest.raises(PlanError) as caught:
        read_words(["lr", "learn=1", "lr=1"])
    assert len(caught.value.problems) == 2
    with pytest.raises(PlanError) as caught:
        make_config(NEEDED, {"lr": "fast", "epochs": 1.5})
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["--epochs", "--lr"]
    with pytest.raises(PlanError) as caught:
        make_config({})
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["CHECKPOINT", "--data"]


def test_what_is_wrong_between_options_is_told_where_each_of_them_stands(tmp_path: Path):
    path = written(tmp_path, "lr: 0.1\nkd_anneal: linear\nepochs: 3\n")
    with pytest.raises(PlanError) as caught:
        make_config(NEEDED, read_config(path), read_words(["kd_temperature=2"]), {"model_ema_decay": 0.9})
    assert [problem.removeprefix(str(tmp_path)) for problem in caught.value.problems] == [
        "--model-ema-decay: given without --model-ema, so it would do nothing; add --model-ema",
        "--set kd_temperature=2: given without --kd-teacher, so it would do nothing; add --kd-teacher",
        "/run.yaml:2:1 kd_anneal: given without --kd-teacher, so it would do nothing; add --kd-teacher",
    ]


@pytest.mark.parametrize(
    "word", ['opt="a\\0"', 'data_kwargs={"a\\0": 1}', "seed=9223372036854775808", "epochs='3'", "amp=1"]
)
def test_words_are_taken_as_literally_as_files(word: str):
    with pytest.raises(PlanError, match=re.escape(f"--set {word}: found ")):
        read_words([word])


def test_a_large_round_number_is_a_number_of_updates():
    assert make_config(NEEDED, read_words(["steps=1e4"])).steps == 10_000


EARLIER = """\
{checkpoint: /m, data: /d, output: r, plugins: [/p.py], dataset: '', val_data: null, train_split: null,
  val_split: null, data_kwargs: {}, epochs: null, steps: null, macs: 2000000000000.0, batch_size: 128,
  grad_accum_steps: 1, num_classes: null, train: all, freeze_epochs: 0, lora_rank: 0,
  lora_alpha: 16.0, lora_targets: '*', recalibrate: 0,
  carry_optimizer: false, lr_factors: false, drop_path: null, kd_teacher: null, kd_weight: null,
  kd_temperature: 1.0, kd_anneal: cosine,
  opt: adamw, opt_kwargs: {betas: [0.9, 0.95]}, momentum: 0.9, from_scratch: false, lr: 1.0e-05, weight_decay: null,
  layer_decay: null, clip_grad: null, clip_mode: norm, sched: cosine, min_lr: 0.0, warmup_lr: 0.0, warmup_epochs: null,
  warmup_steps: null, train_crop_mode: null, scale: [0.5, 1.0], hflip: 0.5, color_jitter: 0.4, aa: null, reprob: 0.0,
  no_aug: false, mixup: 0.0, cutmix: 0.0, smoothing: 0.1, amp: false, amp_dtype: null, channels_last: false, tf32: true,
  torchcompile: null, model_ema: false, model_ema_decay: null, engine: ddp, sync_bn: false, nonfinite: stop, seed: 42,
  workers: 2, device: auto, log_interval: 50, log: [wandb], eval_interval: 0, recovery_interval: 1000,
  checkpoint_hist: 2, resolved: {steps: 5}}
"""  # as config.yaml was written before options were a model of pydantic


def test_the_configuration_of_an_earlier_run_is_read_as_it_was_meant(tmp_path: Path):
    config = make_config(read_config(written(tmp_path, EARLIER)))
    known = yaml.safe_load(EARLIER)
    del known["resolved"]
    assert {name: value for name, value in config.as_dict().items() if name in known} == known


@UNCLOSED_IMAGES
def test_the_configuration_a_run_leaves_repeats_it(tmp_path: Path):
    checkpoint, data = write_checkpoint(tmp_path / "model"), write_data(tmp_path / "data")
    words = ["--set", "hflip=0", "--set", "opt_kwargs.betas=[0.8, 0.9]", "--workers", "0", "--log-interval", "1"]
    common: list[Any] = ["finetune", checkpoint, "--data", data, "-b", 8, "--epochs", 1, "--device", "cpu", *words]
    first = CliRunner().invoke(app, [*map(str, common), "-o", str(tmp_path / "one"), "--json"])
    assert first.exit_code == 0, first.exception
    assert json.loads(first.stdout)["steps"] == 3
    saved = yaml.safe_load((tmp_path / "one/config.yaml").read_text())
    assert (saved["hflip"], saved["opt_kwargs"]) == (0, {"betas": [0.8, 0.9]})
    again = CliRunner().invoke(app, ["finetune", "-c", str(tmp_path / "one/config.yaml"), "-o", str(tmp_path / "two")])
    assert again.exit_code == 0, again.exception
    assert losses(tmp_path / "one") == losses(tmp_path / "two")


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, ["finetune", *map(str, words)])


def test_a_run_goes_on_by_its_folder_alone_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its paths were given relative to another folder; what may change on resuming can be given beside."""
    (tmp_path / "there").mkdir()
    write_checkpoint(tmp_path / "there/model")
    write_data(tmp_path / "there/data")
    monkeypatch.chdir(tmp_path / "there")
    options = ["-b", 8, "--epochs", 2, "--seed", 7, "--workers", 0, "--log-interval", 1, "--recovery-interval", 1]
    options += ["--device", "cpu", "--set", "hflip=0", "--checkpoint-hist", 9]
    whole = invoke("model", "--data", "data", *options, "-o", "run with a space")
    assert whole.exit_code == 0, whole.output
    run = tmp_path / "there/run with a space"
    before = losses(run)
    for later in sorted((run / "checkpoints").iterdir())[3:]:
        shutil.rmtree(later)
    shutil.rmtree(run / "last")
    monkeypatch.chdir(tmp_path)
    again = invoke("-o", "there/run with a space", "--resume", "auto", "--log-interval", 1)
    assert again.exit_code == 0, again.output
    assert losses(run) == before
    other = invoke("-o", "there/run with a space", "--resume", "auto", "--seed", 8)
    assert "--resume: seed was 7" in str(other.exception)


def test_what_is_missing_to_go_on_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert "--resume auto: expected the folder of the run as well; add -o RUN" in str(
        invoke("--resume", "auto").exception
    )
    assert re.match(
        r"--resume auto: found no run in run, which has no config.yaml, expected one to go on with; correct --output, "
        r"or name CHECKPOINT and --data",
        str(invoke("-o", "run", "--resume", "auto").exception),
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("checkpoint: model\ndata: images\nval_data: /elsewhere\nresolved: {}\n")
    assert str(invoke("-o", "run", "--resume", "auto", "--data", "given").exception) == (
        "run/config.yaml: checkpoint: model starts in the folder the run was begun in, and is not here; resume it "
        "there, or name it with CHECKPOINT"
    )
