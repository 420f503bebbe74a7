"""Several processes compute what one does with the same images per update, and hand their checkpoints to each other.

The model has no BatchNorm, whose statistics would be over a process's own images.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from finetune_support import CLASSES, PRETRAINED_CFG, UNCLOSED_IMAGES, losses, read_metrics, run_config, write_data
from safetensors.torch import load_file
from timm.models import save_for_hf

from growtool.finetune.records import Silent
from growtool.finetune.run import finetune
from growtool.finetune.stopping import Stopped

pytestmark = [
    UNCLOSED_IMAGES,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked"),
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


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def in_processes(count: int, act: Callable[[int], object]) -> None:
    """Call `act(rank)` in `count` processes that find each other as torchrun's do."""
    port, children = free_port(), []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            here = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": count,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            os.environ.update({name: str(value) for name, value in here.items()})
            try:
                act(rank)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * count


def train(count: int, output: Path, **settings: Any) -> None:
    in_processes(count, lambda rank: finetune(run_config(output=output, **settings)))


@pytest.mark.parametrize(
    ("count", "settings"),
    [
        (2, {"model_ema": True, "grad_accum_steps": 2}),
        (4, {"clip_grad": 0.5}),
        (2, {"engine": "fsdp", "model_ema": True, "clip_grad": 0.5}),
        (4, {"engine": "fsdp", "grad_accum_steps": 2}),
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


@pytest.mark.parametrize(("first", "second", "engine"), [(2, 1, "ddp"), (1, 4, "ddp"), (2, 4, "fsdp")])
def test_a_run_goes_on_with_another_number_of_processes(
    checkpoint: Path, data: Path, tmp_path: Path, first: int, second: int, engine: str
):
    """Only one process is told to stop; all agree on the update after which they do."""
    common = {"checkpoint": checkpoint, "data": data, "lr": 1e-3}

    class Terminate(Silent):
        def advanced(self, step: int) -> None:
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    def stopped(rank: int) -> None:
        with pytest.raises(Stopped, match="after update 4"):
            finetune(run_config(output=tmp_path / "parts", engine=engine, **common), Terminate())

    finetune(run_config(output=tmp_path / "one", **common))
    in_processes(first, stopped)
    train(second, tmp_path / "parts", resume="auto", engine=engine, **common)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert [record["step"] for record in read_metrics(tmp_path / "parts", "step")] == [1, 2, 3, 4, 5, 6]


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
