"""Random numbers for large tensors come from a pool: normal in every row and column, no two rows alike."""

import pytest
import torch

from growtool.operators.base import drawn

SHAPES = [(4096, 512), (700, 64, 3, 3), (3, 200_000), (300_000, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_large_tensors_are_normal_along_every_dimension(shape):
    values = drawn(shape, torch.Generator().manual_seed(1), torch.float64, 0.5).reshape(shape[0], -1)
    assert values.shape[0] == shape[0]
    for dim in (0, 1):
        count = values.shape[dim]
        if count >= 500:
            means, deviations = values.mean(dim), values.std(dim)
            assert means.abs().max() < 0.5 * 6 / count**0.5
            assert (deviations - 0.5).abs().max() < 0.5 * 6 / (2 * count) ** 0.5
    kurtosis = ((values / 0.5) ** 4).mean()
    assert abs(kurtosis - 3) < 0.1


@pytest.mark.parametrize("shape", SHAPES)
def test_no_two_rows_or_columns_are_alike(shape):
    values = drawn(shape, torch.Generator().manual_seed(1), torch.float32).reshape(shape[0], -1)
    for those in (values[:, :2], values.T[:, :2]):
        assert len(torch.unique(those, dim=0)) == len(those)


def test_a_large_tensor_is_made_of_few_numbers():
    values = drawn((4096, 512), torch.Generator().manual_seed(1), torch.float64)
    assert len(values.unique()) < values.numel() / 2


def test_it_takes_the_generator_alone():
    one, other = (drawn((1000, 1000), torch.Generator().manual_seed(5), torch.float32) for _ in range(2))
    assert torch.equal(one, other)
