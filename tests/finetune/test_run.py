"""What a run leaves behind, what it refuses to touch, and what the command prints."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file
from timm.data import ImageDataset, create_transform, resolve_data_config
from torch.nn.utils.parametrizations import weight_norm
from typer.testing import CliRunner

from growtool.cli.app import app
from growtool.errors import CheckpointError, PlanError
from growtool.finetune.run import finetune
from tests.support.finetune import (
    CLASSES,
    MODEL_ARGS,
    PRETRAINED_CFG,
    UNCLOSED_IMAGES,
    Notices,
    change_config,
    evaluated,
    read_metrics,
    run_config,
    write_checkpoint,
)
from tests.support.models import write_initial
from tests.support.plain_timm import in_plain_timm

pytestmark = UNCLOSED_IMAGES


@timm.models.register_model
def normalised_resnet(pretrained: bool = False, **settings: Any) -> torch.nn.Module:
    """A model of a plugin that computes one of its weights, as `torch.nn.utils.parametrizations` do."""
    model = timm.create_model("resnet18", **settings)
    weight_norm(model.layer1[0].conv1)
    return model


def test_training_learns_and_its_best_is_what_stands_on_disk(checkpoint: Path, data: Path, tmp_path: Path):
    result = finetune(run_config(checkpoint, data, tmp_path / "run", epochs=6, no_aug=True))
    assert result.best.top1 > result.initial.top1
    assert (result.final.top1, result.final.loss) == (result.best.top1, result.best.eval_loss)
    epochs = read_metrics(tmp_path / "run", "epoch")
    assert [record["epoch"] for record in epochs] == list(range(7))
    trained = epochs[1:]
    assert result.best.top1 == max(record["top1"] for record in trained)
    assert [r["epoch"] for r in trained if r["best"]][-1] == result.best.epoch


def test_accuracy_and_loss_are_what_plain_timm_computes(checkpoint: Path, data: Path):
    model = timm.create_model(f"local-dir:{checkpoint}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    images, labels = zip(*ImageDataset(data / "validation", transform=transform), strict=True)
    with torch.no_grad():
        logits, targets = model(torch.stack(images)), torch.tensor(labels)
    found = evaluated(checkpoint, data, batch_size=5)
    assert found.count == len(labels) == 12
    assert found.top1 == pytest.approx(100 * float((logits.argmax(1) == targets).float().mean()))
    assert found.top5 == 100  # of three classes
    assert found.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, targets)), rel=1e-5)


def test_steps_may_end_within_an_epoch(checkpoint: Path, data: Path, tmp_path: Path):
    result = finetune(run_config(checkpoint, data, tmp_path / "run", epochs=None, steps=4))
    assert (result.steps, result.last.epoch, result.last.step) == (4, 2, 4)


def test_a_run_follows_its_part_of_a_longer_course(checkpoint: Path, data: Path, tmp_path: Path):
    """Two runs of three updates have the rates of one of six, resumed within the decay as well; the last ones fall."""

    def rates(name: str, **options: Any) -> list[float]:
        course: dict[str, Any] = {"sched": "wsd", "warmup_steps": 1, "decay_steps": 3, "lr_decay_fn": "linear"}
        options = {"epochs": None, "recovery_interval": 1, "checkpoint_hist": 9, **course, **options}
        finetune(run_config(checkpoint, data, tmp_path / name, **options))
        return [record["lr"] for record in read_metrics(tmp_path / name, "step")]

    whole = rates("whole", steps=6)
    assert whole == pytest.approx([0, 1e-2, 1e-2, 1e-2, 1e-2 * 2 / 3, 1e-2 / 3])
    assert rates("first", steps=3, sched_steps=6) == whole[:3]
    rest: dict[str, Any] = {"steps": 3, "sched_start": 3}
    assert rates("rest", **rest) == whole[3:]
    assert rates("rest", **rest, resume=str(tmp_path / "rest/checkpoints/step-00000002")) == whole[3:]


def test_evaluating_within_epochs_changes_nothing_that_is_trained(checkpoint: Path, data: Path, tmp_path: Path):
    """Dropout and BatchNorm would differ if training went on in the mode of evaluation, or drew other numbers."""
    settings: dict[str, Any] = {"epochs": 2, "log_interval": 1, "drop_path": 0.5}
    plain = finetune(run_config(checkpoint, data, tmp_path / "plain", **settings))
    watched = finetune(run_config(checkpoint, data, tmp_path / "watched", eval_interval=2, **settings))
    assert [record["step"] for record in read_metrics(tmp_path / "watched", "evaluation")] == [2, 4]
    losses = [[r["loss"] for r in read_metrics(tmp_path / run, "step")] for run in ("plain", "watched")]
    assert losses[0] == losses[1] and len(losses[0]) == plain.steps == 6
    assert (plain.last.top1, plain.last.eval_loss) == (watched.last.top1, watched.last.eval_loss)


def test_results_load_in_timm_alone_and_keep_where_they_came_from(checkpoint: Path, data: Path, tmp_path: Path):
    change_config(checkpoint, growtool={"operator": "tile"})
    (checkpoint / "growth.json").write_text('{"tensors": {}}')
    (checkpoint / "plan.yaml").write_text("width: {}\n")
    (checkpoint / "README.md").write_text("---\ntags: [growtool]\n---\n# grown\n")
    finetune(run_config(checkpoint, data, tmp_path / "one", epochs=1))
    finetune(run_config(tmp_path / "one/last", data, tmp_path / "two", epochs=1))
    for folder in (tmp_path / "one/best", tmp_path / "one/last", tmp_path / "two/best"):
        config = json.loads((folder / "config.json").read_text())
        source = json.loads((checkpoint / "config.json").read_text())
        assert config["model_args"]["channels"] == source["model_args"]["channels"]
        assert config["growtool"] == {"operator": "tile"}
        assert config["label_names"] == list(CLASSES)
        assert (folder / "growth.json").read_text() == '{"tensors": {}}'
        assert (folder / "plan.yaml").read_text() == "width: {}\n"
        card = (folder / "README.md").read_text()
        assert card.startswith("---\ntags: [growtool]\n---\n# grown\n")
        assert card.count("## Fine-tuning") == 1
        training = json.loads((folder / "training.json").read_text())
        assert (training["epoch"], training["step"], training["weights"]) == (1, 3, "model")
    code = (
        f"import sys, timm; timm.create_model('local-dir:{tmp_path}/one/best', pretrained=True)\n"
        "assert not any(name.startswith('growtool') for name in sys.modules)"
    )
    done = in_plain_timm(code)
    assert done.returncode == 0, done.stderr


def test_the_settings_are_written_down(checkpoint: Path, data: Path, tmp_path: Path):
    finetune(run_config(checkpoint, data, tmp_path / "run", epochs=None, steps=2, warmup_steps=1))
    written = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert (written["steps"], written["lr"], written["data"]) == (2, 1e-2, str(data))
    resolved = written["resolved"]
    assert (resolved["steps_per_epoch"], resolved["warmup_steps"], resolved["train_images"]) == (3, 1, 24)
    assert resolved["classes"] == list(CLASSES)


def test_with_an_average_of_the_weights_best_is_the_average(checkpoint: Path, data: Path, tmp_path: Path):
    """timm's update with its warm-up: decay 0 at the first update, 1 - (1 + t)^(-2/3) at t updates after it."""
    result = finetune(run_config(checkpoint, data, tmp_path / "run", epochs=1, model_ema=True))
    best, last = (load_file(tmp_path / "run" / name / "model.safetensors") for name in ("best", "last"))
    assert not torch.equal(best["fc.weight"], last["fc.weight"])
    assert result.final.loss == result.best.eval_loss
    assert json.loads((tmp_path / "run/best/training.json").read_text())["weights"] == "ema"
    weights = []
    for steps in (1, 2, 3):
        at = tmp_path / f"{steps}"
        finetune(run_config(checkpoint, data, at, epochs=None, steps=steps, sched="constant"))
        weights.append(load_file(at / "last/model.safetensors")["fc.weight"])
    finetune(run_config(checkpoint, data, tmp_path / "ema", epochs=1, model_ema=True, sched="constant"))
    average = weights[0]
    for age, weight in enumerate(weights[1:], start=1):
        decay = 1 - (1 + age) ** (-2 / 3)
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(load_file(tmp_path / "ema/best/model.safetensors")["fc.weight"], average)


def test_damaged_weights_are_not_trained(checkpoint: Path, data: Path, tmp_path: Path):
    from safetensors.torch import save_file

    path = checkpoint / "model.safetensors"
    save_file(load_file(path) | {"fc.bias": torch.full((3,), torch.nan)}, path)
    with pytest.raises(CheckpointError, match="evaluation loss of nan before the first update"):
        finetune(run_config(checkpoint, data, tmp_path / "run"))


def test_an_earlier_run_is_replaced_only_by_force(checkpoint: Path, data: Path, tmp_path: Path):
    output = tmp_path / "run"
    finetune(run_config(checkpoint, data, output, epochs=None, steps=1))
    before = (output / "best/model.safetensors").read_bytes()
    with pytest.raises(
        PlanError, match=r"it exists and is not empty; .*, add --force, or continue its run with\ngrowtool"
    ):
        finetune(run_config(checkpoint, data, output, epochs=None, steps=2))
    assert (output / "best/model.safetensors").read_bytes() == before
    finetune(run_config(checkpoint, data, output, epochs=None, steps=2, force=True))
    assert [record["step"] for record in read_metrics(output, "step")] == [1, 2]


def test_force_replaces_nothing_but_a_run(checkpoint: Path, data: Path, tmp_path: Path):
    output = tmp_path / "run"
    finetune(run_config(checkpoint, data, output, epochs=None, steps=1))
    with pytest.raises(PlanError, match="the checkpoint to start from lies in it and would be lost"):
        finetune(run_config(output / "best", data, output, force=True))
    (output / "thesis.tex").write_text("")
    with pytest.raises(PlanError, match=r"found thesis.tex, expected nothing but an earlier run"):
        finetune(run_config(checkpoint, data, output, force=True))
    assert sorted(path.name for path in output.iterdir()) == [
        "best", "checkpoints", "config.yaml", "last", "metrics.jsonl", "summary.csv", "thesis.tex"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"opt": "adamv"},
            r"--opt: found 'adamv', expected the name of an optimizer of timm, or swan; did you mean adam",
        ),
        ({"opt": "fusedadam"}, r"--opt: timm cannot create 'fusedadam' here \("),
        ({"torchcompile": "gcc"}, r"--torchcompile: found 'gcc', expected a backend of torch"),
        ({"device": "gpu"}, r"--device: found 'gpu', expected auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:99"}, r"--device: found 'cuda:99', expected one of the \d+ CUDA devices"),
        ({"batch_size": 32}, r"--batch-size: found 32, expected at most the 24 images of .*train; lower it"),
        (
            {"warmup_steps": 6},
            r"--warmup-epochs, --warmup-steps: found a warm-up of 6 updates, expected fewer than the 6",
        ),
        (
            {"sched_steps": 5},
            r"--set sched_steps: found 5, expected at least the 0 updates before the run and its own 6",
        ),
        (
            {"sched": "wsd", "warmup_steps": 2, "decay_epochs": 1.7},
            r"--decay-epochs, --set decay_steps: found a decay of 5 updates, expected at most the 4 that the warm-up",
        ),
        ({"engine": "fsdp"}, r"--engine fsdp: found one process, expected several; start them with torchrun"),
        ({"sync_bn": True}, r"--sync-bn: found one process"),
        ({"opt": "adamw", "momentum": 0.5}, r"--momentum: found 0.5, but --opt adamw has none"),
        ({"train": "fc.*", "freeze_epochs": 2}, r"--freeze-epochs: found 2, expected fewer than the 2 epochs"),
        ({"recalibrate": 25}, r"--recalibrate: found 25, expected at most the 24 images of an epoch"),
        (
            {"warmup_steps": None, "warmup_epochs": 0.1},
            r"--warmup-epochs: found 0.1, which is less than half an update of the 3",
        ),
        ({"data_kwargs": {"input_key": "x"}}, r"--set data_kwargs: found input_key, but folders and tar files are"),
        ({"aa": "nonsense"}, r"--aa: timm does not understand 'nonsense'"),
    ],
)
def test_what_cannot_be_done_here_is_said_before_anything_is_written(
    checkpoint: Path, data: Path, tmp_path: Path, changes: dict[str, Any], message: str
):
    with pytest.raises(PlanError, match=message):
        finetune(run_config(checkpoint, data, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_what_is_about_batchnorm_needs_one(data: Path, tmp_path: Path):
    plain = write_checkpoint(tmp_path / "plain", norm_layer="groupnorm1")
    with pytest.raises(PlanError, match=r"--recalibrate 8: found no BatchNorm with running statistics in .*plain"):
        finetune(run_config(plain, data, tmp_path / "run", recalibrate=8))


def test_options_that_are_honoured_in_part_are_said(checkpoint: Path, data: Path, tmp_path: Path):
    finetune(run_config(checkpoint, data, tmp_path / "first", train="fc.*", epochs=None, steps=1))
    settings: dict[str, Any] = {"epochs": None, "steps": 1}
    for changes, said in (
        ({"lora_rank": 3}, r"--lora-rank 3: 5 of 14 adapters have a smaller one, down to 1, half"),
        ({"layer_decay": 0.9, "train": "fc.*"}, r"--layer-decay 0.9: all that trains is in the topmost layer"),
        ({"carry_optimizer": True}, r"--carry-optimizer: the state fits 2 of the \d+ tensors that train"),
    ):
        notices = Notices()
        finetune(
            run_config(tmp_path / "first/last", data, tmp_path / "run", force=True, **settings, **changes), notices
        )
        assert len(notices.said) == 1 and re.match(said, notices.said[0]), notices.said


def test_every_problem_of_a_command_is_named_at_once(checkpoint: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    bad = run_config(checkpoint, tmp_path / "none", tmp_path / "file", opt="adamv", device="gpu")
    with pytest.raises(PlanError) as caught:
        finetune(bad)
    places = [problem.split(":")[0].split(" ")[0] for problem in caught.value.problems]
    assert places == ["--opt", "--device", "--output", "--data"]


def cli(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["finetune", *map(str, arguments)])


def test_the_command_prints_one_json_document(checkpoint: Path, data: Path, tmp_path: Path):
    output = tmp_path / "run"
    done = cli(
        checkpoint, "--data", data, "-o", output, "--steps", 2, "-b", 8, "--workers", 0, "--device", "cpu", "--json"
    )
    assert done.exit_code == 0, done.exception
    document = json.loads(done.stdout)
    assert set(document) == {
        "output", "initial", "best", "last", "final", "steps", "skipped", "unreadable", "seconds", "macs",
        "trained_parameters", "parameters", "load", "shortfall"
    }  # fmt: skip
    assert document["final"]["count"] == 12
    assert document["load"] == f'timm.create_model("local-dir:{output}/best", pretrained=True)'


def test_the_command_prints_its_result_on_stdout_and_log_lines_on_stderr(checkpoint: Path, data: Path, tmp_path: Path):
    done = cli(checkpoint, "--data", data, "-o", tmp_path / "run", "--steps", 1, "-b", 8, "--workers", 0)
    assert done.exit_code == 0, done.exception
    assert "update 1/1 (100%)" in done.stderr
    assert re.search(r"1 updates? in \d+ s, [\d.]+ ?\w? MACs; [\d,]+ of [\d,]+ parameters trained", done.stdout)
    assert f'best: timm.create_model("local-dir:{tmp_path}/run/best", pretrained=True)' in done.stdout


def test_the_line_that_loads_a_run_imports_what_its_model_needs(checkpoint: Path, data: Path, tmp_path: Path):
    args = json.loads((checkpoint / "config.json").read_text())["model_args"]
    change_config(checkpoint, architecture="growtool_open", model_args={"base": "resnet18", **args})
    result = finetune(run_config(checkpoint, data, tmp_path / "run", epochs=None, steps=1))
    line = f'timm.create_model("local-dir:{tmp_path}/run/best", pretrained=True)'
    assert result.as_dict()["load"] == f"import growtool; {line}"


def test_weights_that_the_model_itself_computes_are_saved_as_it_stores_them(data: Path, tmp_path: Path):
    checkpoint = write_initial("normalised_resnet", MODEL_ARGS, tmp_path / "model", pretrained_cfg=PRETRAINED_CFG)
    change_config(checkpoint, architecture="normalised_resnet")  # timm writes the name of what that is made from
    finetune(run_config(checkpoint, data, tmp_path / "run", epochs=1))
    finetune(run_config(checkpoint, data, tmp_path / "run", epochs=1, resume="auto"))
    names = [set(load_file(folder / "model.safetensors")) for folder in (checkpoint, tmp_path / "run/last")]
    assert names[0] == names[1] and "layer1.0.conv1.parametrizations.weight.original0" in names[0]
    with pytest.raises(PlanError, match=r"found layer1\.0\.conv1.*, whose weights the model computes from others"):
        finetune(run_config(checkpoint, data, tmp_path / "adapted", lora_rank=2))


def test_without_an_output_the_run_stands_in_the_working_folder(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert cli(checkpoint, "--data", data, "--steps", 1, "-b", 8, "--workers", 0).exit_code == 0
    assert (tmp_path / "model-finetuned/best/model.safetensors").is_file()
