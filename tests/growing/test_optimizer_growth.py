"""Training state grows with the weights: moments are those the grown model would have gathered on the same images."""

import json
import re
import sys

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn.functional import cross_entropy

from growtool.algebra.axis_map import axis_map
from growtool.algebra.expansion import Expansion
from growtool.algebra.layers import grow_gradient
from growtool.checkpoint import open_checkpoint
from growtool.cli import app as cli
from growtool.errors import PlanError
from growtool.finetune.optimizer_files import read_state, write_state
from growtool.finetune.optimizer_state import OptimizerState, capture
from growtool.finetune.run import finetune
from growtool.finetune.update.growth_report import read_factors
from growtool.finetune.update.optimizer import scale_rates
from growtool.growing.optimizer import find_state, grow_state
from growtool.recipe import resolve
from growtool.trace import ChannelGroup, GroupPair, PairedAxis
from tests.support.finetune import UNCLOSED_IMAGES, run_config, write_checkpoint, write_data
from tests.support.models import TINY, Tiny, grown, load, plan_of, resolved, write_folder

RESNET = Tiny("resnet18", {"layers": [2, 2, 1, 1], "channels": [4, 8, 8, 12], "num_classes": 5})
EQUAL = {"operator": "tile", "split": "equal"}
OPTIMIZERS = {
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.0, amsgrad=True),
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9),
}
GROWTHS = {
    "vit": (TINY["vit"], {"target": {"model_args": {"embed_dim": 16, "num_heads": 4}}, "width": EQUAL}),
    "resnet, any width": (
        RESNET,
        {"target": {"model_args": {"channels": [5, 11, 13, 17]}}, "width": {"operator": "net2net", "split": "equal"}},
    ),
    "convnext": (TINY["convnext"], {"target": {"model_args": {"dims": [8, 12, 16, 16]}}, "width": EQUAL}),
    "swin": (TINY["swin"], {"target": {"model_args": {"embed_dim": 16, "num_heads": [4, 4]}}, "width": EQUAL}),
    "deeper": (TINY["vit"], {"target": {"model_args": {"depth": 4}}, "depth": {"operator": "zero_out"}}),
    "deeper and wider": (
        RESNET,
        {"target": {"model_args": {"channels": [8, 16, 16, 24], "layers": [3, 2, 1, 1]}}, "width": EQUAL,
         "depth": {"operator": "zero_out"}},
    ),
}  # fmt: skip


def gathered(model: nn.Module, tiny: Tiny, optimizer: str) -> OptimizerState:
    """The moments of three updates that leave the weights alone, norms in evaluation."""
    stepping = OPTIMIZERS[optimizer](model)
    for batch in tiny.inputs(12).split(4):
        stepping.zero_grad()
        cross_entropy(model(batch), torch.arange(4)).backward()
        stepping.step()
    return capture(stepping, model)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("case", GROWTHS)
def test_grown_moments_are_those_of_the_grown_model(case, optimizer, tmp_path):
    tiny, plan = GROWTHS[case]
    source = write_folder(tiny, tmp_path / "source")
    state = gathered(load(source), tiny, optimizer)
    recipe = resolved(source, plan)
    result = grow_state(recipe, state)
    assert result.approximate is None
    grown(source, plan, tmp_path / "out")
    expected = gathered(load(tmp_path / "out"), tiny, optimizer)
    assert result.carried + result.fresh == len(dict(load(tmp_path / "out").named_parameters()))
    fresh = {name for name, tensor in recipe.tensors.items() if tensor.new}
    assert result.state.tensors.keys() == {key for key in expected.tensors if key.rpartition("/")[0] not in fresh}
    for name, moment in result.state.tensors.items():
        scale = float(expected.tensors[name].abs().max())
        torch.testing.assert_close(moment, expected.tensors[name], rtol=1e-8, atol=1e-12 + 1e-9 * scale, msg=name)
    assert [p for group in result.state.groups for p in group["params"]] == [
        name for name, _ in load(tmp_path / "out").named_parameters()
    ]


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (
            {**GROWTHS["vit"][1], "width": {"operator": "tile"}},
            "the readers of copied channels share their weights uneq",
        ),
        (
            {**GROWTHS["vit"][1], "overrides": [{"match": "head.*", "width": {"operator": "tile"}}]},
            "the readers of copied channels share their weights unequally",
        ),
        ({**GROWTHS["deeper"][1], "depth": {"operator": "stack"}}, "the grown model computes another function"),
        (
            {"target": {"model_args": {"embed_dim": 12, "num_heads": 3}}, "width": {"operator": "centre_zero"}},
            "the readers of copied channels",
        ),
    ],
    ids=["unequal", "an override", "lossy", "centred"],
)
def test_what_is_approximate_is_told(plan, reason, tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    result = grow_state(resolved(source, plan), gathered(load(source), TINY["vit"], "adamw"))
    assert result.approximate is not None and result.approximate.startswith(reason)


@pytest.mark.parametrize(
    "name",
    ["adagrad", "adam", "adamp", "adamw", "adamwlegacy", "adopt", "adoptw", "lamb", "laprop", "lars", "lion", "muon",
     "nadam", "nadamw", "novograd", "novogradw", "radam", "radamlegacy", "radamw", "rmsprop", "rmsproptf",
     "rmsproptfw", "sgd", "sgdw"],
)  # fmt: skip
def test_moments_that_hold_weight_decay_are_approximate(name, tmp_path):
    """Where there are no gradients, whatever decay changes in a moment is decay."""
    source = write_folder(TINY["vit"], tmp_path / "source")

    def state(weight_decay: float) -> OptimizerState:
        model = load(source)
        optimizer = create_optimizer_v2(model, opt=name, lr=0.0, weight_decay=weight_decay)
        for _ in range(2):
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        return capture(optimizer, model)

    plain, decayed = state(0.0), state(0.1)
    keys = decayed.tensors.keys() - decayed.shared().keys()
    coupled = any(not decayed.tensors[key].equal(plain.tensors[key]) for key in keys)
    wider, deeper = (grow_state(resolved(source, GROWTHS[case][1]), decayed).approximate for case in ("vit", "deeper"))
    assert (wider is not None) == coupled and deeper is None
    assert wider is None or wider.startswith(f"{decayed.algorithm} adds weight decay to the gradients")
    assert grow_state(resolved(source, GROWTHS["vit"][1]), plain).approximate is None


def test_moments_of_one_group_may_hold_weight_decay(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    model = load(source)
    for decayed, grows in (("head.bias", False), ("head.weight", True)):
        groups = [
            {"params": [parameter for name, parameter in model.named_parameters() if (name == decayed) == own],
             "weight_decay": 0.1 * own}
            for own in (False, True)
        ]  # fmt: skip
        optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9)
        model(TINY["vit"].inputs()).sum().backward()
        optimizer.step()
        found = grow_state(resolved(source, GROWTHS["vit"][1]), capture(optimizer, model))
        assert (found.approximate is not None) == grows


def test_gradients_grow_by_the_transposed_matrices():
    """Against dense matrices: R_out^T G E_in^T, with R the equal split."""
    rows, columns = Expansion(2, torch.tensor([0, 1, 0])), Expansion(3, torch.tensor([0, 1, 2, 2, 1]))
    growths = [GroupPair(ChannelGroup(e.size), ChannelGroup(len(e.index))) for e in (rows, columns)]
    maps = tuple(
        axis_map(PairedAxis(((g,),)), {g: e}, frozenset([g] if dim else []))
        for dim, (g, e) in enumerate(zip(growths, (rows, columns), strict=True))
    )
    G = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    E_out, E_in = (torch.eye(e.size, dtype=torch.float64)[e.index] for e in (rows, columns))
    R_out = torch.linalg.pinv(E_out)
    torch.testing.assert_close(grow_gradient(G, maps), R_out.T @ G @ E_in.T)
    torch.testing.assert_close(grow_gradient(G**2, maps, power=2), (R_out.T @ G @ E_in.T) ** 2)


def test_zeros_under_a_long_history_make_a_first_update_of_three_rates_and_the_mean_does_not(tmp_path):
    """The trap of bias correction: with v = 0 after many steps |dw| is 0.1 / sqrt(0.001) = 3.162 rates."""

    def first_update(second_moment: float) -> float:
        w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = torch.optim.Adam([w], lr=1.0, eps=0.0)
        w.grad = torch.full_like(w, 0.01)
        optimizer.state[w] = {
            "step": torch.tensor(1e5),
            "exp_avg": torch.zeros_like(w),
            "exp_avg_sq": torch.full_like(w, second_moment),
        }
        optimizer.step()
        return abs(w.item())

    assert first_update(0.0) == pytest.approx(3.162, rel=1e-2)
    assert first_update(1e-4) < 0.2
    source = write_folder(TINY["vit"], tmp_path / "source")
    state = gathered(load(source), TINY["vit"], "adamw")
    plan = {"target": {"model_args": {"embed_dim": 12, "num_heads": 3}}, "width": {"operator": "zero"}}
    result = grow_state(resolved(source, plan), state)
    assert result.approximate
    for name, moment in result.state.tensors.items():
        assert torch.isfinite(moment).all(), name
        if name.endswith("/exp_avg_sq") and state.tensors.get(name, moment).min() > 0:
            assert moment.min() > 0, name


def test_rate_factors_by_hand(tmp_path):
    """Twice as wide: the stem, a hidden layer and the head under Adam 1, 1/2, 1/2; under SGD 2, 1, 1/2."""
    source = write_folder(TINY["vit"], tmp_path / "source")
    grown(source, GROWTHS["vit"][1], tmp_path / "out")
    tensors = json.loads((tmp_path / "out" / "growth.json").read_text())["tensors"]
    assert tensors["patch_embed.proj.weight"]["lr_factors"] == {"sgd": 2.0, "adam": 1.0}
    assert tensors["blocks.0.mlp.fc1.weight"]["lr_factors"] == {"sgd": 1.0, "adam": 0.5}
    assert tensors["head.weight"]["lr_factors"] == {"sgd": 0.5, "adam": 0.5}
    assert "lr_factors" not in tensors["head.bias"]


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_with_its_factors_a_grown_layer_learns_as_fast_as_before(rule):
    """One update of a linear layer between copied channels changes its outputs as the update of the layer before."""
    k_out, k_in = 3, 2
    x = torch.randn(5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    delta = torch.randn(4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def update(G):
        return G if rule == "sgd" else G.sign()

    before = update(torch.outer(delta, x)) @ x
    G = torch.outer(delta.repeat(k_out) / k_out, x.repeat(k_in))
    factor = {"sgd": k_out / k_in, "adam": 1 / k_in}[rule]
    after = factor * update(G) @ x.repeat(k_in)
    torch.testing.assert_close(after.reshape(k_out, 4).mean(0), before)


def test_scaled_rates(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for scheduled in (True, False):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        scale_rates(optimizer, model, {"1.weight": 0.5}, scheduled=scheduled)
        assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
        (scaled,) = [group for group in optimizer.param_groups if "lr_scale" in group]
        assert scaled["params"][0] is model[1].weight and scaled["lr_scale"] == 0.5
        assert scaled["lr"] == pytest.approx(0.1 if scheduled else 0.05)
    with pytest.raises(PlanError, match=r"--lr-factors: .*growth\.json: not found, expected the report"):
        read_factors(tmp_path, optimizer)
    with pytest.raises(PlanError, match="--lr-factors: found the optimizer Adagrad, expected one of SGD"):
        read_factors(tmp_path, torch.optim.Adagrad(model.parameters()))


def test_state_that_grows_in_no_known_way(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    state = gathered(load(source), TINY["vit"], "sgd")
    odd = {**state.tensors, "head.weight/row": torch.zeros(5), "gone.weight/momentum_buffer": torch.zeros(2)}
    with pytest.raises(PlanError) as raised:
        grow_state(resolved(source, GROWTHS["deeper"][1]), OptimizerState("Odd", state.groups, odd))
    assert list(raised.value.problems) == [
        "head.weight/row: Odd keeps it as [5], and how it grows is not known",
        f"gone.weight/momentum_buffer: found in the optimizer's state, and {source} has no such parameter",
        "grow without the optimizer's state: --no-optimizer-state",
    ]


def test_what_belongs_to_a_group_stays(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    model = load(source)
    optimizer = create_optimizer_v2(model, opt="lamb", lr=0.0)
    model(TINY["vit"].inputs()).sum().backward()
    optimizer.step()
    result = grow_state(resolved(source, GROWTHS["vit"][1]), capture(optimizer, model))
    assert result.carried == len(list(model.parameters()))
    write_state(tmp_path, result.state)
    (steps,) = read_state(tmp_path).shared().values()
    assert int(steps) == 1


@UNCLOSED_IMAGES
def test_train_grow_train(tmp_path, monkeypatch, capsys):
    """The state is found in the run, grown beside the weights, and fine-tuning starts from it."""
    monkeypatch.setenv("COLUMNS", "200")
    checkpoint, data = write_checkpoint(tmp_path / "checkpoint"), write_data(tmp_path / "data")
    finetune(run_config(checkpoint, data, tmp_path / "run", epochs=1))
    plan = plan_of(tmp_path, {"target": {"model_args": {"channels": [8, 16, 16, 24]}}, "width": EQUAL})

    def growtool(*arguments) -> tuple[int, str]:
        """Exit code and what was printed."""
        monkeypatch.setattr(sys, "argv", ["growtool", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as ended:
            return ended.code or 0, "".join(capsys.readouterr())
        return 0, "".join(capsys.readouterr())

    code, told = growtool("grow", tmp_path / "run/last", plan.path, "-o", tmp_path / "grown")
    assert code == 0 and re.search(r"optimizer: moments of \d+ parameters grown \(as the grown model would", told)
    state = find_state(tmp_path / "grown")
    assert state is not None and state.tensors["fc.weight/exp_avg"].shape == (3, 24)
    assert json.loads((tmp_path / "grown" / "growth.json").read_text())["optimizer"]["approximate"] is None
    options = {"epochs": 1, "carry_optimizer": True, "lr_factors": True}
    finetune(run_config(tmp_path / "grown", data, tmp_path / "second", **options))
    steps = read_state(tmp_path / "second/last").tensors["fc.weight/step"]
    assert float(steps) == 2 * float(state.tensors["fc.weight/step"])
    code, told = growtool("grow", tmp_path / "run/last", plan.path, "-o", tmp_path / "bare", "--no-optimizer-state")
    assert code == 0 and "optimizer" not in told and find_state(tmp_path / "bare") is None
    code, told = growtool("grow", checkpoint, plan.path, "-o", tmp_path / "x", "--optimizer-state", checkpoint)
    assert code == 1 and "found no optimizer.json, expected a run of `growtool finetune`" in told
    code, told = growtool("grow", tmp_path / "run/last", plan.path, "-o", tmp_path / "one.safetensors")
    assert code == 1 and "a single file has no place for the optimizer's state" in told
    assert not (tmp_path / "one.safetensors").exists()


def test_a_state_survives_its_files(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    state = gathered(load(source), TINY["vit"], "adamw")
    result = grow_state(resolve(plan_of(tmp_path, GROWTHS["deeper"][1]).plan, open_checkpoint(source)), state)
    (tmp_path / "state").mkdir()
    write_state(tmp_path / "state", result.state)
    again = read_state(tmp_path / "state")
    assert again.groups == list(result.state.groups) and again.values == dict(result.state.values)
