"""Recalibration gives BatchNorm the statistics of its inputs, and touches nothing else."""

import pytest
import torch
from torch import nn

from growtool.calibration import recalibrate
from growtool.errors import CheckpointError


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))


def test_the_statistics_are_the_mean_over_the_batches():
    net, batches = network(), [torch.randn(8, 3, 5, 5) for _ in range(3)]
    net[2].running_mean.fill_(7.0)
    assert recalibrate(net, batches) == 2
    features = [net[0](batch) for batch in batches]
    mean = torch.stack([f.mean((0, 2, 3)) for f in features]).mean(0)
    variance = torch.stack([f.var((0, 2, 3)) for f in features]).mean(0)
    torch.testing.assert_close(net[2].running_mean, mean)
    torch.testing.assert_close(net[2].running_var, variance)
    assert int(net[2].num_batches_tracked) == 3


def test_nothing_but_the_statistics_changes():
    net = network().eval()
    net[1].train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes, momentum = [module.training for module in net.modules()], net[2].momentum
    recalibrate(net, [torch.randn(8, 3, 5, 5)])
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {
        f"{norm}.{kind}" for norm in (2, 4) for kind in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert [module.training for module in net.modules()] == modes
    assert net[2].momentum == momentum
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_model_without_running_statistics_reads_no_batch():
    assert recalibrate(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), iter(lambda: 1 / 0, None)) == 0


def test_statistics_that_are_not_finite_are_refused():
    net = network()
    with torch.no_grad():
        net[0].weight.mul_(1e30)
    with pytest.raises(CheckpointError, match=r"^2\.running_var: estimated from the images, found a value that is not"):
        recalibrate(net, [torch.randn(8, 3, 5, 5)])
