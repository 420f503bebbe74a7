"""SWAN against its published rule, computed from the singular value decomposition."""

import pytest
import torch
from torch import nn

from growtool.finetune.update.swan import Swan, direction, grad_norm, grad_whitening


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_rows_are_standardised():
    normed = grad_norm(draw(4, 9) * 3 + 5)
    torch.testing.assert_close(normed.mean(1), torch.zeros(4, dtype=torch.float64), atol=1e-7, rtol=0)
    torch.testing.assert_close(normed.square().mean(1), torch.ones(4, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6)])
def test_whitening_is_the_inverse_square_root_of_the_gram_matrix_times_the_gradient(shape: tuple[int, int]):
    """(G G^T)^(-1/2) G = U V^T."""
    gradient = draw(*shape)
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    torch.testing.assert_close(grad_whitening(gradient, 40), left @ right, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(5, 8), (8, 3, 2, 2)])
def test_an_update_is_the_published_rule(shape: tuple[int, ...]):
    weight = nn.Parameter(draw(*shape).float())
    before, gradient = weight.detach().clone(), draw(*shape, seed=1).float()
    weight.grad = gradient.clone()
    Swan([weight], lr=0.1, weight_decay=0.5, iterations=40).step()
    normed = grad_norm(gradient.flatten(1))
    left, _, right = torch.linalg.svd(normed, full_matrices=False)
    rule = left @ right
    rule *= normed.norm() / rule.norm()
    torch.testing.assert_close(weight.detach(), before * 0.95 - 0.1 * rule.view(shape), atol=1e-3, rtol=1e-3)


def test_what_is_no_matrix_is_divided_by_its_root_mean_square():
    torch.testing.assert_close(direction(torch.tensor([3.0, -4.0])), torch.tensor([3.0, -4.0]) / 12.5**0.5)


def test_nothing_is_remembered():
    net = nn.Linear(3, 4)
    optimizer = Swan(net.parameters(), lr=0.01)
    net(torch.randn(2, 3, generator=torch.Generator().manual_seed(0))).sum().backward()
    optimizer.step()
    assert not optimizer.state


def test_a_gradient_of_zero_moves_nothing():
    assert torch.equal(direction(torch.zeros(4, 5)), torch.zeros(4, 5))
