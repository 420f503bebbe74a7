"""Positions listed one after the other are a slice; others stay what they are."""

import pytest
import torch

from growtool.trace.consecutive import as_slice

X = torch.arange(3 * 4 * 6).reshape(3, 4, 6)


@pytest.mark.parametrize(
    "index",
    [
        pytest.param([1, 2], id="bare"),
        pytest.param((..., [-2], slice(None)), id="last but one"),
        pytest.param((..., [-1]), id="last"),
        pytest.param((slice(1, None), [-3, -2, -1], None), id="beside a new axis"),
        pytest.param((slice(None), [0]), id="first"),
    ],
)
def test_consecutive_positions_are_a_slice(index):
    found = as_slice(index)
    assert found != index
    assert torch.equal(X[found], X[index])


@pytest.mark.parametrize("index", [[], [0, 2], [2, 1], [-1, 0], [True, False, True], ([0], [1]), (0, [1]), 1, (X > 1,)])
def test_other_indices_stay(index):
    assert as_slice(index) is index
