"""What growth adds to training: new tensors and new parts, freezing and releasing, a teacher, statistics, adapters."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from growtool.checkpoint import open_checkpoint
from growtool.errors import CheckpointError, PlanError
from growtool.finetune.parallel.distributed import World
from growtool.finetune.prepare import foresee, prepare
from growtool.finetune.run import finetune
from growtool.finetune.state.weights import exported
from growtool.finetune.update.adapters import LowRank, initial_factors
from growtool.finetune.update.objective import annealed, divergence
from growtool.finetune.update.trainable import new_mask
from growtool.growing import grow
from growtool.plan import load_plan
from growtool.recipe import resolve
from growtool.report.macs import macs_of
from tests.support.finetune import UNCLOSED_IMAGES, losses, new_in, read_metrics, run_config, write_checkpoint

pytestmark = UNCLOSED_IMAGES
CPU = torch.device("cpu")


def grown(checkpoint: Path, plan: str) -> Path:
    path = checkpoint.with_name("plan.yaml")
    path.write_text(plan)
    loaded = load_plan(path)
    out = checkpoint.with_name("grown")
    grow(resolve(loaded.plan, open_checkpoint(checkpoint)), loaded, out)
    return out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


WIDER = "target: {model_args: {channels: [8, 16, 16, 24]}}\nwidth: {operator: tile}\n"


@pytest.mark.parametrize("opt", ["adamw", "sgd", "muon"])
def test_training_what_is_new_in_a_wider_model_keeps_every_old_element(
    checkpoint: Path, data: Path, tmp_path: Path, opt: str
):
    """Decay, momentum and running statistics included, to the bit; and every part that growth made does change."""
    wider = grown(checkpoint, WIDER)
    result = finetune(run_config(wider, data, tmp_path / "run", train="new", opt=opt, weight_decay=0.1))
    new, before, after = new_in(wider), weights(wider), weights(tmp_path / "run/last")
    assert new.slices and not new.names
    for name, tensor in before.items():
        moved = tensor != after[name]
        mask = new_mask(tensor.shape, new.slices[name]) if name in new.slices else torch.zeros_like(moved)
        assert not bool((moved & ~mask).any()), name
        if name in new.slices and name.endswith("weight"):
            assert bool((moved & mask).any()), name
    source = weights(checkpoint)
    trained = sum(new_mask(before[n].shape, s).sum() for n, s in new.slices.items() if "running" not in n)
    assert (
        result.trained_parameters
        == trained
        == sum(before[n].numel() - source[n].numel() for n in source if "running" not in n and "batches" not in n)
    )


def test_a_pattern_trains_what_it_matches(checkpoint: Path, data: Path, tmp_path: Path):
    finetune(run_config(checkpoint, data, tmp_path / "run", train="layer4.*, fc.weight"))
    before, after = weights(checkpoint), weights(tmp_path / "run/last")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("layer4.") or name == "fc.weight"}
    with pytest.raises(PlanError, match=r"--train head.\*: matches no parameter of .*\(conv1.weight, ..., fc.bias\)"):
        finetune(run_config(checkpoint, data, tmp_path / "other", train="fc.*,head.*"))


def test_what_was_frozen_is_released_after_its_epochs(checkpoint: Path, data: Path, tmp_path: Path):
    settings: dict[str, Any] = {"train": "fc.*", "freeze_epochs": 1, "epochs": 2}
    finetune(run_config(checkpoint, data, tmp_path / "run", **settings, checkpoint_hist=9))
    before = weights(checkpoint)
    first, second = (weights(tmp_path / f"run/checkpoints/step-0000000{step}") for step in (3, 6))
    assert {n for n in before if not torch.equal(before[n], first[n])} == {"fc.weight", "fc.bias"}
    assert all(not torch.equal(before[n], second[n]) for n in before)


def test_a_released_run_is_resumed_exactly(checkpoint: Path, data: Path, tmp_path: Path):
    settings: dict[str, Any] = {"train": "fc.*", "freeze_epochs": 1, "epochs": 3, "checkpoint_hist": 9}
    finetune(run_config(checkpoint, data, tmp_path / "run", **settings))
    expected = losses(tmp_path / "run")
    for step in (3, 6):
        path = str(tmp_path / f"run/checkpoints/step-0000000{step}")
        finetune(run_config(checkpoint, data, tmp_path / "run", **settings, resume=path))
        assert losses(tmp_path / "run") == expected


def test_the_teachers_weight_anneals_to_zero():
    assert [annealed(0.8, "linear", 4)(step) for step in range(6)] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0, 0])
    assert annealed(0.8, "cosine", 4)(2) == pytest.approx(0.4)
    assert annealed(0.8, "constant", 4)(9) == 0.8


def test_the_divergence_is_that_of_the_two_distributions():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 3, dtype=torch.float64)
    p, q = torch.softmax(teacher.float() / 2, 1), torch.softmax(student.float() / 2, 1)
    assert float(divergence(student, teacher, 2.0)) == pytest.approx(
        float((p * (p / q).log()).sum(1).mean() * 4), rel=1e-5
    )
    assert float(divergence(teacher, teacher, 3.0)) == pytest.approx(0, abs=1e-6)


def test_a_student_with_its_own_weights_as_teacher_sees_the_labels_in_part(
    checkpoint: Path, data: Path, tmp_path: Path
):
    """Only the classifier trains, so both run in evaluation mode and agree; at weight 1 labels do not count."""
    finetune(run_config(checkpoint, data, tmp_path / "plain", steps=1, epochs=None, train="fc.*"))
    taught: dict[str, Any] = {"kd_teacher": checkpoint, "kd_weight": 1.0, "steps": 1, "epochs": None, "train": "fc.*"}
    finetune(run_config(checkpoint, data, tmp_path / "taught", **taught))
    assert losses(tmp_path / "taught")[0] == pytest.approx(0, abs=1e-6)
    half = taught | {"kd_weight": 0.5}
    finetune(run_config(checkpoint, data, tmp_path / "half", **half))
    assert losses(tmp_path / "half")[0] == pytest.approx(losses(tmp_path / "plain")[0] / 2, rel=1e-5)


def test_a_teacher_for_another_task_is_refused(checkpoint: Path, data: Path, tmp_path: Path):
    teacher = write_checkpoint(tmp_path / "teacher", num_classes=4)
    with pytest.raises(PlanError, match=r"--kd-teacher .*: 4 classes, expected 3; name a checkpoint"):
        finetune(run_config(checkpoint, data, tmp_path / "run", kd_teacher=teacher))


def test_a_budget_of_macs_is_foreseen_with_what_the_teacher_takes_of_it(checkpoint: Path, data: Path, tmp_path: Path):
    source = open_checkpoint(checkpoint)
    forward = macs_of(source.spec, where="model")
    budget = float(
        13 * forward * 8
    )  # an update of 8 images passes forward four times: three for training, one to teach
    config = run_config(checkpoint, data, tmp_path / "run", epochs=None, macs=budget, kd_teacher=checkpoint)
    assert prepare(config, torch.device("cpu")).steps == foresee(config, source, World()).steps == 3


def test_recalibration_replaces_spoilt_statistics_before_the_first_update(checkpoint: Path, data: Path, tmp_path: Path):
    state = weights(checkpoint)
    spoilt = {name: t * 100 + 7 if "running" in name else t for name, t in state.items()}
    save_file(spoilt, checkpoint / "model.safetensors")
    finetune(run_config(checkpoint, data, tmp_path / "spoilt", epochs=1))
    finetune(run_config(checkpoint, data, tmp_path / "mended", epochs=1, recalibrate=20))
    loss = {run: read_metrics(tmp_path / run, "epoch")[0]["eval_loss"] for run in ("spoilt", "mended")}
    job = prepare(run_config(checkpoint, data, tmp_path / "job", recalibrate=20), CPU)
    assert int(job.trainer.model.bn1.num_batches_tracked) == 3  # batches of 8 for 20 images
    assert loss["mended"] != loss["spoilt"]
    assert abs(float(job.trainer.model.bn1.running_mean.mean())) < 5


def test_adapters_begin_as_the_model_and_only_they_train(checkpoint: Path, data: Path, tmp_path: Path):
    config = run_config(checkpoint, data, tmp_path / "run", lora_rank=2)
    job = prepare(config, CPU)
    before = weights(checkpoint)
    for name, tensor in exported(job.trainer.model):
        torch.testing.assert_close(tensor, before[name])
    trained = [name for name, p in job.trainer.model.named_parameters() if p.requires_grad]
    assert trained and all(name.endswith((".0.up", ".0.down")) for name in trained)
    result = finetune(config)
    after = weights(tmp_path / "run/last")
    assert after.keys() == before.keys()
    assert not torch.equal(after["layer3.0.conv1.weight"], before["layer3.0.conv1.weight"])
    assert torch.equal(after["bn1.running_mean"], before["bn1.running_mean"])
    change = (after["layer3.0.conv2.weight"] - before["layer3.0.conv2.weight"]).flatten(1)
    assert int(torch.linalg.matrix_rank(change, rtol=1e-3)) <= 4  # B A less the B A it began with
    assert result.trained_parameters < result.parameters
    model = timm.create_model(f"local-dir:{tmp_path}/run/best", pretrained=True)
    assert not hasattr(model.fc, "parametrizations")


def test_a_run_with_adapters_is_resumed_exactly(checkpoint: Path, data: Path, tmp_path: Path):
    settings: dict[str, Any] = {"lora_rank": 2, "recovery_interval": 1, "checkpoint_hist": 9}
    finetune(run_config(checkpoint, data, tmp_path / "run", **settings))
    expected, last = losses(tmp_path / "run"), (tmp_path / "run/last/model.safetensors").read_bytes()
    finetune(
        run_config(
            checkpoint, data, tmp_path / "run", **settings, resume=str(tmp_path / "run/checkpoints/step-00000002")
        )
    )
    assert losses(tmp_path / "run") == expected
    assert (tmp_path / "run/last/model.safetensors").read_bytes() == last


def test_the_first_step_of_adapters_follows_the_gradient():
    """LoRA-GA: with these factors one gradient step changes B A by the best approximation of rank 2R."""
    torch.manual_seed(0)
    gradient, rank, rate = torch.randn(9, 7, dtype=torch.float64), 2, 1e-4
    up, down = initial_factors(gradient, rank)
    assert torch.allclose(up.T @ up, up[:, 0].square().sum() * torch.eye(rank, dtype=torch.float64))
    stepped = (up - rate * gradient @ down.T) @ (down - rate * up.T @ gradient) - up @ down
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    best = left[:, : 2 * rank] @ torch.diag(values[: 2 * rank]) @ right[: 2 * rank]
    scale = -rate * up[:, 0].square().sum()
    torch.testing.assert_close(stepped, scale * best, rtol=1e-2, atol=float(abs(scale)) * 1e-2)
    layer = LowRank(up, down, 3.0)
    torch.testing.assert_close(layer(gradient), gradient + 3 * up @ down)


def test_the_optimizers_state_beside_the_checkpoint_is_carried_on(checkpoint: Path, data: Path, tmp_path: Path):
    finetune(run_config(checkpoint, data, tmp_path / "first", epochs=1))
    config = run_config(tmp_path / "first/last", data, tmp_path / "second", carry_optimizer=True)
    job = prepare(config, CPU)
    stored = load_file(tmp_path / "first/last/optimizer.safetensors")
    fc = job.trainer.model.fc.weight
    assert torch.equal(job.trainer.optimizer.state[fc]["exp_avg"], stored["fc.weight/exp_avg"])
    with pytest.raises(CheckpointError, match="the state of the optimizer"):
        prepare(run_config(checkpoint, data, tmp_path / "third", carry_optimizer=True), CPU)
    with pytest.raises(PlanError, match="of another optimizer than --opt sgd"):
        prepare(run_config(tmp_path / "first/last", data, tmp_path / "third", carry_optimizer=True, opt="sgd"), CPU)


@pytest.mark.parametrize("operator", ["tile", "shrink_perturb"], ids=["copies", "blanks"])
def test_the_report_of_a_wider_model_names_its_new_positions(checkpoint: Path, operator: str):
    wider = grown(checkpoint, WIDER.replace("tile", operator))
    tensors = json.loads((wider / "growth.json").read_text())["tensors"]
    assert tensors["fc.weight"]["new_slices"] == [[], [[12, 24]]]
    assert tensors["layer1.0.bn1.running_mean"]["new_slices"] == [[[4, 8]]]
    assert "new_slices" not in tensors["fc.bias"]
