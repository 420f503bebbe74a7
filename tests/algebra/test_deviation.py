"""The deviation that noise is scaled by, against torch's own."""

import pytest
import torch

from growtool.algebra import layers


@pytest.mark.parametrize("shape", [(1,), (7, 5), (3, 4, 2, 2)])
def test_a_deviation_is_that_of_all_numbers_however_few_are_read_at_once(shape, monkeypatch):
    W = 100 + torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for at_once in (4, 20, 1 << 18):
        monkeypatch.setattr(layers, "AT_ONCE", at_once)
        assert layers.deviation(W) == pytest.approx(float(W.std(correction=0)), rel=1e-12)
        assert layers.deviation(torch.full(shape, 0.5)) == layers.deviation(torch.zeros(0)) == 0
