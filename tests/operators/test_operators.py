"""Width operators on tiny layers: which blocks come out, and from which random numbers.

A grid block `N_ij` is known exactly here: coefficients are fixed by the seed and the tensor's name, and its size is
`gain * |W|` (Frobenius), so expected matrices are built by hand from templates.
"""

import itertools
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from growtool.algebra.axis_map import AxisMap, axis_map
from growtool.algebra.expansion import Expansion, tiled
from growtool.checkpoint import Layout
from growtool.operators.base import Layer, generator_for
from growtool.operators.table import OPERATORS
from growtool.operators.width import mixture, net2net, tile
from growtool.plan.depth import CancelOut, Interleave, Map, Net2Deeper, Stack, ZeroOut
from growtool.plan.width import Mixture, Net2Net, Tile
from growtool.templates.coefficients import new_vectors
from growtool.templates.source import Grid
from growtool.trace import ChannelGroup, GroupPair, PairedAxis

TIGHT = 1e-12


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def axis(expansion: Expansion, *, summed: bool) -> AxisMap:
    growth = GroupPair(ChannelGroup(expansion.size), ChannelGroup(len(expansion.index)))
    return axis_map(PairedAxis(((growth,),)), {growth: expansion}, frozenset([growth] if summed else []))


def linear(rows: Expansion, columns: Expansion, *, templates: int = 1, own: int = 0, seed: int = 0, kernel: int = 0):
    """A layer whose columns are summed over."""
    maps = [axis(rows, summed=False), axis(columns, summed=True), *[AxisMap.unchanged(kernel)] * bool(kernel)]
    return Banked("blocks.0.fc.weight", tuple(maps), seed, templates=templates, own=own)


@dataclass(frozen=True, slots=True)
class Banked(Layer):
    """A layer in a raw bank: its own weight is template `own`."""

    templates: int = 1
    own: int = 0


class Bank:
    """Templates t0, t1, ... as large as W, given by `read`."""

    def __init__(self, W: Tensor, count: int, read) -> None:
        self.block, self.count, self._read = tuple(W.shape), count, read

    def template(self, t: int, rows: slice = slice(None)) -> Tensor:
        return self._read(f"t{t}")[rows]


def mixed(spec: Mixture, W: Tensor, layer: Layer, read) -> Tensor:
    """`mixture.grow` of a layer in a raw bank."""
    return mixture.grow(spec, W, in_bank(W, layer, read))


def in_bank(W: Tensor, layer: Layer, read) -> Layer:
    if not isinstance(layer, Banked):
        return layer
    C = torch.zeros(1, 1, layer.templates)
    C[..., layer.own] = 1.0
    grid = Grid(C, Bank(W, layer.templates, read), Layout.whole(W.shape[0]), Layout.whole(W.shape[1]))
    return replace(layer, grid=lambda: grid)


def new(spec: Mixture, templates: int, own: int, blocks: int, generator: torch.Generator) -> Tensor:
    """Coefficients of new blocks of a layer with the one-hot vector `own`."""
    vector = torch.zeros(1, templates)
    vector[0, own] = 1.0
    return new_vectors(spec.coefficients, vector.expand(blocks, -1), vector, generator)


def must_not_be_read(name: str) -> Tensor:
    raise AssertionError(f"{name} was read")


def sums_over_copies(W: Tensor, columns: Expansion) -> Tensor:
    return torch.zeros(W.shape[0], columns.size, *W.shape[2:], dtype=W.dtype).index_add_(1, columns.index, W)


def assert_same_function(grown: Tensor, W: Tensor, rows: Expansion, columns: Expansion) -> None:
    torch.testing.assert_close(sums_over_copies(grown, columns), W[rows.index], rtol=0, atol=TIGHT)


@given(st.integers(2, 6), st.integers(1, 12), st.data())
def test_orthogonal_coefficients(templates, blocks, data):
    """Unit vectors orthogonal to the own one-hot, and to each other while the bank has room; largest entry positive."""
    own = data.draw(st.integers(0, templates - 1))
    c = new(Mixture(), templates, own, blocks, generator_for(data.draw(st.integers(0, 9)), "x"))
    assert c.shape == (blocks, templates) and c.dtype == torch.float64
    assert not c[:, own].any()
    torch.testing.assert_close(c.norm(dim=1), torch.ones(blocks, dtype=torch.float64), rtol=0, atol=TIGHT)
    assert (c.gather(1, c.abs().argmax(1, keepdim=True)) > 0).all()
    for start in range(0, blocks, templates - 1):
        together = c[start : start + templates - 1]
        gram = together @ together.T
        torch.testing.assert_close(gram, torch.eye(len(together), dtype=torch.float64), rtol=0, atol=TIGHT)


def test_a_bank_of_one_has_no_orthogonal_vector():
    assert not new(Mixture(), 1, 0, 2, generator_for(0, "x")).any()


def test_other_coefficients():
    generator = generator_for(0, "x")
    copy = new(Mixture(coefficients="copy"), 3, 1, 2, generator)
    assert copy.tolist() == [[0, 1, 0], [0, 1, 0]]
    assert not new(Mixture(coefficients="zero"), 3, 1, 2, generator).any()
    drawn = new(Mixture(coefficients="random"), 3, 1, 2, generator)
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(2, dtype=torch.float64))
    assert drawn.all() and not torch.equal(drawn[0], drawn[1])


def test_the_published_hand_case():
    """Templates 2 and 5 with the own coefficients (1, 0): the orthogonal vector is (0, 1), so the new block is 5."""
    for own, other in ((0, [0.0, 1.0]), (1, [1.0, 0.0])):
        c = new(Mixture(), 2, own, 2, generator_for(0, "x"))
        torch.testing.assert_close(c, torch.tensor([other] * 2, dtype=torch.float64), rtol=0, atol=TIGHT)


def test_random_numbers_depend_on_seed_and_name_alone():
    def drawn(seed: int, name: str) -> list[float]:
        return torch.randn(3, generator=generator_for(seed, name)).tolist()

    assert drawn(0, "a") == drawn(0, "a")
    assert drawn(0, "a") != drawn(1, "a") and drawn(0, "a") != drawn(0, "b")


def grid(blocks: list[list[Tensor]]) -> Tensor:
    return torch.cat([torch.cat(row, 1) for row in blocks])


def scaled(block: Tensor, W: Tensor, gain: float) -> Tensor:
    return block * gain * W.norm() / block.norm()


@pytest.mark.parametrize("compensate", [True, False])
def test_a_two_by_two_grid(compensate):
    W, T = random(2, 3), random(2, 3, seed=1)
    spec, layer = Mixture(gain=0.4, compensate=compensate), linear(tiled(2, 4), tiled(3, 6), templates=2)
    grown = mixed(spec, W, layer, {"t1": T}.__getitem__)
    N = scaled(T, W, 0.4)
    expected = [[W - N, N], [-N, W + N]] if compensate else [[W, N], [N, W]]
    torch.testing.assert_close(grown, grid(expected), rtol=0, atol=TIGHT)


@pytest.mark.parametrize("copies", [2, 3, 4])
@pytest.mark.parametrize("templates", [2, 3, 5])
def test_no_exchange_of_copies_leaves_a_grid_as_it_is(copies, templates):
    """Else their gradients were equal for ever, however few directions the templates leave."""
    W = random(2, 2)
    bank = {f"t{t}": random(2, 2, seed=t) for t in range(templates)}
    grown = mixed(
        Mixture(), W, linear(tiled(2, 2 * copies), tiled(2, 2 * copies), templates=templates), bank.__getitem__
    )
    blocks = grown.unflatten(0, (copies, 2)).unflatten(2, (copies, 2))
    for order in itertools.permutations(range(copies)):
        exchanged = blocks[list(order)][:, :, list(order)]
        assert torch.allclose(exchanged, blocks) == (order == tuple(range(copies)))


@pytest.mark.parametrize("compensate", [True, False])
def test_a_three_by_three_grid(compensate):
    W = random(2, 2)
    bank = {f"t{i}": W if i == 1 else random(2, 2, seed=10 + i) for i in range(4)}
    spec, layer = Mixture(compensate=compensate), linear(tiled(2, 6), tiled(2, 6), templates=4, own=1, seed=5)
    c = new(spec, 4, 1, 6, layer.generator())
    drawn = iter(scaled(sum(c[b, t] * bank[f"t{t}"] for t in range(4)), W, spec.gain) for b in range(6))
    blocks = [[torch.zeros(2, 2) if i == j else next(drawn) for j in range(3)] for i in range(3)]
    for i in range(3):
        blocks[i][i] = W - sum(blocks[i][j] for j in range(3) if j != i) if compensate else W
    grown = mixed(spec, W, layer, bank.__getitem__)
    torch.testing.assert_close(grown, grid(blocks), rtol=0, atol=TIGHT)
    if compensate:
        assert_same_function(grown, W, tiled(2, 6), tiled(2, 6))


def test_zero_coefficients_leave_two_copies_side_by_side_and_read_nothing():
    W = torch.tensor([[2.0]])
    grown = mixed(Mixture(coefficients="zero"), W, linear(tiled(1, 2), tiled(1, 2), templates=3), must_not_be_read)
    assert grown.tolist() == [[2.0, 0.0], [0.0, 2.0]]


def test_no_gain_leaves_two_copies_side_by_side():
    layer = linear(tiled(1, 2), tiled(1, 2), templates=2)
    grown = mixed(Mixture(gain=0), torch.tensor([[2.0]]), layer, lambda name: torch.ones(1, 1))
    assert grown.tolist() == [[2.0, 0.0], [0.0, 2.0]]


def test_templates_of_zeros_leave_zeros():
    layer = linear(tiled(1, 2), tiled(1, 2), templates=2)
    grown = mixed(Mixture(), torch.tensor([[2.0]]), layer, lambda name: torch.zeros(1, 1))
    assert grown.tolist() == [[2.0, 0.0], [0.0, 2.0]]


def test_copies_as_templates():
    layer = linear(tiled(1, 2), tiled(1, 2), templates=2)
    grown = mixed(
        Mixture(coefficients="copy", gain=0.5), torch.tensor([[2.0]]), layer, {"t0": torch.ones(1, 1)}.__getitem__
    )
    assert grown.tolist() == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize(("k_out", "k_in"), [(1, 2), (2, 1), (2, 4), (4, 2), (3, 2), (2, 3)])
@pytest.mark.parametrize("kernel", [0, 3])
def test_grids_that_are_not_square_keep_the_function(k_out, k_in, kernel):
    rows, columns = tiled(2, 2 * k_out), tiled(3, 3 * k_in)
    W, T = (random(2, 3, *[kernel] * bool(kernel), seed=seed) for seed in (0, 1))
    layer = linear(rows, columns, templates=2, kernel=kernel)
    grown = mixed(Mixture(), W, layer, {"t1": T}.__getitem__)
    assert_same_function(grown, W, rows, columns)
    assert grown.shape == layer.shape


def test_a_tall_grid_repeats_its_diagonal():
    W, T = random(2, 3), random(2, 3, seed=1)
    grown = mixed(Mixture(), W, linear(tiled(2, 8), tiled(3, 6), templates=2), {"t1": T}.__getitem__)
    N = scaled(T, W, Mixture().gain)
    expected = grid([[W - N, N], [-N, W + N], [W + N, -N], [-N, W + N]])
    torch.testing.assert_close(grown, expected, rtol=0, atol=TIGHT)


def test_a_wide_grid_shares_the_weight_between_its_diagonals():
    W, T = random(2, 3), random(2, 3, seed=1)
    grown = mixed(Mixture(), W, linear(tiled(2, 4), tiled(3, 12), templates=2), {"t1": T}.__getitem__)
    N = scaled(T, W, Mixture().gain)
    half = (W - 2 * N) / 2
    torch.testing.assert_close(grown, grid([[half, N, half, N], [-N, W / 2, N, W / 2]]), rtol=0, atol=TIGHT)


@pytest.mark.parametrize("gain", [0.1, 1.0])
def test_the_gain_is_the_size_of_a_new_block_beside_the_weight(gain):
    W = random(4, 4)
    layer = linear(tiled(4, 8), tiled(4, 8), templates=3)
    grown = mixed(Mixture(gain=gain), W, layer, lambda name: random(4, 4, seed=int(name[1:]) + 7))
    assert float(grown[:4, 4:].norm() / W.norm()) == pytest.approx(gain)


def test_vectors_and_readers_alone_are_split_evenly():
    vector = Layer("bias", (axis(tiled(2, 4), summed=False),), 0)
    assert mixed(Mixture(), torch.tensor([1.0, 2.0]), vector, must_not_be_read).tolist() == [1, 2, 1, 2]
    classifier = Layer("head.weight", (AxisMap.unchanged(1), axis(tiled(2, 4), summed=True)), 0)
    assert mixed(Mixture(), torch.tensor([[2.0, 4.0]]), classifier, must_not_be_read).tolist() == [[1, 2, 1, 2]]


@pytest.mark.parametrize("operator", [tile, net2net])
def test_the_equal_split_gives_equal_copies(operator):
    spec = {"tile": Tile, "net2net": Net2Net}[operator.__name__.rsplit(".", 1)[1]](split="equal")
    W = torch.tensor([[3.0, 4.0]])
    assert operator.grow(spec, W, linear(tiled(1, 1), tiled(2, 4))).tolist() == [[1.5, 2, 1.5, 2]]


@pytest.mark.parametrize("gain", [0.1, 1.0])
def test_the_noise_of_a_random_projection_cancels_over_the_copies_and_has_the_gains_size(gain):
    rows, columns = Expansion(40, torch.arange(90) % 40), Expansion(40, torch.cat([torch.arange(40), torch.arange(40)]))
    W, layer = 2 * random(40, 40), linear(rows, columns)
    grown = net2net.grow(Net2Net(split="random_projection", gain=gain), W, layer)
    assert_same_function(grown, W, rows, columns)
    noise = grown - W[rows.index][:, columns.index] / 2
    # of two copies, each keeps half of the difference of two independent draws: standard deviation gain / sqrt(2)
    assert float(noise.std() / W.std(correction=0)) == pytest.approx(gain / 2**0.5, rel=0.05)
    # copies of rows differ as well
    assert not torch.allclose(grown[0], grown[40])


def drawn_by_name(name: str) -> Tensor:
    return random(4, 4, seed=int(name[1:]))


def test_draws_leave_the_global_generator_alone_and_repeat():
    W = random(4, 4)
    layer = linear(tiled(4, 8), tiled(4, 8), templates=3)
    for spec, operator in ((Tile(), tile), (Mixture(coefficients="random"), mixture), (Mixture(), mixture)):
        state = torch.get_rng_state()
        first, second = (
            operator.grow(spec, W, in_bank(W, layer, drawn_by_name)) for _ in "ab"
        )  # fmt: skip
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(first, second)
        elsewhere = linear(tiled(4, 8), tiled(4, 8), templates=3, seed=1)
        other = operator.grow(spec, W, in_bank(W, elsewhere, drawn_by_name))
        assert not torch.equal(first, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "spec", [Tile(), Net2Net(split="random_projection"), Mixture()], ids=lambda spec: spec.operator
)
def test_the_type_of_the_arithmetic_is_that_of_the_weight(spec, dtype):
    W = random(2, 2).to(dtype)
    operator = OPERATORS[spec.operator].implementation()
    kept = W.clone()

    def read(name: str) -> Tensor:
        return torch.ones(2, 2, dtype=dtype)

    layer = linear(tiled(2, 4), tiled(2, 4), templates=2)
    grown = operator.grow(spec, W, in_bank(W, layer, read))
    assert grown.dtype == dtype
    assert torch.equal(W, kept), "the source is not overwritten"


@pytest.mark.parametrize("spec", [Tile(), Net2Net(), Mixture()], ids=lambda spec: spec.operator)
def test_a_tensor_that_no_sum_runs_over_is_copied(spec):
    layer = Layer("x", (axis(tiled(2, 4), summed=False), AxisMap.unchanged(3)), 0)
    W = random(2, 3)
    assert torch.equal(OPERATORS[spec.operator].implementation().grow(spec, W, layer), W.repeat(2, 1))


def test_tiles_take_whole_multiples_alone():
    assert tile.expand(2, 6, torch.Generator()).index.tolist() == [0, 1] * 3
    with pytest.raises(ValueError, match="5 is not a multiple of 2"):
        tile.expand(2, 5, torch.Generator())


def test_mixtures_cut_the_last_copy_short():
    assert mixture.expand(2, 6, torch.Generator()).index.tolist() == [0, 1] * 3
    assert mixture.expand(3, 5, torch.Generator()).index.tolist() == [0, 1, 2, 0, 1]


def test_net2net_takes_any_width():
    assert net2net.expand(2, 5, torch.Generator().manual_seed(0)).index.tolist()[:2] == [0, 1]


@pytest.mark.parametrize(
    ("spec", "lossy"),
    [
        (Tile(), False), (Net2Net(), False), (Mixture(), False), (Mixture(compensate=False), True),
        (Mixture(compensate=False, gain=0), False), (Mixture(compensate=False, coefficients="zero"), False),
        (ZeroOut(), False), (Stack(), True), (Interleave(), True), (CancelOut(), False), (Net2Deeper(), False),
        (Map(map=[0, 0]), True), (Map(map=[0, 0], start="zero_out"), False),
    ],
    ids=str,
)  # fmt: skip
def test_what_an_operator_loses_by_itself(spec, lossy):
    assert bool(spec.loss) == lossy
