"""What copies share adds up to the old weight in a coarser type, too."""

import pytest
import torch

from growtool.algebra.axis_map import AxisMap
from growtool.growing.rounding import rounded_together

ROWS, OLD = 12, 40


def shared(counts: list[int]) -> AxisMap:
    """A dimension a sum runs over, each old position copied so many times, in any order."""
    index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    index = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(0))]
    share = 1.0 / torch.tensor(counts).double()[index]
    return AxisMap.shared(len(counts), index, torch.zeros_like(index), share)


def split(w: torch.Tensor, axis: AxisMap, gain: float) -> torch.Tensor:
    """Columns of w [rows, old] in equal parts, with noise that cancels."""
    noise = gain * torch.randn(len(w), len(axis.index), generator=torch.Generator().manual_seed(1))
    mean = summed(noise, axis) / torch.bincount(axis.index)
    return w[:, axis.index] * axis.share.float() + noise - mean[:, axis.index]


def summed(W: torch.Tensor, axis: AxisMap) -> torch.Tensor:
    return torch.zeros(len(W), axis.size, dtype=W.dtype).index_add(1, axis.index, W)


@pytest.fixture
def w() -> torch.Tensor:
    return torch.randn(ROWS, OLD, generator=torch.Generator().manual_seed(2)).bfloat16().float()


@pytest.mark.parametrize("gain", [0.0, 0.1, 0.3])
def test_pairs_add_up_exactly_where_noise_is_no_larger_than_the_weight(w, gain):
    axis = shared([2] * OLD)
    W = split(w, axis, gain)
    largest = torch.stack([W[:, axis.index == old].abs().amax(1) for old in range(OLD)], 1)
    held = rounded_together(W.clone(), [AxisMap.unchanged(ROWS), axis], torch.bfloat16)
    assert torch.equal(held, held.bfloat16().float())
    small_noise = largest <= w.abs()
    assert small_noise.float().mean() > 0.5
    assert torch.equal(summed(held, axis)[small_noise], w[small_noise])
    alone = (summed(W.bfloat16().float(), axis) - w).norm()
    assert (summed(held, axis) - w).norm() <= 0.3 * alone


@pytest.mark.parametrize("counts", [[3] * OLD, [1, 2, 4, 1] * (OLD // 4)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_one_rounding_is_left_of_any_number_of_copies(w, counts, dtype):
    axis = shared(counts)
    W = split(w, axis, 0.1)
    held = rounded_together(W.clone(), [AxisMap.unchanged(ROWS), axis], dtype)
    smallest = torch.stack([held[:, axis.index == old].abs().amin(1) for old in range(OLD)], 1)
    off = (summed(held.double(), axis) - summed(W.double(), axis)).abs()
    assert bool((off <= torch.finfo(dtype).eps * smallest + 1e-7).all())
    assert bool(((held - W).abs() <= (len(W) + 1) * torch.finfo(dtype).eps * W.abs().max()).all())


def test_columns_and_rows_alike(w):
    """The dimension a sum runs over may come first, as in GPT-2, or before kernel positions."""
    axis, kept = shared([2] * OLD), AxisMap.unchanged(ROWS)
    W = split(w, axis, 0.1)
    held = rounded_together(W.clone(), [kept, axis], torch.bfloat16)
    assert torch.equal(rounded_together(W.T.clone(), [axis, kept], torch.bfloat16), held.T)
    kernel = rounded_together(W[:, :, None].clone(), [kept, axis, AxisMap.unchanged(1)], torch.bfloat16)
    assert torch.equal(kernel[:, :, 0], held)


def test_what_the_type_cannot_hold_is_left_as_it_is(w):
    axis = shared([2] * OLD)
    W = split(w, axis, 0.1)
    W[0, 0] = 1e30
    assert torch.equal(rounded_together(W.clone(), [AxisMap.unchanged(ROWS), axis], torch.float16), W)


def test_no_coarser_type_changes_nothing(w):
    axis = shared([2] * OLD)
    W = split(w, axis, 0.1)
    assert torch.equal(rounded_together(W.clone(), [AxisMap.unchanged(ROWS), axis], torch.float32), W)
