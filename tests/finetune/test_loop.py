"""The updates: reproducible to the bit, restricted to what should train, and with the rates that were asked for."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from growtool.checkpoint import open_checkpoint
from growtool.errors import CheckpointError, PlanError
from growtool.finetune.prepare import prepare
from growtool.finetune.run import finetune
from tests.support.finetune import PINNED, UNCLOSED_IMAGES, losses, read_metrics, run_config, write_checkpoint

pytestmark = UNCLOSED_IMAGES
EVERYTHING_RANDOM: dict[str, Any] = {
    "scale": (0.3, 1.0),
    "aa": "rand-m9-mstd0.5",
    "reprob": 0.5,
    "mixup": 0.8,
    "cutmix": 1.0,
    "opt": "sgd",
}


def test_losses_are_the_ones_written_down(checkpoint: Path, data: Path, tmp_path: Path):
    """A change of these numbers means that training computes something else than before."""
    finetune(run_config(checkpoint, data, tmp_path / "run"))
    assert losses(tmp_path / "run") == pytest.approx(PINNED, rel=1e-4)


def test_equal_seeds_give_equal_losses_to_the_bit_whatever_the_number_of_workers(
    checkpoint: Path, data: Path, tmp_path: Path
):
    runs = {}
    for name, changes in {"one": {}, "two": {"workers": 2}, "other": {"seed": 7}}.items():
        finetune(run_config(checkpoint, data, tmp_path / name, **EVERYTHING_RANDOM | changes))
        runs[name] = losses(tmp_path / name)
    assert runs["one"] == runs["two"]
    assert runs["one"] != runs["other"]
    for folder in ("best", "last"):
        one, two = (tmp_path / name / folder / "model.safetensors" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_a_run_leaves_the_global_generators_as_it_found_them(checkpoint: Path, data: Path, tmp_path: Path):
    def states() -> tuple[object, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    finetune(run_config(checkpoint, data, tmp_path / "run", epochs=1, **EVERYTHING_RANDOM))
    assert states() == before


def write_growth_report(checkpoint: Path, *new: str) -> None:
    tensors = {name: {"new": name.startswith(new)} for name in open_checkpoint(checkpoint).tensors}
    (checkpoint / "growth.json").write_text(json.dumps({"tensors": tensors}))


def test_training_what_is_new_leaves_every_other_tensor_as_it_was(tmp_path: Path, data: Path):
    """Running statistics and counters of the frozen BatchNorm layers included."""
    checkpoint = write_checkpoint(tmp_path / "model", layers=[1, 2, 1, 1])
    write_growth_report(checkpoint, "layer2.1.")
    result = finetune(run_config(checkpoint, data, tmp_path / "run", train="new"))
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint, tmp_path / "run/last"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("layer2.1.")}
    assert result.trained_parameters == sum(
        after[name].numel() for name in changed if "running" not in name and "batches" not in name
    )


@pytest.mark.parametrize(
    ("report", "kind", "message"),
    [
        (None, PlanError, r"--train new: .*growth.json: not found, expected the report that `growtool grow` writes"),
        (
            {"tensors": {"fc.weight": {"new": False}}},
            PlanError,
            r"--train new: .* has no new tensor and no new part of one",
        ),
        ({"tensors": {"gone.weight": {"new": True}}}, CheckpointError, r"names the new tensor gone.weight, expected"),
        ({"tensors": ["fc.weight"]}, CheckpointError, r"growth.json: not a growth report .*, expected `tensors` with"),
    ],
)
def test_nothing_new_to_train_is_an_error(
    checkpoint: Path, data: Path, tmp_path: Path, report: Any, kind: type[Exception], message: str
):
    if report is not None:
        (checkpoint / "growth.json").write_text(json.dumps(report))
    with pytest.raises(kind, match=message):
        finetune(run_config(checkpoint, data, tmp_path / "run", train="new"))
    assert not (tmp_path / "run").exists()


def test_biases_and_norms_are_not_decayed(checkpoint: Path, data: Path, tmp_path: Path):
    job = prepare(run_config(checkpoint, data, tmp_path / "run", weight_decay=0.1), torch.device("cpu"))
    for group in job.trainer.optimizer.param_groups:
        assert group["params"]
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.0 if parameter.ndim == 1 else 0.1)


def test_the_rate_warms_up_linearly_and_falls_as_a_cosine(checkpoint: Path, data: Path, tmp_path: Path):
    """timm's convention: update n uses the rate of time n - 1, and the cosine runs over the whole, warm-up included."""
    finetune(run_config(checkpoint, data, tmp_path / "run", lr=0.5, warmup_steps=2))
    rates = [record["lr"] for record in read_metrics(tmp_path / "run", "step")]
    expected = [0.0, 0.25] + [0.25 * (1 + math.cos(math.pi * time / 6)) for time in (2, 3, 4, 5)]
    assert rates == pytest.approx(expected)


def test_accumulated_records_hold_the_mean_over_their_updates(checkpoint: Path, data: Path, tmp_path: Path):
    finetune(run_config(checkpoint, data, tmp_path / "each"))
    finetune(run_config(checkpoint, data, tmp_path / "pairs", log_interval=2))
    each = losses(tmp_path / "each")
    records = read_metrics(tmp_path / "pairs", "step")
    assert [record["step"] for record in records] == [2, 3, 4, 6]
    means = [sum(each[:2]) / 2, each[2], each[3], sum(each[4:]) / 2]
    assert [record["loss"] for record in records] == pytest.approx(means)
    epochs = [record["train_loss"] for record in read_metrics(tmp_path / "pairs", "epoch")]
    assert epochs == [None, pytest.approx(sum(each[:3]) / 3), pytest.approx(sum(each[3:]) / 3)]


@pytest.mark.parametrize(
    "changes", [{"channels_last": True}, {"torchcompile": "eager"}], ids=["channels-last", "compiled"]
)
def test_faster_ways_to_compute_train_the_same(checkpoint: Path, data: Path, tmp_path: Path, changes: dict[str, Any]):
    finetune(run_config(checkpoint, data, tmp_path / "plain", epochs=1))
    finetune(run_config(checkpoint, data, tmp_path / "fast", epochs=1, **changes))
    assert losses(tmp_path / "fast") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_rounds_the_loss_and_saves_full_precision(
    checkpoint: Path, data: Path, tmp_path: Path, dtype: str
):
    """Only the first losses can be compared: the float16 scaler skips its first updates while it finds its scale."""
    finetune(run_config(checkpoint, data, tmp_path / "plain", epochs=1))
    finetune(run_config(checkpoint, data, tmp_path / "mixed", epochs=1, amp=True, amp_dtype=dtype))
    plain, mixed = losses(tmp_path / "plain")[0], losses(tmp_path / "mixed")[0]
    assert mixed == pytest.approx(plain, rel=1e-2)
    assert mixed != plain
    weights = load_file(tmp_path / "mixed/last/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32, torch.int64}
