"""Calls taken apart in one way give what torch gives, whatever the sizes."""

import pytest
import torch
from torch.nn.functional import avg_pool2d

from growtool.trace.canonical import as_mean, as_product, as_slice
from growtool.trace.record import trace_model

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


PRODUCTS = [
    "byhwc,hkc->byhwk",
    "bnc,dc->bnd",
    "bhqd,bhkd->bhqk",
    "ab,bc->ac",
    "abc,cab->ab",
    "ni,ni->n",
    "xyz,zwx->wyx",
]


@pytest.mark.parametrize("equation", PRODUCTS)
@pytest.mark.parametrize("one", ["", "h", "b", "c"])
def test_an_einsum_of_two_is_one_product(equation, one):
    """A dimension of one position makes no difference to how it is computed."""
    sizes = {name: 1 if name == one else 2 + ord(name) % 5 for name in "abcdhiknqwxyz"}
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn([sizes[name] for name in word], dtype=torch.float64, generator=generator)
        for word in equation.split("->")[0].split(",")
    )
    found = as_product(equation, a, b)
    assert found is not None
    torch.testing.assert_close(found, torch.einsum(equation, a, b))


@pytest.mark.parametrize("equation", ["ij,jk", "ii,ij->j", "i,j->ij", "ij,kj->i", "...i,ij->...j"])
def test_other_einsums_are_left_to_torch(equation):
    assert as_product(equation, torch.ones(3, 3), torch.ones(3, 3)) is None


def test_one_head_is_computed_as_two_are():
    """Their signatures agree, so one grows into the other."""

    class Positions(torch.nn.Module):
        def __init__(self, heads: int) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.ones(heads, 5, 4))

        def forward(self, x_BYC: torch.Tensor) -> torch.Tensor:
            return torch.einsum("byhc,hkc->byhk", x_BYC.unflatten(2, (-1, 4)), self.table)

    one, two = (trace_model(Positions(heads), (3, 4 * heads)) for heads in (1, 2))
    assert [entry[0] for entry in one.signatures[""]] == [entry[0] for entry in two.signatures[""]]


@pytest.mark.parametrize(
    "window", [(7, None, 0, True), ((9, 7), (8, 7), (0, 0), True, False), (1280, None, 0, True, True, None)], ids=str
)
def test_pooling_with_a_window_as_large_as_the_image_is_its_mean(window):
    image = torch.randn(2, 3, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = as_mean(image, *window)
    assert found is not None
    torch.testing.assert_close(found, avg_pool2d(image, *window))


@pytest.mark.parametrize(
    "window", [(7,), (6, None, 0, True), (7, 5, 0, True), (9, None, 1, True), (9, 9, 0, True, True, 3)]
)
def test_other_pooling_is_left_to_torch(window):
    assert as_mean(torch.ones(2, 3, 7, 5), *window) is None
