"""Several processes compute what one does with the same images per update, and hand their checkpoints to each other.

The model has no BatchNorm, whose statistics would be over a process's own images.
"""

import json
import os
import signal
import subprocess
import sys
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from growtool.finetune.parallel.distributed import World, joined, whole
from growtool.finetune.prepare import prepare
from growtool.finetune.run import finetune
from growtool.finetune.state.copies import Copies
from growtool.finetune.state.records import Progress
from growtool.finetune.stopping import Stopped
from growtool.finetune.update.objective import Objective
from tests.support.finetune import (
    CLASSES,
    PRETRAINED_CFG,
    UNCLOSED_IMAGES,
    losses,
    read_metrics,
    run_config,
    write_checkpoint,
    write_data,
)
from tests.support.processes import in_processes

pytestmark = [
    UNCLOSED_IMAGES,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo"),
]
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": len(CLASSES)}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", pretrained_cfg_overlay=PRETRAINED_CFG, **VIT)
    save_for_hf(model, tmp_path / "model", model_args=VIT, safe_serialization=True)
    return tmp_path / "model"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data", validation=5)


def run_as(settings: dict[str, Any], rank: int) -> None:
    finetune(run_config(**settings))


def train(count: int, output: Path, **settings: Any) -> None:
    in_processes(count, partial(run_as, {"output": output, **settings}))


@pytest.mark.parametrize(
    ("count", "settings"),
    [
        (2, {"model_ema": True, "grad_accum_steps": 2}),
        pytest.param(4, {"clip_grad": 0.5}, marks=pytest.mark.slow),
        (2, {"engine": "fsdp", "model_ema": True, "clip_grad": 0.5, "channels_last": True}),
        pytest.param(4, {"engine": "fsdp", "grad_accum_steps": 2}, marks=pytest.mark.slow),
        (2, {"lora_rank": 2}),
        (2, {"engine": "fsdp", "opt": "swan", "train": "blocks.1.*", "freeze_epochs": 1, "nonfinite": "skip"}),
    ],
    ids=["ddp-2", "ddp-4", "fsdp-2", "fsdp-4", "ddp-adapters", "fsdp-swan-released"],
)
def test_processes_compute_what_one_does(
    checkpoint: Path, data: Path, tmp_path: Path, count: int, settings: dict[str, Any]
):
    common = {"checkpoint": checkpoint, "data": data, "lr": 1e-3, "mixup": 0.0, **settings}
    finetune(run_config(output=tmp_path / "one", **common | {"engine": "ddp"}))
    train(count, tmp_path / "many", **common)
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, many = (read_metrics(tmp_path / run, "epoch") for run in ("one", "many"))
    assert [record["top1"] for record in many] == [record["top1"] for record in one]
    assert [record["eval_loss"] for record in many] == pytest.approx([record["eval_loss"] for record in one], rel=1e-4)
    for file in ("last/model.safetensors", "last/optimizer.safetensors", "best/model.safetensors"):
        expected, found = (load_file(tmp_path / run / file) for run in ("one", "many"))
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=2e-5)


class Terminate(Progress):
    def advanced(self, step: int) -> None:
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)


def stopped(settings: dict[str, Any], rank: int) -> None:
    with pytest.raises(Stopped, match="after update 4"):
        finetune(run_config(**settings), Terminate())


@pytest.mark.parametrize(
    ("first", "second", "engine"),
    [
        (2, 1, "ddp"),
        pytest.param(1, 4, "ddp", marks=pytest.mark.slow),
        pytest.param(2, 4, "fsdp", marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_with_another_number_of_processes(
    checkpoint: Path, data: Path, tmp_path: Path, first: int, second: int, engine: str
):
    """Only one process is told to stop; all agree on the update after which they do."""
    common = {"checkpoint": checkpoint, "data": data, "lr": 1e-3}

    finetune(run_config(output=tmp_path / "one", **common))
    in_processes(first, partial(stopped, {"output": tmp_path / "parts", "engine": engine, **common}))
    train(second, tmp_path / "parts", resume="auto", engine=engine, **common)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert [record["step"] for record in read_metrics(tmp_path / "parts", "step")] == [1, 2, 3, 4, 5, 6]


class Seen(TorchDispatchMode):
    """How often gradients were exchanged, and the matrices that a forward pass keeps in bfloat16 for the backward."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective, self.exchanged = objective, 0
        self.kept: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "reduce_scatter" in func.name():
            self.exchanged += 1
            assert {tensor.dtype for tensor in tree_leaves(args) if isinstance(tensor, torch.Tensor)} == {torch.float32}
        return func(*args, **(kwargs or {}))

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.bfloat16 and tuple(tensor.shape) in MATRICES:
            self.kept.append(tensor)
        return tensor

    def after_the_forward_pass(self, *arguments: Any) -> torch.Tensor:
        assert self.kept
        assert not any(tensor.untyped_storage().nbytes() for tensor in self.kept), "a copy that FSDP does not free"
        self.kept.clear()
        return self.objective(*arguments)


MATRICES = {(36, 12), (12, 36), (48, 12), (12, 48)}  # of qkv and the MLP, as they are and transposed


def update_in_shards(settings: dict[str, Any], rank: int) -> None:
    """One update in two parts."""
    world, device = World.from_environment(), torch.device("cpu")
    with joined(world, device), pytest.MonkeyPatch.context() as patch:
        forgotten: list[torch.device] = []
        patch.setattr("growtool.finetune.assemble.forget_peak", forgotten.append)
        job = prepare(run_config(**settings), device, world)
        job.begin_epoch(1)
        seen = Seen(job.trainer.objective)
        job.trainer.objective = seen.after_the_forward_pass  # type: ignore[assignment]
        with seen, torch.autograd.graph.saved_tensors_hooks(seen.pack, lambda tensor: tensor):
            assert job.trainer.update(*next(iter(job.train.epoch(1)))) is not None
    assert forgotten == [device], "the peak is of what a process keeps"
    assert seen.exchanged == 1 + VIT["depth"], seen.exchanged


def test_shards_in_bfloat16_are_freed_and_reduced_once(checkpoint: Path, data: Path, tmp_path: Path):
    common = {"checkpoint": checkpoint, "data": data, "output": tmp_path / "run"}
    settings = common | {"engine": "fsdp", "amp": True, "grad_accum_steps": 2}
    in_processes(2, partial(update_in_shards, settings))


def test_shards_in_bfloat16_keep_batch_norm_in_float32(data: Path, tmp_path: Path):
    checkpoint = write_checkpoint(tmp_path / "resnet")
    common = {"checkpoint": checkpoint, "data": data, "lr": 1e-3, "amp": True, "epochs": 1, "grad_accum_steps": 2}
    for engine in ("ddp", "fsdp"):
        train(2, tmp_path / engine, engine=engine, channels_last=True, model_ema=True, **common)
    assert losses(tmp_path / "fsdp") == pytest.approx(losses(tmp_path / "ddp"), rel=2e-2)


def count_copies(settings: dict[str, Any], rank: int) -> None:
    made: list[str] = []
    copy = Copies.copy

    def counted(self: Copies, key: str, tensor: torch.Tensor) -> torch.Tensor:
        made.append(key)
        return copy(self, key, tensor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Copies, "copy", counted)
        finetune(run_config(**settings))
    assert bool(made) == (rank == 0)


def hold_one_whole_tensor(settings: dict[str, Any], rank: int) -> None:
    gathered: list[weakref.ref[torch.Tensor]] = []

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        found = whole(tensor)
        if found is not tensor:
            assert sum(earlier() is not None for earlier in gathered) <= 1, "besides the one that is being copied"
            gathered.append(weakref.ref(found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        for module in ("state.weights", "state.packed"):
            patch.setattr(f"growtool.finetune.{module}.whole", counted)
        finetune(run_config(**settings))
    assert gathered


def test_shards_are_gathered_one_tensor_at_a_time(checkpoint: Path, data: Path, tmp_path: Path):
    settings = {"checkpoint": checkpoint, "data": data, "output": tmp_path / "run", "engine": "fsdp", "steps": 2}
    in_processes(2, partial(hold_one_whole_tensor, settings | {"epochs": None, "model_ema": True}))


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_only_the_process_that_writes_copies(checkpoint: Path, data: Path, tmp_path: Path, engine: str):
    settings = {"checkpoint": checkpoint, "data": data, "output": tmp_path / "run", "engine": engine, "steps": 2}
    in_processes(2, partial(count_copies, settings | {"epochs": None, "model_ema": True, "lora_rank": 2}))


@pytest.mark.slow
def test_torchrun_starts_the_command(checkpoint: Path, data: Path, tmp_path: Path):
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "growtool"]
    command += [
        "finetune",
        str(checkpoint),
        "--data",
        str(data),
        "-o",
        str(tmp_path / "run"),
        "-b",
        "8",
        "--steps",
        "2",
    ]
    command += ["--workers", "0", "--device", "cpu", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2  # one document: the first process alone speaks
