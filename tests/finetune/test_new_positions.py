"""What growth made learns otherwise at first: its updates grow to full size, and the optimizer begins anew there."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import Tensor

from growtool.checkpoint import open_checkpoint
from growtool.errors import PlanError
from growtool.finetune.optimizer_files import read_state
from growtool.finetune.optimizer_state import OptimizerState, capture
from growtool.finetune.prepare import prepare
from growtool.finetune.run import finetune
from growtool.finetune.update.new_positions import NewWarmup, begun_anew
from growtool.finetune.update.trainable import Selection
from growtool.growing import grow
from growtool.plan import load_plan
from growtool.recipe import resolve
from tests.support.finetune import CLASSES, PRETRAINED_CFG, UNCLOSED_IMAGES, losses, new_in, run_config
from tests.support.processes import in_processes

pytestmark = UNCLOSED_IMAGES
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 3, "num_classes": len(CLASSES)}
BOTH = {
    "target": {"model_args": {"embed_dim": 24, "num_heads": 6, "depth": 2}},
    "width": {"operator": "tile"},
    "depth": {"operator": "zero_out"},
}


@pytest.fixture
def vit(data: Path, tmp_path: Path) -> Path:
    """Trained for an epoch, and grown in width and depth with the optimizer's state; no BatchNorm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", pretrained_cfg_overlay=PRETRAINED_CFG, **VIT)
    save_for_hf(model, tmp_path / "small", model_args=VIT, safe_serialization=True)
    finetune(run_config(tmp_path / "small", data, tmp_path / "before", epochs=1, lr=1e-3))
    (tmp_path / "plan.yaml").write_text(json.dumps(BOTH))
    source, loaded = tmp_path / "before/last", load_plan(tmp_path / "plan.yaml")
    grow(resolve(loaded.plan, open_checkpoint(source)), loaded, tmp_path / "grown", optimizer=read_state(source))
    return tmp_path / "grown"


def parts(folder: Path, of: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """The parameters in `folder`, each as its old and its new elements by the growth report of `of`."""
    new, state = new_in(of), load_file(folder / "model.safetensors")
    masks = {name: new.mask(name, tensor.shape) for name, tensor in state.items()}
    return {name: (tensor[~masks[name]], tensor[masks[name]]) for name, tensor in state.items()}


@pytest.mark.parametrize(
    "make",
    [
        partial(torch.optim.AdamW, weight_decay=0.3),
        partial(torch.optim.SGD, momentum=0.9, weight_decay=0.3),
    ],
    ids=["adamw", "sgd"],
)
def test_a_step_is_scaled_at_new_positions_and_in_new_tensors_alone(make: Any):
    """As by a rate so much lower, decay included; old positions to the bit as without."""

    def stepped(factor: float, lr: float = 0.1) -> torch.nn.Linear:
        torch.manual_seed(0)
        model = torch.nn.Linear(5, 4, dtype=torch.float64)
        optimizer = make(model.parameters(), lr=lr)
        warmup = NewWarmup(model, Selection(frozenset({"bias"}), {"weight": (((2, 4),), ((0, 1), (3, 5)))}), 10)
        for step in (99, round(10 * factor)):  # a full one first, so that there is momentum
            for group in optimizer.param_groups:
                group["lr"] = lr if step != 99 else 0.1
            model(torch.randn(3, 5, dtype=torch.float64)).square().sum().backward()
            with warmup.scaling(step):
                optimizer.step()
        return model

    full, some, lower = stepped(1.0), stepped(0.3), stepped(1.0, lr=0.03)
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[2:], mask[:, 0], mask[:, 3:] = True, True, True
    assert torch.equal(some.weight[~mask], full.weight[~mask])
    torch.testing.assert_close(some.weight[mask], lower.weight[mask])
    torch.testing.assert_close(some.bias, lower.bias)
    assert not torch.isclose(some.weight[mask], full.weight[mask]).any()


def test_a_run_begins_with_the_old_positions_alone(vit: Path, data: Path, tmp_path: Path):
    """The first update has the factor 0 at new positions, and is as without at old ones; the second loss differs."""
    settings: dict[str, Any] = {"lr": 1e-3, "recovery_interval": 1, "checkpoint_hist": 9}
    finetune(run_config(vit, data, tmp_path / "plain", **settings))
    finetune(run_config(vit, data, tmp_path / "warm", new_warmup="4steps", **settings))
    grown, (plain, warm) = (
        parts(vit, vit),
        (parts(tmp_path / run / "checkpoints/step-00000001", vit) for run in ("plain", "warm")),
    )
    for name, (old, new) in warm.items():
        assert torch.equal(old, plain[name][0]), name
        assert torch.equal(new, grown[name][1]), name
    assert any(not torch.equal(new, grown[name][1]) for name, (_, new) in plain.items())
    one, two = losses(tmp_path / "plain"), losses(tmp_path / "warm")
    assert one[0] == two[0] and all(a != b for a, b in zip(one[1:], two[1:], strict=True))


SETTINGS: dict[str, Any] = {
    "lr": 1e-3, "carry_optimizer": True, "new_state": "reset", "new_warmup": "4steps", "weight_decay": 0.3,
}  # fmt: skip


def test_what_is_resumed_within_the_warm_up_is_the_uninterrupted_run(vit: Path, data: Path, tmp_path: Path):
    run = partial(run_config, vit, data, tmp_path / "run", recovery_interval=1, checkpoint_hist=9, **SETTINGS)
    finetune(run())
    expected = losses(tmp_path / "run"), (tmp_path / "run/last/model.safetensors").read_bytes()
    for step in (1, 3):
        finetune(run(resume=str(tmp_path / f"run/checkpoints/step-{step:08d}")))
        assert (losses(tmp_path / "run"), (tmp_path / "run/last/model.safetensors").read_bytes()) == expected


def run_as(settings: dict[str, Any], rank: int) -> None:
    finetune(run_config(**settings))


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_processes_compute_what_one_does(vit: Path, data: Path, tmp_path: Path, engine: str):
    """Sharded positions are scaled alike, and their moments begun anew; resumed within the warm-up, it is the same."""
    common = {"checkpoint": vit, "data": data, **SETTINGS, "recovery_interval": 1, "checkpoint_hist": 9}
    finetune(run_config(output=tmp_path / "one", **common))
    in_processes(2, partial(run_as, {"output": tmp_path / "many", "engine": engine, **common}))
    one, many = (parts(tmp_path / run / "checkpoints/step-00000001", vit) for run in ("one", "many"))
    grown = parts(vit, vit)
    for name, (old, new) in many.items():
        assert torch.equal(new, grown[name][1]), name
        torch.testing.assert_close(old, one[name][0], rtol=1e-3, atol=2e-5)
    for file in ("model.safetensors", "optimizer.safetensors"):
        expected, found = (load_file(tmp_path / run / "last" / file) for run in ("one", "many"))
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=2e-5)
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    before, ended = losses(tmp_path / "many"), (tmp_path / "many/last/model.safetensors").read_bytes()
    back = str(tmp_path / "many/checkpoints/step-00000003")
    in_processes(2, partial(run_as, {"output": tmp_path / "many", "engine": engine, "resume": back, **common}))
    assert losses(tmp_path / "many") == before
    assert (tmp_path / "many/last/model.safetensors").read_bytes() == ended


@pytest.mark.parametrize("how", ["carried", "reset", "mean"])
def test_the_state_of_new_positions_begins_anew(vit: Path, data: Path, tmp_path: Path, how: Any):
    """First moments at 0, second ones at 0 or at the mean of the old ones of their tensor; old ones and counts stay."""
    carried, new = read_state(vit), new_in(vit)
    config = run_config(vit, data, tmp_path / "run", carry_optimizer=True, new_state=how)
    trainer = prepare(config, torch.device("cpu")).trainer
    state = capture(trainer.optimizer, trainer.model)
    assert state.tensors.keys() == carried.tensors.keys()  # new blocks have none
    assert {name.split(".")[1] for name in new.names} == {"1"} and len(new.slices) > 10
    for key, before in carried.tensors.items():
        name, _, slot = key.partition("/")
        if not before.ndim or name not in new.slices or how == "carried":
            assert torch.equal(state.tensors[key], before)
            continue
        mask = new.mask(name, before.shape)
        assert torch.equal(state.tensors[key][~mask], before[~mask])
        expected = before[~mask].mean() if (how, slot) == ("mean", "exp_avg_sq") else torch.tensor(0.0)
        torch.testing.assert_close(state.tensors[key][mask], expected.expand(int(mask.sum())))


def test_new_tensors_that_have_trained_begin_without_state():
    state = OptimizerState(
        "AdamW", [], {"a/exp_avg": torch.ones(2), "a/step": torch.ones(()), "b/step": torch.ones(())}
    )
    assert set(begun_anew(state, Selection(frozenset("a")), "reset").tensors) == {"b/step"}


def test_a_state_of_unknown_slots_is_left_to_be_carried():
    state = OptimizerState("Adafactor", [], {"a/exp_avg_sq_row": torch.ones(2)})
    new = Selection(frozenset(), {"a": (((1, 2),),)})
    assert begun_anew(state, new, "carried") is state
    with pytest.raises(PlanError, match=r"--new-state reset: Adafactor keeps a/exp_avg_sq_row, and what of it belongs"):
        begun_anew(state, new, "reset")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"new_warmup": "7steps"}, r"--new-warmup: found 7steps, which is 7 updates, expected 1 to the 6 of the run"),
        ({"new_warmup": 0.01}, r"--new-warmup: found 0.01, which is 0 updates"),
        ({"new_warmup": "2steps"}, r"--new-warmup: .*growth.json: not found, expected the report .*; drop the"),
    ],
)
def test_what_does_not_fit_is_said(checkpoint: Path, data: Path, tmp_path: Path, changes: Any, message: str):
    with pytest.raises(PlanError, match=message):
        finetune(run_config(checkpoint, data, tmp_path / "run", **changes))
